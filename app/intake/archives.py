"""Reads zip and tar archives: checks the directory first, then reads the members one by one."""

from __future__ import annotations

import gzip
import io
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import replace
from typing import BinaryIO

from app.errors import ArchiveError, ArchiveTooLargeError
from app.intake.entry_names import EntryName, decode_names, tar_name, zip_name
from app.intake.layout import Entry, Layout, lay_out, shown
from app.intake.limits import IntakeLimits
from app.intake.source import Item
from exchange.contracts import PassedOver

_READABLE_METHODS = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2}  # LZMA may need gigabytes of memory
_DIRECTORY_BYTES_PER_MEMBER = 256
_LEAST_PIECE_BYTES = 16 * 1024 * 1024
_ZIP_ERRORS = (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, NotImplementedError, RuntimeError)
_TAR_ERRORS = (tarfile.TarError, zlib.error, EOFError, OSError, ValueError, RecursionError)


class _LaidOut:
    """What an archive's layout says of it."""

    _layout: Layout

    @property
    def labels(self) -> tuple[str, ...]:
        return self._layout.labels

    @property
    def held_out_labels(self) -> tuple[str, ...]:
        return self._layout.held_out_labels

    @property
    def passed_over(self) -> tuple[PassedOver, ...]:
        return self._layout.passed_over

    @property
    def passed_over_count(self) -> int:
        return self._layout.passed_over_count

    @property
    def notes(self) -> tuple[str, ...]:
        return self._layout.notes


class ZipSource(_LaidOut):
    """A zip archive with one folder per class.

    Raises:
        ArchiveError: it is damaged or encrypted, or has an entry that no data set has (links, `..`).
        ArchiveTooLargeError: it has more entries or more unpacked bytes than allowed.
    """

    def __init__(
        self, file: BinaryIO, archive_bytes: int, limits: IntakeLimits, *, encoding: str | None = None
    ) -> None:
        self._limits = limits
        try:
            _check_zip_directory(file, archive_bytes, limits)
            self._zip = zipfile.ZipFile(file)
        except _ZIP_ERRORS as error:
            raise ArchiveError(f"the zip archive is damaged: {error}") from error
        self._infos = self._zip.infolist()
        _check_members(len(self._infos), limits)
        for info in self._infos:
            mode = info.external_attr >> 16
            if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise ArchiveError(f"the entry {shown(info.orig_filename)!r} is {_special(mode)}; only files are read")
            if info.flag_bits & 0x1:
                raise ArchiveError(f"the entry {shown(info.orig_filename)!r} is encrypted")
        _check_budget(sum(info.file_size for info in self._infos), archive_bytes, limits)
        self._names = decode_names([zip_name(info) for info in self._infos], encoding)
        entries = zip(self._names, self._infos, strict=True)
        self._layout = lay_out([Entry(name, info.file_size, info.is_dir()) for name, info in entries])

    def items(self) -> Iterator[Item]:
        # sorted by name, so that a folder zipped on two machines gives the same data set
        members = zip(self._names, self._infos, self._layout.places, strict=True)
        for name, info, place in sorted(members, key=lambda member: member[0]):
            where = shown(name)
            if place.reason is not None:
                yield Item(where, None, None, place.reason)
            elif place.label is not None:
                yield replace(self._read(info, where, place.label), held_out=place.held_out)

    def _read(self, info: zipfile.ZipInfo, where: str, label: str) -> Item:
        if info.file_size > self._limits.max_image_bytes:
            return Item(where, label, None, _too_large(info.file_size, self._limits))
        if info.compress_type not in _READABLE_METHODS:
            return Item(where, label, None, f"compressed by the unsupported method {info.compress_type}")
        try:
            with self._zip.open(info) as member:
                return Item(where, label, member.read())
        except _ZIP_ERRORS as error:
            return Item(where, label, None, f"damaged inside the archive: {shown(str(error))}")


