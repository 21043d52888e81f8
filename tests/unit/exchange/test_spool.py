from __future__ import annotations

import errno
import json
import os
import shutil
import stat
import threading
import time
from pathlib import Path

import pytest

from exchange.contracts import new_job_id
from exchange.spool import Spool, SpoolError


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return Spool(tmp_path / "spool")


def fill(spool: Spool, job_id: str, images: list[tuple[int, bytes]], classes: list[str]) -> str:
    with spool.create(job_id) as writer:
        for label, data in images:
            writer.add(label, data, ".PNG")
        return writer.close(classes).digest


def test_what_was_written_is_read_back_by_class_and_content(spool: Spool) -> None:
    job_id = new_job_id()
    with spool.create(job_id) as writer:
        writer.add(1, b"dog one", ".jpg")
        writer.add(0, b"cat one", ".png")
        written = writer.close(["cat", "dog"])
    index = spool.read(job_id)
    assert index == written
    assert index.classes == ("cat", "dog")
    assert index.labels == (0, 1)
    assert [file.read_bytes() for file in index.files] == [b"cat one", b"dog one"]
    assert [file.suffix for file in index.files] == [".png", ".jpg"]


def test_the_digest_names_images_labels_and_classes_and_nothing_else(spool: Spool) -> None:
    images = [(0, b"a"), (1, b"b")]
    digest = fill(spool, new_job_id(), images, ["x", "y"])
    assert fill(spool, new_job_id(), images, ["x", "y"]) == digest
    assert fill(spool, new_job_id(), images[::-1], ["x", "y"]) == digest
    assert fill(spool, new_job_id(), [(0, b"a"), (1, b"c")], ["x", "y"]) != digest
    assert fill(spool, new_job_id(), [(0, b"a"), (0, b"b")], ["x", "y"]) != digest
    assert fill(spool, new_job_id(), images, ["x", "z"]) != digest


def test_what_is_held_out_is_read_back_and_part_of_the_digest(spool: Spool) -> None:
    def written(*held_out: bytes) -> tuple[str, str]:
        job_id = new_job_id()
        with spool.create(job_id) as writer:
            for label, data in ((0, b"c"), (1, b"b"), (0, b"a")):
                writer.add(label, data, held_out=data in held_out)
            return job_id, writer.close(["x", "y"]).digest

    job_id, digest = written(b"a", b"b")
    index = spool.read(job_id)
    assert sorted(index.files[position].read_bytes() for position in index.held_out) == [b"a", b"b"]
    assert len({digest, written(b"a")[1], written(b"c", b"b")[1], written()[1]}) == 4


def test_an_index_that_knows_of_no_held_out_images_is_read(spool: Spool) -> None:
    job_id = new_job_id()
    digest = fill(spool, job_id, [(0, b"first"), (1, b"second")], ["cat", "dog"])
    path = spool.folder(job_id) / "index.json"
    path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != "held_out"}))
    index = spool.read(job_id)
    assert (index.digest, index.held_out) == (digest, ())


def test_held_out_positions_that_were_altered_are_refused(spool: Spool) -> None:
    job_id = new_job_id()
    fill(spool, job_id, [(0, b"first"), (1, b"second")], ["cat", "dog"])
    path = spool.folder(job_id) / "index.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "held_out": [1]}))
    with pytest.raises(SpoolError, match="does not match its digest"):
        spool.read(job_id)


@pytest.mark.parametrize("suffix", ["/../../etc/passwd", ".\u00e9", "png", "." + "a" * 9, "..", ".a/b"])
def test_a_suffix_never_becomes_more_than_a_suffix(spool: Spool, suffix: str) -> None:
    job_id = new_job_id()
    with spool.create(job_id) as writer:
        writer.add(0, b"x", suffix)
        (file,) = writer.close(["cat"]).files
    assert file == spool.folder(job_id) / "images" / "0000000"


@pytest.mark.parametrize("job_id", ["", "..", "../" + "a" * 29, "A" * 32, "a" * 31, "a" * 32 + "\n"])
def test_only_job_ids_become_paths(spool: Spool, job_id: str) -> None:
    for use in (spool.folder, spool.create, spool.read, spool.purge):
        with pytest.raises(SpoolError, match="not a job id"):
            use(job_id)


