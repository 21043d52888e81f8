from __future__ import annotations

import errno
import gzip
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from app.errors import ArchiveTooLargeError, TaskRefusedError
from app.intake.limits import IntakeLimits
from app.intake.take_in import Taken, take_in, take_in_test_set
from app.settings import GIB, Settings
from exchange.contracts import new_job_id
from exchange.spool import Spool, SpoolWriter
from segp_cl.data.decoding import check_image

Make = Callable[[Mapping[str, bytes]], bytes]
Png = Callable[[int], bytes]


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return Spool(tmp_path / "spool")


def take(
    data: bytes, spool: Spool, limits: IntakeLimits, check: Callable[[Sequence[str]], None] = lambda names: None
) -> tuple[str, Taken]:
    job_id = new_job_id()
    with spool.create(job_id) as writer:
        return job_id, take_in(io.BytesIO(data), len(data), writer, limits=limits, check_names=check)


def test_good_images_are_spooled_as_they_came(spool: Spool, limits: IntakeLimits, make_zip: Make, png: Png) -> None:
    members = {"cat/1.png": png(1), "dog/1.png": png(2), "cat/2.png": png(3)}
    job_id, taken = take(make_zip(members), spool, limits)
    assert taken.classes == (("cat", 2), ("dog", 1))
    assert taken.report.accepted == 3
    index = spool.read(job_id)
    assert index.classes == ("cat", "dog")
    spooled = {(index.classes[label], path.read_bytes()) for label, path in zip(index.labels, index.files, strict=True)}
    assert spooled == {(path.split("/")[0], data) for path, data in members.items()}


