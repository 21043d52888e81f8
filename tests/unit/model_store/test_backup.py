"""Copies of a store: whole, of one moment, brought up to date, and restored."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from model_store import backup
from model_store.backup import BackupError, back_up, back_up_to_tar, restore
from model_store.reader import StoreReader
from model_store.store import Store, bootstrap
from model_store.types import Provenance, StoreError, StoreFullError, VersionId
from tests.contract.states import learned
from tests.contract.test_store_full_disk import FullDisk

NOBODY = Provenance(libraries={})
Copy = Callable[[Path, Path], backup.Copied]


def grow(store: Store, length: int) -> list[VersionId]:
    chain = []
    for _ in range(length):
        parent = store.current()
        version = store.publish(learned(len(store.journal())), parent=parent, provenance=NOBODY).version_id
        store.promote(version, expected=parent, who="worker")
        chain.append(version)
    return chain


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = Store(tmp_path / "store")
    grow(made, 3)
    made.change_gate({"min_accuracy": 0.5}, who="ada")
    (made.root / "keys-required").touch()
    (made.root / "evaluations" / "a").mkdir(parents=True)
    (made.root / "evaluations" / "a" / "b.json").write_text("{}")
    (made.root / "test-sets" / "pets").mkdir(parents=True)
    (made.root / "test-sets" / "pets" / "000000.png").write_bytes(b"somebody's photo")
    (made.root / "tmp" / "half").write_bytes(b"x")
    return made


def content(root: Path) -> dict[str, bytes]:
    """Every file of a store that a copy must have."""
    files = {path.relative_to(root).as_posix(): path for path in root.rglob("*") if path.is_file()}
    kept = {name for name in files if not name.startswith(("tmp/", "test-sets/")) and not name.endswith(".lock")}
    return {name: files[name].read_bytes() for name in kept}


def test_a_copy_has_every_file_but_images_and_what_is_being_written(store: Store, tmp_path: Path) -> None:
    done = back_up(store.root, tmp_path / "copy")
    assert content(tmp_path / "copy") == content(store.root)
    beside = {"CURRENT", "journal.jsonl", "gate.json", "keys-required", "evaluations/a/b.json"}
    assert beside <= content(store.root).keys()
    assert not (tmp_path / "copy" / "test-sets").exists()
    assert [*(tmp_path / "copy" / "tmp").iterdir()] == []
    assert done.current == store.current()
    assert (done.written, done.kept) == ([manifest.version_id for manifest in store.list()], [])
    copy = Store(tmp_path / "copy")
    assert copy.identity() == store.identity()
    assert copy.gate().policy.min_accuracy == 0.5


def test_a_copy_is_brought_up_to_date_with_what_is_new_and_without_what_was_pruned(
    store: Store, tmp_path: Path
) -> None:
    old = [manifest.version_id for manifest in store.list()]
    back_up(store.root, tmp_path / "copy")
    new = grow(store, 2)
    assert [*store.prune(2).removed] == old[:2]
    (store.root / "evaluations" / "a" / "b.json").unlink()
    done = back_up(store.root, tmp_path / "copy")
    assert (done.written, done.removed) == (new, old[:2])
    assert done.kept == [old[2]]
    assert content(tmp_path / "copy") == content(store.root)
    again = back_up(store.root, tmp_path / "copy")
    assert (again.written, again.removed, again.bytes) == ([], [], 0)
    assert again.kept == [manifest.version_id for manifest in store.list()]


def test_a_damaged_copy_is_mended_and_a_damaged_version_does_not_replace_an_intact_copy(
    store: Store, tmp_path: Path
) -> None:
    one, two, three = (manifest.version_id for manifest in store.list())
    back_up(store.root, tmp_path / "copy")
    good = content(tmp_path / "copy")
    for root, version in ((tmp_path / "copy", one), (store.root, two)):
        path = root / "versions" / version / "tensors.safetensors"
        path.write_bytes(path.read_bytes()[:-1] + b"\x7f")
    done = back_up(store.root, tmp_path / "copy")
    assert (done.written, done.kept, done.damaged) == ([one], [two, three], {})
    assert content(tmp_path / "copy") == good


def test_a_damaged_version_is_left_out_and_reported(store: Store, tmp_path: Path) -> None:
    first = store.list()[0].version_id
    path = store.root / "versions" / first / "tensors.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x7f")
    for target, copy in ((tmp_path / "copy", back_up), (tmp_path / "copy.tar", back_up_to_tar)):
        done = copy(store.root, target)
        assert list(done.damaged) == [first]
        assert "tensors.safetensors: its SHA-256" in done.damaged[first]
        assert len(done.written) == 2


@pytest.mark.parametrize("name", ["copy", "copy.tar"])
def test_a_restored_store_is_the_one_that_was_copied_and_goes_on(store: Store, tmp_path: Path, name: str) -> None:
    (back_up_to_tar if name.endswith(".tar") else back_up)(store.root, tmp_path / name)
    before = content(store.root)
    shutil.rmtree(store.root)
    done = restore(tmp_path / name, store.root)
    assert content(store.root) == before
    assert (done.current, len(done.written)) == (store.current(), 3)
    fresh = grow(Store(store.root), 1)
    assert store.rollback(None, who="ada", reason="r") != fresh[0]
    with pytest.raises(BackupError, match="has a store already"):
        restore(tmp_path / name, store.root)


def test_a_version_that_is_pruned_while_it_is_copied_leads_to_a_later_moment(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grow(store, 2)
    read = StoreReader.files_of
    pruned: list[VersionId] = []

    def prune_first(reader: StoreReader, version: VersionId) -> object:
        if not pruned and version == store.list()[1].version_id:
            pruned.extend(store.prune(1).removed)
        return read(reader, version)

    for target, copy in ((tmp_path / "copy", back_up), (tmp_path / "copy.tar", back_up_to_tar)):
        pruned.clear()
        grow(store, 4)
        with monkeypatch.context() as patch:
            patch.setattr(StoreReader, "files_of", prune_first)
            copy(store.root, target)
        assert pruned
        restore(target, tmp_path / f"{target.name}-restored")
        assert content(tmp_path / f"{target.name}-restored") == content(store.root)


def test_a_store_that_changes_while_it_is_copied_gives_one_moment(store: Store, tmp_path: Path) -> None:
    before = content(store.root)

    def publish(done: int, of: int) -> None:
        grow(store, 1)

    back_up(store.root, tmp_path / "copy", on_version=publish)
    assert content(tmp_path / "copy") == before
    assert len(store.list()) == 6


def test_a_folder_with_something_else_is_refused(store: Store, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").touch()
    with pytest.raises(BackupError, match="something else in it"):
        back_up(store.root, tmp_path / "photos")
    for inside in (store.root, store.root / "backup"):
        with pytest.raises(BackupError, match="lies in the store itself"):
            back_up(store.root, inside)
    other = Store(tmp_path / "other")
    bootstrap(other, learned(7), provenance=NOBODY)
    grow(other, 1)
    with pytest.raises(BackupError, match="a history of its own"):
        back_up(store.root, other.root)
    (other.root / "journal.jsonl").unlink()
    with pytest.raises(BackupError, match="a history of its own"):
        back_up(store.root, other.root)
    assert len(other.list()) == 2
    with pytest.raises(BackupError, match="is not a store"):
        back_up(tmp_path / "nothing", tmp_path / "copy")


def test_a_later_copy_is_not_replaced_by_an_earlier_store(store: Store, tmp_path: Path) -> None:
    back_up(store.root, tmp_path / "early")
    grow(store, 1)
    back_up(store.root, tmp_path / "late")
    shutil.rmtree(store.root)
    restore(tmp_path / "early", store.root)
    with pytest.raises(BackupError, match="a history of its own"):
        back_up(store.root, tmp_path / "late")


def test_what_is_no_backup_is_not_restored(store: Store, tmp_path: Path) -> None:
    back_up(store.root, tmp_path / "copy")
    (tmp_path / "copy" / "CURRENT").unlink()
    with pytest.raises(BackupError, match="not a complete backup"):
        restore(tmp_path / "copy", tmp_path / "new")
    (tmp_path / "text.tar").write_text("hello")
    for missing in ("text.tar", "nothing.tar", "nothing"):
        with pytest.raises(BackupError, match="cannot be read"):
            restore(tmp_path / missing, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_tar_file_writes_nothing_outside_the_store(store: Store, tmp_path: Path) -> None:
    back_up_to_tar(store.root, tmp_path / "copy.tar")
    with tarfile.open(tmp_path / "copy.tar", "a") as tar:
        for name in ("../escaped", "/tmp/escaped-from-a-tar", "a/../../escaped", "versions/../../escaped"):
            entry = tarfile.TarInfo(name)
            tar.addfile(entry)
        link = tarfile.TarInfo("link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    restore(tmp_path / "copy.tar", tmp_path / "new")
    assert content(tmp_path / "new") == content(store.root)
    assert not (tmp_path / "escaped").exists()
    assert not Path("/tmp/escaped-from-a-tar").exists()


def test_a_cut_off_or_altered_tar_file_is_noticed(store: Store, tmp_path: Path) -> None:
    back_up_to_tar(store.root, tmp_path / "copy.tar")
    data = (tmp_path / "copy.tar").read_bytes()
    (tmp_path / "cut.tar").write_bytes(data[: len(data) // 3])
    with pytest.raises(BackupError):
        restore(tmp_path / "cut.tar", tmp_path / "cut")
    ones = torch.ones(4).numpy().tobytes()
    (tmp_path / "altered.tar").write_bytes(data.replace(ones, torch.full((4,), 2.0).numpy().tobytes(), 1))
    assert len(restore(tmp_path / "altered.tar", tmp_path / "altered").damaged) == 1


def test_a_full_disk_leaves_the_earlier_copy(store: Store, tmp_path: Path) -> None:
    back_up(store.root, tmp_path / "copy")
    before = content(tmp_path / "copy")
    grow(store, 1)
    with pytest.raises(StoreFullError):
        back_up(store.root, tmp_path / "copy", disk=FullDisk(4, errno.ENOSPC))
    assert content(tmp_path / "copy") == before
    back_up(store.root, tmp_path / "copy")
    assert content(tmp_path / "copy") == content(store.root)


def run(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-m", "model_store", *words]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, "TERM": "dumb"}, check=False)


@pytest.mark.slow
def test_the_program_copies_and_says_what_it_did(store: Store, tmp_path: Path) -> None:
    done = run("backup", "--json", "--", str(store.root), str(tmp_path / "copy.tar"))
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert (said["current"], len(said["written"])) == (store.current(), 3)
    assert (tmp_path / "copy.tar").stat().st_mode & 0o077 == 0
    text = run("restore", "--", str(tmp_path / "copy.tar"), str(tmp_path / "new"))
    assert "has 3 verified versions, 3 of them new" in text.stdout
    refused = run("restore", "--", str(tmp_path / "copy.tar"), str(tmp_path / "new"))
    assert (refused.returncode, refused.stderr.startswith("keepsight: ")) == (1, True)
    path = next((store.root / "versions").glob("*/manifest.json"))
    path.write_bytes(b"{}")
    damaged = run("backup", "--", str(store.root), str(tmp_path / "copy"))
    assert damaged.returncode == 1
    assert "is damaged and was left out: manifest.json" in damaged.stderr


def test_errors_are_the_stores() -> None:
    assert issubclass(BackupError, StoreError)