class TarSource(_LaidOut):
    """A tar archive, plain or gzipped, with one folder per class. It is read twice: the directory, then the images.

    Raises:
        ArchiveError: it is damaged, or has an entry that no data set has (links, devices, `..`).
        ArchiveTooLargeError: it has more entries or more unpacked bytes than allowed.
    """

    def __init__(
        self, file: BinaryIO, archive_bytes: int, limits: IntakeLimits, *, gzipped: bool, encoding: str | None = None
    ) -> None:
        self._file = file
        self._gzipped = gzipped
        self._limits = limits
        self._budget = limits.budget(archive_bytes)
        names: list[EntryName] = []
        entries: list[tuple[int, bool]] = []
        unpacked = 0
        for _, info in self._members():
            if not (info.isreg() or info.isdir()) or info.issparse():
                raise ArchiveError(f"the entry {shown(info.name)!r} is {_special_tar(info)}; only files are read")
            unpacked += info.size
            _check_members(len(entries) + 1, limits)
            _check_budget(unpacked, archive_bytes, limits)
            names.append(tar_name(info))
            entries.append((info.size, info.isdir()))
        self._names = decode_names(names, encoding)
        self._layout = lay_out([Entry(name, *entry) for name, entry in zip(self._names, entries, strict=True)])

    def items(self) -> Iterator[Item]:
        for (tar, info), name, place in zip(self._members(), self._names, self._layout.places, strict=True):
            where = shown(name)
            if place.reason is not None:
                yield Item(where, None, None, place.reason)
            elif place.label is not None and info.size > self._limits.max_image_bytes:
                yield Item(where, place.label, None, _too_large(info.size, self._limits))
            elif place.label is not None:
                try:
                    member = tar.extractfile(info)
                    data = member.read() if member else b""
                except _TAR_ERRORS as error:
                    raise ArchiveError(f"the tar archive is damaged at {where!r}: {error}") from error
                yield Item(where, place.label, data, held_out=place.held_out)

    def _members(self) -> Iterator[tuple[tarfile.TarFile, tarfile.TarInfo]]:
        self._file.seek(0)
        try:
            unzipped = gzip.GzipFile(fileobj=self._file) if self._gzipped else self._file
            metered = _Metered(unzipped, self._budget, self._limits.max_image_bytes)  # type: ignore[arg-type]
            with tarfile.open(fileobj=metered, mode="r:", encoding="utf-8") as tar:
                while (info := tar.next()) is not None:
                    if info.size < 0:
                        raise ArchiveError(f"the entry {shown(info.name)!r} has a negative size")
                    yield tar, info
                # tarfile takes a broken header for the end of the archive; only zeros mark the end
                metered.seek(tar.offset)
                if metered.read(tarfile.BLOCKSIZE).strip(b"\0"):
                    raise ArchiveError("the tar archive is damaged after its last readable entry: expected a header")
        except _TAR_ERRORS as error:
            raise ArchiveError(f"the tar archive is damaged: {error}") from error


class _Metered(io.RawIOBase):
    """An unpacked stream that refuses reads beyond the budget, and single reads that are too large."""

    def __init__(self, stream: io.BufferedIOBase, budget: int, max_image_bytes: int) -> None:
        self._stream = stream
        self._budget = budget
        self._max_piece = max(_LEAST_PIECE_BYTES, max_image_bytes)

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= self._max_piece:
            raise ArchiveError(f"a tar header asks for {size} bytes at once; expected at most {self._max_piece}")
        data = self._stream.read(size)
        self._check(self._stream.tell())
        return data

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        assert whence == io.SEEK_SET
        self._check(offset)
        return self._stream.seek(offset)

    def tell(self) -> int:
        return self._stream.tell()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def _check(self, position: int) -> None:
        # headers and padding count too, hence the slack of one half
        if position > self._budget * 1.5 + tarfile.RECORDSIZE:
            raise ArchiveTooLargeError(f"the archive unpacks to more than {self._budget} bytes")


def _check_members(count: int, limits: IntakeLimits) -> None:
    if count > limits.max_members:
        raise ArchiveTooLargeError(f"the archive has more than {limits.max_members} entries")


def _check_budget(unpacked: int, archive_bytes: int, limits: IntakeLimits) -> None:
    budget = limits.budget(archive_bytes)
    if unpacked > budget:
        raise ArchiveTooLargeError(
            f"the archive of {archive_bytes} bytes unpacks to at least {unpacked} bytes; at most {budget} are allowed"
        )


def _check_zip_directory(file: BinaryIO, archive_bytes: int, limits: IntakeLimits) -> None:
    """Check the size of the directory before zipfile builds an object for every entry in it."""
    tail_bytes = min(archive_bytes, 22 + 0xFFFF + 20)
    file.seek(archive_bytes - tail_bytes)
    tail = file.read(tail_bytes)
    file.seek(0)
    end = tail.rfind(b"PK\x05\x06")
    if end < 0 or len(tail) < end + 22:
        raise zipfile.BadZipFile("the end of the archive is missing")
    directory_bytes = int(struct.unpack_from("<L", tail, end + 12)[0])
    locator = tail.rfind(b"PK\x06\x07", 0, end)
    if locator >= 0 and len(tail) >= locator + 16:
        file.seek(struct.unpack_from("<Q", tail, locator + 8)[0])
        record = file.read(56)
        file.seek(0)
        if len(record) == 56:
            directory_bytes = max(directory_bytes % 0xFFFFFFFF, int(struct.unpack_from("<Q", record, 40)[0]))
    most = limits.max_members * _DIRECTORY_BYTES_PER_MEMBER + 0xFFFF
    if directory_bytes > most:
        raise ArchiveTooLargeError(f"the archive's directory has {directory_bytes} bytes; at most {most} are allowed")


def _too_large(size: int, limits: IntakeLimits) -> str:
    return f"{size} bytes; at most {limits.max_image_bytes} per image are allowed"


def _special(mode: int) -> str:
    return "a symbolic link" if stat.S_ISLNK(mode) else "a device or another special file"


def _special_tar(info: tarfile.TarInfo) -> str:
    if info.issym():
        return "a symbolic link"
    if info.islnk():
        return "a hard link"
    return "a sparse file" if info.issparse() else "a device or another special file"