def test_an_unfinished_folder_cannot_be_read_and_disappears(spool: Spool) -> None:
    job_id = new_job_id()
    with spool.create(job_id) as writer:
        writer.add(0, b"x")
        with pytest.raises(SpoolError, match="no longer in the spool"):
            spool.read(job_id)
    assert list(spool.root.iterdir()) == []


def test_nothing_added_and_classes_that_are_not_named_are_refused(spool: Spool) -> None:
    with spool.create(new_job_id()) as writer, pytest.raises(SpoolError, match="no image"):
        writer.close(["cat"])
    with spool.create(new_job_id()) as writer:
        writer.add(1, b"x")
        with pytest.raises(SpoolError, match="outside of the 1 classes"):
            writer.close(["cat"])
    assert list(spool.root.iterdir()) == []


def test_a_job_is_spooled_once(spool: Spool) -> None:
    job_id = new_job_id()
    fill(spool, job_id, [(0, b"x")], ["cat"])
    with pytest.raises(SpoolError, match="already"):
        spool.create(job_id)


def test_an_altered_image_is_named(spool: Spool) -> None:
    job_id = new_job_id()
    fill(spool, job_id, [(0, b"first"), (0, b"second")], ["cat"])
    (spool.folder(job_id) / "images" / "0000001.png").write_bytes(b"secone")
    with pytest.raises(SpoolError, match=r"0000001\.png .* altered"):
        spool.read(job_id)
    assert spool.read(job_id, verify=False).labels == (0, 0)


def test_a_missing_image_is_named(spool: Spool) -> None:
    job_id = new_job_id()
    fill(spool, job_id, [(0, b"first")], ["cat"])
    (spool.folder(job_id) / "images" / "0000000.png").unlink()
    with pytest.raises(SpoolError, match=r"0000000\.png .* missing"):
        spool.read(job_id)


def test_an_altered_or_damaged_index_is_refused(spool: Spool) -> None:
    job_id = new_job_id()
    fill(spool, job_id, [(0, b"first"), (1, b"second")], ["cat", "dog"])
    path = spool.folder(job_id) / "index.json"
    index = json.loads(path.read_text())
    path.write_text(json.dumps({**index, "labels": [1, 0]}))
    with pytest.raises(SpoolError, match="does not match its digest"):
        spool.read(job_id)
    path.write_text("{")
    with pytest.raises(SpoolError, match="not readable"):
        spool.read(job_id)


def test_purge_removes_everything_and_may_be_repeated(spool: Spool) -> None:
    job_id, other = new_job_id(), new_job_id()
    fill(spool, job_id, [(0, b"x")], ["cat"])
    fill(spool, other, [(0, b"x")], ["cat"])
    (spool.folder(job_id) / "pixels.cache").write_bytes(b"cached")
    unfinished = spool.create(new_job_id())
    unfinished.add(0, b"x")
    spool.purge(job_id)
    spool.purge(job_id)
    spool.purge(next(path.stem for path in spool.root.glob("*.part")))
    assert [path.name for path in spool.root.iterdir()] == [other]


def test_folders_are_private(spool: Spool) -> None:
    job_id = new_job_id()
    fill(spool, job_id, [(0, b"x")], ["cat"])
    for folder in (spool.root, spool.folder(job_id)):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_folders_are_listed_with_a_stamp_that_changes_with_every_file(spool: Spool) -> None:
    job_id, uploading = new_job_id(), new_job_id()
    fill(spool, job_id, [(0, b"x")], ["cat"])
    writer = spool.create(uploading)
    (spool.root / "lost+found").mkdir()
    before = spool.folders()
    assert set(before) == {job_id, uploading}
    writer.add(0, b"x")
    after = spool.folders()
    assert after[job_id] == before[job_id]
    assert after[uploading] > before[uploading]


