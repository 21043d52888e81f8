"""Turns the bytes of an upload, in any known format, into a validated task in the spool."""

from __future__ import annotations

import bz2
import contextlib
import tarfile
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import BinaryIO, Literal

from app.errors import ArchiveError, ArchiveTooLargeError, TaskRefusedError, UnknownArchiveError
from app.intake import unpack
from app.intake.archives import TarSource, ZipSource
from app.intake.limits import IntakeLimits, PixelMeter, always_wanted
from app.intake.names import clean_names
from app.intake.parquet import ParquetSource
from app.intake.source import Item, Source
from app.intake.tally import Tally
from exchange.contracts import ValidationReport
from exchange.spool import SpoolIndex, SpoolWriter
from segp_cl.data.decoding import check_image, plan_decoding
from segp_cl.errors import ImageDecodeError

_COMPRESSED: tuple[tuple[bytes, unpack.Make], ...] = (
    (b"\x1f\x8b", unpack.gunzip),
    (b"BZh", bz2.BZ2Decompressor),
    (b"\xfd7zXZ\x00", unpack.unxz),
    (b"\x28\xb5\x2f\xfd", unpack.unzstd),
)
_UNREAD = ((b"7z\xbc\xaf'\x1c", "7z"), (b"Rar!", "rar"))
_NESTED = (b"PK\x03\x04", b"PK\x05\x06", b"PAR1", *(magic for magic, _ in (*_COMPRESSED, *_UNREAD)))


@dataclass(frozen=True)
class Taken:
    """A validated task in the spool: its classes with their numbers of images, and what was left out.

    `dataset_digest` is the spool's digest, which the worker compares before it learns. `repeated` counts the images
    that equal an earlier one of their class byte for byte; they are kept. `test_set` has the images of the test set,
    which is the split `test_split` of the upload.
    """

    classes: tuple[tuple[str, int], ...]
    report: ValidationReport
    dataset_digest: str
    repeated: int
    test_set: SpoolIndex | None = None
    test_split: Literal["test", "val"] | None = None


def open_source(
    file: BinaryIO,
    archive_bytes: int,
    limits: IntakeLimits,
    check: Callable[[], None] = always_wanted,
    *,
    encoding: str | None = None,
    with_test: bool = False,
) -> Source:
    """Recognise an upload by its content, never by its name, and read its structure.

    `encoding` is that of the names in an archive which does not say it itself. With `with_test`, the test split of an
    archive is read too.

    Raises:
        UnknownArchiveError: it is not zip, tar, compressed tar or parquet.
        ArchiveError: it is refused; the message says why.
    """
    file.seek(0)
    head = file.read(tarfile.BLOCKSIZE)
    if head.startswith(b"PK\x07\x08") and not zipfile.is_zipfile(file):
        raise ArchiveError("the upload is one part of a split zip archive; join the parts first")
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08")):
        return ZipSource(file, archive_bytes, limits, check, encoding=encoding, with_test=with_test)
    if head.startswith(b"PAR1"):
        return ParquetSource(file, archive_bytes, limits, check)
    for magic, make in _COMPRESSED:
        if head.startswith(magic):
            return TarSource(file, archive_bytes, limits, check, make=make, encoding=encoding, with_test=with_test)
    if _is_tar(head):
        return TarSource(file, archive_bytes, limits, check, make=None, encoding=encoding, with_test=with_test)
    if zipfile.is_zipfile(file):  # with something before it, as archives have that unpack themselves
        return ZipSource(file, archive_bytes, limits, check, encoding=encoding, with_test=with_test)
    what = next((f"a {name} archive" for magic, name in _UNREAD if head.startswith(magic)), "unknown")
    raise UnknownArchiveError(f"the upload's format is {what}; expected zip, tar, tar.gz or parquet")