def test_rejects_are_listed_with_reasons_and_the_rest_is_taken(
    spool: Spool, limits: IntakeLimits, make_zip: Make, make_tar: Make, png: Png
) -> None:
    jpeg = io.BytesIO()
    Image.effect_noise((64, 64), 90).convert("RGB").save(jpeg, "JPEG")
    bomb = io.BytesIO()
    Image.new("1", (2000, 2000)).save(bomb, "PNG")
    _, taken = take(
        make_zip(
            {
                "cat/good.png": png(1),
                "cat/text.png": b"hello, this is text",
                "cat/cut.jpg": jpeg.getvalue()[: len(jpeg.getvalue()) // 2],
                "cat/empty.png": b"",
                "cat/more.zip": make_zip({"cat/2.png": png(2)}),
                "cat/more.tar": make_tar({"cat/2.png": png(2)}),
                "cat/more.tgz": gzip.compress(b"x"),
                "cat/bomb.png": bomb.getvalue(),
                "notes.txt": b"x",
                "cat/.hidden.png": png(5),
                "dog/": b"",
            }
        ),
        spool,
        limits,
    )
    reasons = {rejected.path: rejected.reason for rejected in taken.report.rejected}
    assert taken.report.classes == {"cat": 1}
    assert taken.report.rejected_count == len(reasons) == 8
    assert all("archive inside" in reasons[f"cat/more.{kind}"] for kind in ("zip", "tar", "tgz"))
    assert reasons["cat/empty.png"] == "an empty file"
    assert "1000000" in reasons["cat/bomb.png"].replace(",", "")
    told = {row.path: row.reason for row in taken.report.passed_over}
    assert told == {"cat/.hidden.png": "hidden", "dog": "an empty folder"}
    assert taken.report.passed_over_count == 2


def test_a_class_left_without_images_refuses_the_task_naming_it(
    spool: Spool, limits: IntakeLimits, make_zip: Make, png: Png
) -> None:
    with pytest.raises(TaskRefusedError, match="'dog'") as caught:
        take(make_zip({"cat/1.png": png(1), "dog/1.png": b"text"}), spool, limits)
    assert caught.value.extensions["validation"]["classes"] == {"cat": 1, "dog": 0}
    assert caught.value.extensions["validation"]["rejected"][0]["path"] == "dog/1.png"
    assert list(spool.root.iterdir()) == []


@pytest.mark.parametrize("members", [{}, {"cat/": b""}, {"cat/1.png": b"text"}, {".hidden/1.png": b"x"}])
def test_no_image_at_all_is_refused(
    spool: Spool, limits: IntakeLimits, make_zip: Make, members: Mapping[str, bytes]
) -> None:
    with pytest.raises(TaskRefusedError, match="no usable image"):
        take(make_zip(members), spool, limits)


def test_the_dataset_digest_is_the_spool_s_and_depends_on_classes_not_on_a_zip_s_order(
    spool: Spool, limits: IntakeLimits, make_zip: Make, png: Png
) -> None:
    members = {"cat/1.png": png(1), "cat/2.png": png(2), "dog/1.png": png(3)}
    backwards = dict(reversed(members.items()))
    swapped = {"dog/1.png": png(1), "cat/2.png": png(2), "cat/1.png": png(3)}
    taken = [take(make_zip(m), spool, limits) for m in (members, backwards, swapped)]
    assert all(result.dataset_digest == spool.read(job_id).digest for job_id, result in taken)
    digests = [result.dataset_digest for _, result in taken]
    assert digests[0] == digests[1] != digests[2]


def test_repeated_images_are_kept_and_counted(spool: Spool, limits: IntakeLimits, make_zip: Make, png: Png) -> None:
    _, taken = take(make_zip({"cat/1.png": png(1), "cat/2.png": png(1), "dog/1.png": png(1)}), spool, limits)
    assert taken.report.accepted == 3
    assert taken.repeated == 1


def test_a_picture_in_two_classes_is_told_with_both(
    spool: Spool, limits: IntakeLimits, make_zip: Make, png: Png
) -> None:
    _, taken = take(make_zip({"cat/1.png": png(1), "cat/2.png": png(2), "dog/3.png": png(1)}), spool, limits)
    (row,) = taken.report.repeated
    assert (row.path, row.label, row.first_path, row.first_label) == ("dog/3.png", "dog", "cat/1.png", "cat")
    assert taken.report.repeated_count == 1
    assert taken.report.classes == {"cat": 2, "dog": 1}


def test_a_picture_on_both_sides_of_a_split_is_told(
    spool: Spool, limits: IntakeLimits, make_zip: Make, png: Png
) -> None:
    _, taken = take(make_zip({"train/cat/1.png": png(1), "val/cat/2.png": png(1)}), spool, limits)
    assert [(row.path, row.first_path) for row in taken.report.repeated] == [("val/cat/2.png", "train/cat/1.png")]


def test_the_images_of_a_val_split_are_spooled_as_held_out(
    spool: Spool, limits: IntakeLimits, make_zip: Make, png: Png
) -> None:
    members = {"train/cat/1.png": png(1), "val/cat/2.png": png(2), "train/dog/3.png": png(3), "test/dog/4.png": png(4)}
    job_id, taken = take(make_zip(members), spool, limits)
    assert taken.classes == (("cat", 2), ("dog", 1))
    assert taken.report.held_out == {"cat": 1}
    index = spool.read(job_id)
    assert [index.files[i].read_bytes() for i in index.held_out] == [png(2)]
    assert [(row.path, row.entries) for row in taken.report.passed_over] == [("test", 1)]


@pytest.mark.parametrize(
    ("members", "said"),
    [
        (
            {"train/cat/1.png": 1, "val/cat/2.png": 2, "val/dog/3.png": 3},
            "in the val split and not in the train split: 'd",
        ),
        ({"train/cat/1.png": 1, "train/dog/2.png": None, "val/dog/3.png": 3}, "no usable image to learn from: 'dog'"),
    ],
)
def test_a_class_with_nothing_to_learn_from_refuses_the_task(
    spool: Spool, limits: IntakeLimits, make_zip: Make, png: Png, members: Mapping[str, int | None], said: str
) -> None:
    with pytest.raises(TaskRefusedError, match=said):
        take(make_zip({path: b"text" if n is None else png(n) for path, n in members.items()}), spool, limits)
    assert list(spool.root.iterdir()) == []


def test_names_that_look_the_same_are_one_class_and_the_change_is_told(
    spool: Spool, limits: IntakeLimits, make_zip: Make, png: Png
) -> None:
    _, taken = take(make_zip({"cat/1.png": png(1), "c\u200bat /2.png": png(2)}), spool, limits)
    assert taken.report.classes == {"cat": 2}
    assert [(row.typed, row.taught) for row in taken.report.renamed] == [("c\u200bat ", "cat")]


def test_names_are_checked_before_any_image_is_spooled(
    spool: Spool, limits: IntakeLimits, make_zip: Make, png: Png
) -> None:
    seen: list[str] = []

    def check(names: Sequence[str]) -> None:
        seen.extend(names)
        raise TaskRefusedError("stop")

    with pytest.raises(TaskRefusedError, match="stop"):
        take(make_zip({" cat/1.png": png(1)}), spool, limits, check)
    assert seen == ["cat"]
    with pytest.raises(ArchiveTooLargeError, match="2 classes; at most 1"):
        take(make_zip({"a/1.png": png(1), "b/1.png": png(1)}), spool, replace(limits, max_classes=1))


class FullDisk(SpoolWriter):
    """A spool whose disk is full after the first image."""

    def add(self, class_index: int, data: bytes, suffix: str = "", *, held_out: bool = False, path: str = "") -> None:
        if self._files:
            raise OSError(errno.ENOSPC, "No space left on device")
        super().add(class_index, data, suffix, held_out=held_out, path=path)


def test_a_full_disk_leaves_nothing(tmp_path: Path, limits: IntakeLimits, make_zip: Make, png: Png) -> None:
    data = make_zip({"cat/1.png": png(1), "cat/2.png": png(2)})
    with pytest.raises(OSError, match="No space left"), FullDisk(tmp_path / new_job_id()) as writer:
        take_in(io.BytesIO(data), len(data), writer, limits=limits, check_names=lambda names: None)
    assert list(tmp_path.iterdir()) == []


def webp(side: int) -> bytes:
    """A flat picture of side x side pixels in some 50 to 100 bytes."""
    buffer = io.BytesIO()
    Image.new("L", (side, side)).convert("RGB").save(buffer, "WEBP", lossless=True)
    return buffer.getvalue()


def test_the_images_of_an_upload_have_a_budget_of_pixels(
    spool: Spool, limits: IntakeLimits, make_zip: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded = list[int]()

    def counted(data: bytes, *, max_pixels: int) -> None:
        decoded.append(len(data))
        check_image(data, max_pixels=max_pixels)

    monkeypatch.setattr("app.intake.take_in.check_image", counted)
    data = make_zip({f"cat/{number}.webp": webp(900) for number in range(13)})
    assert len(data) < 5000
    with pytest.raises(ArchiveTooLargeError, match="more than 4000000 pixels together"):
        take(data, spool, replace(limits, max_upload_pixels=4_000_000))
    assert len(decoded) == 4  # the fifth is counted by its header, and not decoded
    assert list(spool.root.iterdir()) == []


def test_large_uploads_may_have_pixels_in_proportion_to_their_bytes(
    spool: Spool, limits: IntakeLimits, make_zip: Make
) -> None:
    noise = io.BytesIO()
    Image.effect_noise((300, 300), 90).convert("RGB").save(noise, "JPEG", quality=20)
    data = make_zip({f"cat/{number}.jpg": noise.getvalue() for number in range(20)})
    _, taken = take(data, spool, replace(limits, max_upload_pixels=1))
    assert taken.report.accepted == 20


def test_images_that_are_too_large_by_themselves_take_nothing_of_the_budget(
    spool: Spool, limits: IntakeLimits, make_zip: Make, png: Png
) -> None:
    data = make_zip({**{f"cat/{number}.webp": webp(1100) for number in range(9)}, "cat/good.png": png(1)})
    _, taken = take(data, spool, replace(limits, max_upload_pixels=500_000))
    assert (taken.report.accepted, taken.report.rejected_count) == (1, 9)


def test_damaged_images_take_of_the_budget_what_their_headers_say(
    spool: Spool, limits: IntakeLimits, make_zip: Make
) -> None:
    buffer = io.BytesIO()
    Image.effect_noise((900, 900), 90).save(buffer, "PNG")
    data = make_zip({f"cat/{number}.png": buffer.getvalue()[:100] for number in range(13)})
    with pytest.raises(ArchiveTooLargeError, match="pixels together"):
        take(data, spool, replace(limits, max_upload_pixels=4_000_000))


def test_the_default_budget_is_below_a_dozen_of_the_largest_images() -> None:
    limits = IntakeLimits.of(Settings())
    assert limits.pixel_budget(13 * 200) < 13 * limits.max_image_pixels
    assert limits.pixel_budget(2 * GIB) > 2 * GIB * 20  # photos have no more than 20 pixels in a byte


@pytest.mark.parametrize("after", [0, 1, 3, 10])
def test_an_upload_that_is_no_longer_wanted_ends_and_leaves_nothing(
    spool: Spool, limits: IntakeLimits, make_zip: Make, png: Png, after: int
) -> None:
    class UnwantedError(Exception):
        pass

    asked = 0

    def check() -> None:
        nonlocal asked
        asked += 1
        if asked > after:
            raise UnwantedError

    data = make_zip({f"cat/{number}.png": png(number) for number in range(50)})
    with pytest.raises(UnwantedError), spool.create(new_job_id()) as writer:
        take_in(io.BytesIO(data), len(data), writer, limits=limits, check_names=lambda names: None, check=check)
    assert asked == after + 1
    assert list(spool.root.iterdir()) == []


SPLIT = ("train/cat/1.png", "train/owl/2.png", "val/cat/3.png", "test/cat/4.png", "test/yak/5.png", "test/cat/torn.png")


def test_a_test_split_goes_into_a_folder_of_its_own(
    spool: Spool, limits: IntakeLimits, make_zip: Make, png: Png
) -> None:
    members = {path: b"torn" if "torn" in path else png(number) for number, path in enumerate(SPLIT)}
    data = make_zip(members)
    asked: list[Sequence[str]] = []
    task, aside = new_job_id(), new_job_id()
    with spool.create(task) as writer, spool.create(aside) as test_writer:
        taken = take_in(
            io.BytesIO(data), len(data), writer, limits=limits, check_names=asked.append, test_writer=test_writer
        )
    assert asked == [["cat", "owl"]], "labels of the test set may be classes that are never taught"
    assert (taken.report.classes, taken.report.held_out, taken.report.test_set) == (
        {"cat": 2, "owl": 1},
        {"cat": 1},
        {"cat": 1, "yak": 1},
    )
    assert [rejected.path for rejected in taken.report.rejected] == ["test/cat/torn.png"]
    learned, tested = spool.read(task), spool.read(aside)
    assert taken.test_set == tested
    assert (learned.classes, len(learned.files)) == (("cat", "owl"), 3)
    assert {path.read_bytes() for path in tested.files} == {members["test/cat/4.png"], members["test/yak/5.png"]}


def test_a_picture_on_both_sides_of_the_test_split_is_told(
    spool: Spool, limits: IntakeLimits, make_zip: Make, png: Png
) -> None:
    data = make_zip({"train/cat/1.png": png(1), "train/cat/2.png": png(2), "test/cat/3.png": png(1)})
    with spool.create(new_job_id()) as writer, spool.create(new_job_id()) as test_writer:
        taken = take_in(
            io.BytesIO(data),
            len(data),
            writer,
            limits=limits,
            check_names=lambda names: None,
            test_writer=test_writer,
        )
    assert {taken.report.repeated[0].path, taken.report.repeated[0].first_path} == {"train/cat/1.png", "test/cat/3.png"}


def test_a_val_split_becomes_the_test_set_where_there_is_no_test_split_and_stays_held_out(
    spool: Spool, limits: IntakeLimits, make_zip: Make, png: Png
) -> None:
    data = make_zip({"train/cat/1.png": png(1), "train/cat/2.png": png(2), "val/cat/3.png": png(3)})
    with spool.create(new_job_id()) as test_writer, spool.create(new_job_id()) as writer:
        taken = take_in(
            io.BytesIO(data),
            len(data),
            writer,
            limits=limits,
            check_names=lambda names: None,
            test_writer=test_writer,
        )
    assert taken.test_set is not None
    assert (taken.test_split, taken.test_set.classes, len(taken.test_set.files)) == ("val", ("cat",), 1)
    assert (taken.report.classes, taken.report.held_out, taken.report.test_set) == ({"cat": 3}, {"cat": 1}, {"cat": 1})
    assert taken.report.notes[-1] == "there is no test split, so the val split is kept as the test set too"


def take_set(data: bytes, spool: Spool, limits: IntakeLimits, *, most: int = 100) -> Taken:
    with spool.create(new_job_id()) as writer:
        return take_in_test_set(
            io.BytesIO(data), len(data), writer, limits=limits, max_images=most, check_names=lambda names: None
        )


def test_a_test_set_is_the_test_split_or_the_val_split_or_all_of_an_archive_without_splits(
    spool: Spool, limits: IntakeLimits, make_zip: Make, png: Png
) -> None:
    members = {path: b"torn" if "torn" in path else png(number) for number, path in enumerate(SPLIT)}
    taken = take_set(make_zip(members), spool, limits)
    assert taken.report.classes == {"cat": 1, "yak": 1}
    assert taken.report.notes[-1] == "the test split is the test set; 3 images of other splits are not kept"
    assert taken.report.rejected_count == 1
    plain = take_set(make_zip({"cat/1.png": png(1), "yak/2.png": png(2)}), spool, limits)
    assert plain.report.classes == {"cat": 1, "yak": 1}
    of_val = take_set(make_zip({"train/cat/1.png": png(1), "val/cat/2.png": png(2)}), spool, limits)
    assert (of_val.report.classes, of_val.report.held_out, of_val.test_split) == ({"cat": 1}, {}, "val")
    assert of_val.report.notes[-1] == "the val split is the test set; 1 images of other splits are not kept"
    with pytest.raises(TaskRefusedError, match="no usable image"):
        take_set(make_zip({"cat/1.png": b"torn"}), spool, limits)
    with pytest.raises(ArchiveTooLargeError, match="more than 1 images"):
        take_set(make_zip({"cat/1.png": png(1), "yak/2.png": png(2)}), spool, limits, most=1)