def test_images_can_be_removed_without_the_note(spool: Spool) -> None:
    job_id = new_job_id()
    fill(spool, job_id, [(0, b"x")], ["cat"])
    (spool.folder(job_id) / "job.json").write_text("{}")
    (spool.folder(job_id) / "rows.cache").write_bytes(b"cached")
    spool.purge_images(job_id)
    spool.purge_images(new_job_id())
    assert [path.name for path in spool.folder(job_id).iterdir()] == ["job.json"]


def test_a_removal_that_is_interrupted_leaves_no_job_that_waits(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    job_id = new_job_id()
    fill(spool, job_id, [(0, b"x")], ["cat"])
    (spool.folder(job_id) / "job.json").write_text("{}")

    def interrupted(path: Path, **_: object) -> None:
        raise OSError("interrupted")

    monkeypatch.setattr("exchange.spool.shutil.rmtree", interrupted)
    with pytest.raises(OSError, match="interrupted"):
        spool.purge(job_id)
    assert not (spool.folder(job_id) / "job.json").exists()


@pytest.mark.parametrize(
    "content", ["[]", "{}", '{"classes": 1, "files": [], "labels": [], "checksums": [], "digest": 2}']
)
def test_an_index_of_another_shape_is_refused(spool: Spool, content: str) -> None:
    job_id = new_job_id()
    fill(spool, job_id, [(0, b"first")], ["cat"])
    (spool.folder(job_id) / "index.json").write_text(content)
    with pytest.raises(SpoolError, match="not an index"):
        spool.read(job_id)


def test_what_was_closed_was_synced_to_disk(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    real = os.fsync

    def noting(fd: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{fd}"))
        real(fd)

    monkeypatch.setattr(os, "fsync", noting)
    fill(spool, new_job_id(), [(0, b"x"), (0, b"y")], ["cat"])
    assert {Path(path).name for path in synced[:2]} == {"0000000.png", "0000001.png"}
    assert Path(synced[2]).name == "index.json"
    assert synced[-1] == str(spool.root)


def test_an_image_that_cannot_be_synced_leaves_nothing(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.fsync

    def full(fd: int) -> None:
        if os.readlink(f"/proc/self/fd/{fd}").endswith("0000001.png"):
            raise OSError(errno.ENOSPC, "no space left on device")
        real(fd)

    monkeypatch.setattr(os, "fsync", full)
    job_id, before = new_job_id(), set(os.listdir("/proc/self/fd"))
    with pytest.raises(OSError, match="no space left"):
        fill(spool, job_id, [(0, b"x"), (0, b"y"), (0, b"z")], ["cat"])
    assert list(spool.root.iterdir()) == []
    assert set(os.listdir("/proc/self/fd")) == before


def test_without_a_thread_images_are_synced_all_the_same(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []

    def none_left(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", none_left)
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append(Path(os.readlink(f"/proc/self/fd/{fd}")).name))
    job_id = new_job_id()
    fill(spool, job_id, [(0, b"x"), (0, b"y")], ["cat"])
    assert synced[:2] == ["0000000.png", "0000001.png"]
    assert len(spool.read(job_id).files) == 2


def test_few_files_wait_to_be_synced(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    goes_on, job_id = threading.Event(), new_job_id()
    before = threading.active_count()
    monkeypatch.setattr(os, "fsync", lambda fd: goes_on.wait(60))
    with spool.create(job_id) as writer:
        images = next(spool.root.iterdir()) / "images"

        def add() -> None:
            for number in range(40):
                writer.add(0, bytes([number]))

        adding = threading.Thread(target=add)
        adding.start()
        while len(os.listdir(images)) < 16:
            time.sleep(0.01)
        time.sleep(0.2)
        assert len(os.listdir(images)) == 16
        goes_on.set()
        adding.join(60)
        assert len(writer.close(["cat"]).files) == 40
    assert threading.active_count() == before


def test_a_root_that_is_deleted_while_it_is_used_is_made_again(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "deep" / "spool")
    shutil.rmtree(tmp_path / "deep")
    assert spool.folders() == {}
    shutil.rmtree(tmp_path / "deep")
    with spool.create("a" * 32) as writer:
        writer.add(0, b"image")
        writer.close(["one"])
    assert len(spool.read("a" * 32).files) == 1