def take_in(
    file: BinaryIO,
    archive_bytes: int,
    writer: SpoolWriter,
    *,
    limits: IntakeLimits,
    check_names: Callable[[Sequence[str]], None],
    check: Callable[[], None] = always_wanted,
    encoding: str | None = None,
    test_writer: SpoolWriter | None = None,
) -> Taken:
    """Validate every image of an upload by decoding it, and spool the original bytes of the valid ones.

    `check_names` gets the cleaned class names before any image is read, and raises to refuse them. `check` is called
    between pieces and images, and raises when the upload is no longer wanted. The writer is closed on success only, so
    leaving its `with` block removes a refused upload. With `test_writer`, the images of a test split are written there
    and are no part of the task; without, they are passed over. Where there is no test split, those of a val split are
    written there too, and are held out from the task as ever.

    Raises:
        ArchiveError: the upload as a whole is refused.
        ArchiveTooLargeError: its images have more pixels together than allowed.
        TaskRefusedError: a class name is invalid, a class has no valid image to learn from, or there is neither a test
            nor a val split and a test set was asked for; carries the report.
        OSError: there is no room for it.
    """
    with_test = test_writer is not None
    opened = open_source(file, archive_bytes, limits, check, encoding=encoding, with_test=with_test)
    with contextlib.closing(opened) as source:
        _check_classes(source.labels, limits)
        names = clean_names([*source.labels, *source.held_out_labels, *source.test_labels])
        learned = list(dict.fromkeys(names[label] for label in source.labels))
        _check_held_out_are_learned(learned, [names[label] for label in source.held_out_labels])
        of_val = with_test and not source.test_labels
        tested = list(dict.fromkeys(names[label] for label in source.test_labels or source.held_out_labels))
        check_names(learned)
        tally = Tally(names, learned)
        order = {name: index for index, name in enumerate(learned)}
        test_order = {name: index for index, name in enumerate(tested)}
        for item, data, name in _images(source.items(), PixelMeter(archive_bytes, limits), names, limits, tally, check):
            suffix = PurePosixPath(item.where).suffix
            if item.test and test_writer is not None:
                test_writer.add(test_order[name], data, suffix)
            else:
                if test_writer is not None and of_val and item.held_out:
                    test_writer.add(test_order[name], data, suffix)
                writer.add(order[name], data, suffix, held_out=item.held_out, path=item.where)
        report = tally.report(source)
        _check_nothing_empty(report)
        if of_val and report.held_out:
            note = "there is no test split, so the val split is kept as the test set too"
            report = report.model_copy(update={"test_set": report.held_out, "notes": (*report.notes, note)})
        if with_test and not report.test_set:
            why = "the upload has no usable image in a test split or a val split, so there is nothing to keep"
            raise TaskRefusedError(why, extensions={"validation": report.model_dump(mode="json")})
        check()
        test_set = None if test_writer is None else test_writer.close(tested)
        index = writer.close(learned)
    return Taken(
        classes=tuple(report.classes.items()),
        report=report,
        dataset_digest=index.digest,
        repeated=tally.repeated_within,
        test_set=test_set,
        test_split=None if test_set is None else "val" if of_val else "test",
    )


