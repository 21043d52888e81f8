"""Turns the bytes of an upload, in any known format, into a validated task in the spool."""

from __future__ import annotations

import bz2
import contextlib
import tarfile
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import BinaryIO

from app.errors import ArchiveError, ArchiveTooLargeError, TaskRefusedError, UnknownArchiveError
from app.intake import unpack
from app.intake.archives import TarSource, ZipSource
from app.intake.limits import IntakeLimits, PixelMeter, always_wanted
from app.intake.names import clean_names
from app.intake.parquet import ParquetSource
from app.intake.source import Source
from app.intake.tally import Tally
from exchange.contracts import ValidationReport
from exchange.spool import SpoolWriter
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
    that equal an earlier one of their class byte for byte; they are kept.
    """

    classes: tuple[tuple[str, int], ...]
    report: ValidationReport
    dataset_digest: str
    repeated: int


def open_source(
    file: BinaryIO,
    archive_bytes: int,
    limits: IntakeLimits,
    check: Callable[[], None] = always_wanted,
    *,
    encoding: str | None = None,
) -> Source:
    """Recognise an upload by its content, never by its name, and read its structure.

    `encoding` is that of the names in an archive which does not say it itself.

    Raises:
        UnknownArchiveError: it is not zip, tar, compressed tar or parquet.
        ArchiveError: it is refused; the message says why.
    """
    file.seek(0)
    head = file.read(tarfile.BLOCKSIZE)
    if head.startswith(b"PK\x07\x08") and not zipfile.is_zipfile(file):
        raise ArchiveError("the upload is one part of a split zip archive; join the parts first")
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08")):
        return ZipSource(file, archive_bytes, limits, check, encoding=encoding)
    if head.startswith(b"PAR1"):
        return ParquetSource(file, archive_bytes, limits, check)
    for magic, make in _COMPRESSED:
        if head.startswith(magic):
            return TarSource(file, archive_bytes, limits, check, make=make, encoding=encoding)
    if _is_tar(head):
        return TarSource(file, archive_bytes, limits, check, make=None, encoding=encoding)
    if zipfile.is_zipfile(file):  # with something before it, as archives have that unpack themselves
        return ZipSource(file, archive_bytes, limits, check, encoding=encoding)
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
) -> Taken:
    """Validate every image of an upload by decoding it, and spool the original bytes of the valid ones.

    `check_names` gets the cleaned class names before any image is read, and raises to refuse them. `check` is called
    between pieces and images, and raises when the upload is no longer wanted. The writer is closed on success only, so
    leaving its `with` block removes a refused upload.

    Raises:
        ArchiveError: the upload as a whole is refused.
        ArchiveTooLargeError: its images have more pixels together than allowed.
        TaskRefusedError: a class name is invalid, or a class has no valid image to learn from; carries the report.
        OSError: there is no room for it.
    """
    with contextlib.closing(open_source(file, archive_bytes, limits, check, encoding=encoding)) as source:
        return _take_in(source, PixelMeter(archive_bytes, limits), writer, limits, check_names, check)


def _take_in(
    source: Source,
    pixels: PixelMeter,
    writer: SpoolWriter,
    limits: IntakeLimits,
    check_names: Callable[[Sequence[str]], None],
    check: Callable[[], None],
) -> Taken:
    if len(source.labels) > limits.max_classes:
        raise ArchiveTooLargeError(f"the task has {len(source.labels)} classes; at most {limits.max_classes}")
    names = clean_names([*source.labels, *source.held_out_labels])
    learned = list(dict.fromkeys(names[label] for label in source.labels))
    _check_held_out_are_learned(learned, [names[label] for label in source.held_out_labels])
    check_names(learned)
    order = {name: index for index, name in enumerate(learned)}
    tally = Tally(names, learned)
    for item in source.items():
        check()
        if item.data is None or item.label is None:
            tally.reject(item.where, item.reason or "not an image")
            continue
        reason = why_not_an_image(item.data, limits, pixels)
        if reason is not None:
            tally.reject(item.where, reason)
            continue
        name = names[item.label]
        suffix = PurePosixPath(item.where).suffix
        writer.add(order[name], item.data, suffix, held_out=item.held_out, path=item.where)
        tally.accept(item, item.data, name)
    report = tally.report(source)
    _check_nothing_empty(report)
    check()
    index = writer.close(learned)
    return Taken(
        classes=tuple(report.classes.items()),
        report=report,
        dataset_digest=index.digest,
        repeated=tally.repeated_within,
    )


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
