"""Turns the bytes of an upload, in any known format, into a validated task in the spool."""

from __future__ import annotations

import errno
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import PurePosixPath
from typing import BinaryIO

from app.errors import ArchiveTooLargeError, SpoolFullError, TaskRefusedError, UnknownArchiveError
from app.intake.archives import TarSource, ZipSource
from app.intake.limits import IntakeLimits
from app.intake.names import clean_names
from app.intake.parquet import ParquetSource
from app.intake.source import Source
from exchange.contracts import RejectedImage, ValidationReport
from exchange.spool import SpoolIndex, SpoolWriter
from segp_cl.data.decoding import decode_image
from segp_cl.errors import ImageDecodeError

MAX_REJECTS_LISTED = 1000
_NESTED = (b"PK\x03\x04", b"PK\x05\x06", b"\x1f\x8b", b"BZh", b"\xfd7zXZ\x00", b"7z\xbc\xaf'\x1c", b"Rar!", b"PAR1")


@dataclass(frozen=True)
class Taken:
    """A validated task in the spool: its classes with their numbers of images, and what was left out.

    `dataset_digest` is the spool's digest, which the worker compares before it learns. `ignored` counts hidden files,
    `repeated` the images that equal an earlier one of their class byte for byte; they are kept.
    """

    classes: tuple[tuple[str, int], ...]
    report: ValidationReport
    dataset_digest: str
    ignored: int
    repeated: int


@dataclass
class _Tally:
    counts: dict[str, int]
    rejected: list[RejectedImage] = field(default_factory=list)
    rejected_count: int = 0

    def reject(self, where: str, reason: str) -> None:
        self.rejected_count += 1
        if len(self.rejected) < MAX_REJECTS_LISTED:
            self.rejected.append(RejectedImage(path=where, reason=reason))

    def report(self) -> ValidationReport:
        return ValidationReport(
            classes=self.counts,
            accepted=sum(self.counts.values()),
            rejected=tuple(self.rejected),
            rejected_count=self.rejected_count,
        )


def open_source(file: BinaryIO, archive_bytes: int, limits: IntakeLimits) -> Source:
    """Recognise an upload by its content, never by its name, and read its structure.

    Raises:
        UnknownArchiveError: it is not zip, tar, tar.gz or parquet.
        ArchiveError: it is refused; the message says why.
    """
    file.seek(0)
    head = file.read(tarfile.BLOCKSIZE)
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return ZipSource(file, archive_bytes, limits)
    if head.startswith(b"\x1f\x8b"):
        return TarSource(file, archive_bytes, limits, gzipped=True)
    if head.startswith(b"PAR1"):
        return ParquetSource(file, archive_bytes, limits)
    if _is_tar(head):
        return TarSource(file, archive_bytes, limits, gzipped=False)
    raise UnknownArchiveError("the upload's format is unknown; expected zip, tar, tar.gz or parquet")


def take_in(
    file: BinaryIO,
    archive_bytes: int,
    writer: SpoolWriter,
    *,
    limits: IntakeLimits,
    check_names: Callable[[Sequence[str]], None],
) -> Taken:
    """Validate every image of an upload by decoding it, and spool the original bytes of the valid ones.

    `check_names` gets the cleaned class names before any image is read, and raises to refuse them. The writer is
    closed on success only, so leaving its `with` block removes a refused upload.

    Raises:
        ArchiveError: the upload as a whole is refused.
        TaskRefusedError: a class name is invalid, or a class has no valid image; carries the report.
        SpoolFullError: there is no room for it.
    """
    source = open_source(file, archive_bytes, limits)
    if len(source.labels) > limits.max_classes:
        raise ArchiveTooLargeError(f"the task has {len(source.labels)} classes; at most {limits.max_classes}")
    names = clean_names(source.labels)
    check_names(list(names.values()))
    order = {name: index for index, name in enumerate(names.values())}
    tally = _Tally(dict.fromkeys(order, 0))
    seen: set[tuple[str, bytes]] = set()
    for item in source.items():
        if item.data is None or item.label is None:
            tally.reject(item.where, item.reason or "not an image")
            continue
        reason = why_not_an_image(item.data, limits)
        if reason is not None:
            tally.reject(item.where, reason)
            continue
        name = names[item.label]
        _spool(writer, order[name], item.data, PurePosixPath(item.where).suffix)
        tally.counts[name] += 1
        seen.add((name, sha256(item.data).digest()))
    report = tally.report()
    _check_nothing_empty(report)
    index = _close(writer, list(order))
    return Taken(
        classes=tuple(tally.counts.items()),
        report=report,
        dataset_digest=index.digest,
        ignored=source.ignored,
        repeated=report.accepted - len(seen),
    )


def why_not_an_image(data: bytes, limits: IntakeLimits) -> str | None:
    """Return why these bytes are rejected, or None if they decode to an image."""
    if not data:
        return "an empty file"
    if data.startswith(_NESTED) or _is_tar(data[: tarfile.BLOCKSIZE]):
        return "an archive inside the archive; only images are read"
    try:
        decode_image(data, max_pixels=limits.max_image_pixels)
    except ImageDecodeError as error:
        return str(error)
    return None


def _check_nothing_empty(report: ValidationReport) -> None:
    extensions = {"validation": report.model_dump(mode="json")}
    if not report.accepted:
        raise TaskRefusedError("the upload has no usable image", extensions=extensions)
    empty = [name for name, count in report.classes.items() if not count]
    if empty:
        listed = ", ".join(repr(name) for name in empty[:20])
        raise TaskRefusedError(f"these classes have no usable image: {listed}", extensions=extensions)


def _spool(writer: SpoolWriter, class_index: int, data: bytes, suffix: str) -> None:
    try:
        writer.add(class_index, data, suffix)
    except OSError as error:
        raise no_room(error) from error


def _close(writer: SpoolWriter, classes: Sequence[str]) -> SpoolIndex:
    try:
        return writer.close(classes)
    except OSError as error:
        raise no_room(error) from error


def no_room(error: OSError) -> Exception:
    """Return the error that a failed write to the spool is answered with."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return SpoolFullError("the spool's disk is full; nothing of the upload was kept")
    return error


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