def take_in_test_set(
    file: BinaryIO,
    archive_bytes: int,
    writer: SpoolWriter,
    *,
    limits: IntakeLimits,
    max_images: int,
    check_names: Callable[[Sequence[str]], None],
    check: Callable[[], None] = always_wanted,
    encoding: str | None = None,
) -> Taken:
    """Validate the images of a test set as those of a task are, and spool them.

    They are those of the archive's test split, if it has one; else those of its val split; else all.

    Raises:
        ArchiveError: the upload as a whole is refused.
        ArchiveTooLargeError: it has more images than a test set may have, or more pixels together than allowed.
        TaskRefusedError: a class name is invalid, or there is no usable image; carries the report.
        OSError: there is no room for it.
    """
    opened = open_source(file, archive_bytes, limits, check, encoding=encoding, with_test=True)
    with contextlib.closing(opened) as source:
        split: Literal["test", "val"] | None = (
            "test" if source.test_labels else "val" if source.held_out_labels else None
        )
        labels = source.test_labels or source.held_out_labels or source.labels
        _check_classes(labels, limits)
        names = clean_names(labels)
        wanted = list(dict.fromkeys(names[label] for label in labels))
        check_names(wanted)
        tally = Tally(names, wanted)
        order = {name: index for index, name in enumerate(wanted)}
        pixels, others = PixelMeter(archive_bytes, limits), 0

        def of_the_set() -> Iterator[Item]:
            nonlocal others
            for item in source.items():
                of_split = {"test": item.test, "val": item.held_out, None: True}[split]
                if item.label is not None and not of_split:
                    others += 1
                else:
                    yield replace(item, test=False, held_out=False)

        taken = _images(of_the_set(), pixels, names, limits, tally, check)
        for kept, (item, data, name) in enumerate(taken, start=1):
            if kept > max_images:
                raise ArchiveTooLargeError(f"the test set has more than {max_images} images, the most that is allowed")
            writer.add(order[name], data, PurePosixPath(item.where).suffix)
        report = tally.report(source)
        if others:
            why = f"the {split} split is the test set; {others} images of other splits are not kept"
            report = report.model_copy(update={"notes": (*report.notes, why)})
        if not report.accepted:
            extensions = {"validation": report.model_dump(mode="json")}
            raise TaskRefusedError("the upload has no usable image", extensions=extensions)
        check()
        index = writer.close(wanted)
    return Taken(
        classes=tuple(report.classes.items()),
        report=report,
        dataset_digest=index.digest,
        repeated=tally.repeated_within,
        test_set=index,
        test_split=split,
    )


def _images(
    items: Iterator[Item],
    pixels: PixelMeter,
    names: Mapping[str, str],
    limits: IntakeLimits,
    tally: Tally,
    check: Callable[[], None],
) -> Iterator[tuple[Item, bytes, str]]:
    """Yield every image that can be decoded with its bytes and its class, and have all items counted."""
    for item in items:
        check()
        if item.data is None or item.label is None:
            tally.reject(item.where, item.reason or "not an image")
            continue
        reason = why_not_an_image(item.data, limits, pixels)
        if reason is not None:
            tally.reject(item.where, reason)
            continue
        name = names[item.label]
        yield item, item.data, name
        tally.accept(item, item.data, name)


def _check_classes(labels: Sequence[str], limits: IntakeLimits) -> None:
    if len(labels) > limits.max_classes:
        raise ArchiveTooLargeError(f"the task has {len(labels)} classes; at most {limits.max_classes}")


def why_not_an_image(data: bytes, limits: IntakeLimits, pixels: PixelMeter) -> str | None:
    """Return why these bytes are rejected, or None if they decode to an image.

    Raises:
        ArchiveTooLargeError: the upload's images have too many pixels together.
    """
    if not data:
        return "an empty file"
    if data.startswith(_NESTED) or _is_tar(data[: tarfile.BLOCKSIZE]):
        return "an archive inside the archive; only images are read"
    try:
        # what decoding gives is never larger than what the header says
        pixels.count(plan_decoding(data, max_pixels=limits.max_image_pixels).header.pixels)
        check_image(data, max_pixels=limits.max_image_pixels)
    except ImageDecodeError as error:
        return str(error)
    return None


def _check_nothing_empty(report: ValidationReport) -> None:
    extensions = {"validation": report.model_dump(mode="json")}
    if not report.accepted:
        raise TaskRefusedError("the upload has no usable image", extensions=extensions)
    empty = [name for name, count in report.classes.items() if count == report.held_out.get(name, 0)]
    if empty:
        listed = ", ".join(repr(name) for name in empty[:20])
        to_learn = " to learn from" if report.held_out else ""
        raise TaskRefusedError(f"these classes have no usable image{to_learn}: {listed}", extensions=extensions)


def _check_held_out_are_learned(learned: Sequence[str], held_out: Sequence[str]) -> None:
    unknown = sorted(set(held_out) - set(learned))
    if unknown:
        listed = ", ".join(repr(name) for name in unknown[:20])
        raise TaskRefusedError(
            f"these classes are in the val split and not in the train split: {listed}; expected every class in train"
        )


def _is_tar(head: bytes) -> bool:
    if len(head) < tarfile.BLOCKSIZE:
        return False
    if not head.strip(b"\0"):
        return False
    try:
        tarfile.TarInfo.frombuf(head, "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return False
    return True
