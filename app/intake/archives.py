"""Reads zip and tar archives: checks the directory first, then unpacks the members one by one, metered."""

from __future__ import annotations

import bisect
import io
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import BinaryIO

from app.errors import ArchiveError, ArchiveTooLargeError
from app.intake import unpack
from app.intake.entry_names import EntryName, decode_names, tar_name, zip_name
from app.intake.layout import Entry, Layout, lay_out, shown
from app.intake.limits import IntakeLimits, Meter, always_wanted
from app.intake.source import Item
from app.intake.tar_entries import TarEntry, tar_entries
from exchange.contracts import PassedOver

_DIRECTORY_BYTES_PER_MEMBER = 256
_LOCAL_HEADER = struct.Struct("<4s22xHH")
_ENCRYPTED, _UTF8 = 0x1, 0x800
_ZIP_ERRORS = (zipfile.BadZipFile, zipfile.LargeZipFile, struct.error, NotImplementedError, *unpack.ERRORS)


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
    def test_labels(self) -> tuple[str, ...]:
        return self._layout.test_labels

    @property
    def passed_over(self) -> tuple[PassedOver, ...]:
        return self._layout.passed_over

    @property
    def passed_over_count(self) -> int:
        return self._layout.passed_over_count

    @property
    def notes(self) -> tuple[str, ...]:
        return self._layout.notes

    def close(self) -> None:
        """Do nothing: the caller owns the file."""


class ZipSource(_LaidOut):
    """A zip archive with one folder per class.

    Raises:
        ArchiveError: it is damaged or encrypted, has an entry that no data set has (links, `..`), or only entries that
            are compressed by methods that are not read.
        ArchiveTooLargeError: it has more entries or more unpacked bytes than allowed.
    """

    def __init__(
        self,
        file: BinaryIO,
        archive_bytes: int,
        limits: IntakeLimits,
        check: Callable[[], None] = always_wanted,
        *,
        encoding: str | None = None,
        with_test: bool = False,
    ) -> None:
        self._file = file
        self._limits = limits
        self._meter = Meter(limits.budget(archive_bytes), check)
        try:
            with zipfile.ZipFile(_Directory(file, limits)) as directory:
                self._infos = directory.infolist()
                self._directory_at = directory.start_dir
        except _ZIP_ERRORS as error:
            raise ArchiveError(f"the zip archive is damaged: {shown(str(error))}") from error
        _check_members(len(self._infos), limits)
        for info in self._infos:
            if not info.filename:
                raise ArchiveError("an entry of the archive has no name")
            mode = info.external_attr >> 16
            if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise ArchiveError(f"the entry {shown(info.orig_filename)!r} is {_special(mode)}; only files are read")
            if info.flag_bits & _ENCRYPTED:
                raise ArchiveError(f"the entry {shown(info.orig_filename)!r} is encrypted")
            if info.volume not in (0, 0xFFFF):
                raise ArchiveError("the upload is one part of a split zip archive; join the parts first")
        self._check_apart()
        _check_budget(sum(info.file_size for info in self._infos), archive_bytes, limits)
        self._names = decode_names([zip_name(info) for info in self._infos], encoding)
        entries = zip(self._names, self._infos, strict=True)
        listed = [Entry(name, info.file_size, info.is_dir()) for name, info in entries]
        self._layout = lay_out(listed, with_test=with_test)
        self._check_methods()

    def items(self) -> Iterator[Item]:
        # sorted by name, so that a folder zipped on two machines gives the same data set
        members = zip(self._names, self._infos, self._layout.places, strict=True)
        for name, info, place in sorted(members, key=lambda member: member[0]):
            where = shown(name)
            if place.reason is not None:
                yield Item(where, None, None, place.reason)
            elif place.label is not None:
                yield replace(self._read(info, where, place.label), held_out=place.held_out, test=place.test)

    def _check_apart(self) -> None:
        """Refuse entries that share bytes: that is how a small archive unpacks to terabytes."""
        starts = sorted(self._infos, key=lambda info: info.header_offset)
        self._ends = [*(info.header_offset for info in starts[1:]), self._directory_at]
        for info, end in zip(starts, self._ends, strict=bool(starts)):
            if info.header_offset < 0 or info.header_offset + _LOCAL_HEADER.size + info.compress_size > end:
                raise ArchiveError(f"the entry {shown(info.orig_filename)!r} overlaps another part of the archive")

    def _check_methods(self) -> None:
        """Refuse an archive of which nothing can be read, and say by which methods it is compressed."""
        places = zip(self._infos, self._layout.places, strict=True)
        methods = {info.compress_type for info, place in places if place.label is not None and not info.is_dir()}
        if methods and not any(map(_is_read, methods)):
            names = ", ".join(unpack.unread_method(number) for number in sorted(methods)[:5])
            raise ArchiveError(
                f"the entries are compressed by {names}, which is not read; expected stored or deflated entries"
            )

    def _read(self, info: zipfile.ZipInfo, where: str, label: str) -> Item:
        if info.file_size > self._limits.max_image_bytes:
            return Item(where, label, None, _too_large(info.file_size, self._limits))
        if not _is_read(info.compress_type):
            return Item(
                where, label, None, f"compressed by {unpack.unread_method(info.compress_type)}, which is not read"
            )
        out: list[bytes] = []
        size = checksum = 0
        try:
            for piece in self._pieces(info):
                self._meter.count(len(piece))
                checksum = zlib.crc32(piece, checksum)
                out.append(piece)
                size += len(piece)
                if size > self._limits.max_image_bytes:
                    return Item(
                        where, label, None, _too_large(f"more than {self._limits.max_image_bytes}", self._limits)
                    )
        except _ZIP_ERRORS as error:
            return Item(where, label, None, f"damaged inside the archive: {shown(str(error))}")
        if size != info.file_size:
            reason = f"{size} bytes came out, but the archive's directory says {info.file_size}"
            return Item(where, label, None, f"damaged inside the archive: {reason}")
        if checksum != info.CRC:
            return Item(where, label, None, "damaged inside the archive: its checksum does not match")
        return Item(where, label, b"".join(out))

    def _pieces(self, info: zipfile.ZipInfo) -> Iterator[bytes]:
        packed = self._packed(info)
        if info.compress_type == zipfile.ZIP_STORED:
            return packed
        return unpack.unpack(packed, unpack.ZIP_METHODS[info.compress_type]())

    def _packed(self, info: zipfile.ZipInfo) -> Iterator[bytes]:
        self._file.seek(info.header_offset)
        signature, name_bytes, extra_bytes = _LOCAL_HEADER.unpack(self._file.read(_LOCAL_HEADER.size))
        name = info.orig_filename.encode("utf-8" if info.flag_bits & _UTF8 else "cp437")
        if signature != b"PK\x03\x04" or self._file.read(name_bytes) != name:
            raise zipfile.BadZipFile("its own header differs from the archive's directory")
        at = info.header_offset + _LOCAL_HEADER.size + name_bytes + extra_bytes
        next_part = self._ends[bisect.bisect_right(self._ends, info.header_offset)]
        if at + info.compress_size > next_part:
            raise zipfile.BadZipFile("it overlaps another part of the archive")
        self._file.seek(at)
        left = info.compress_size
        while left and (chunk := self._file.read(min(left, unpack.PACKED_BYTES))):
            left -= len(chunk)
            self._meter.count(0)  # much may go in before anything comes out
            yield chunk


class TarSource(_LaidOut):
    """A tar archive, plain or compressed as a whole, with one folder per class.

    It is read twice: the directory, then the images.

    Args:
        make: makes the decompressor of one of the file's streams; None for a plain archive.

    Raises:
        ArchiveError: it is damaged, or has an entry that no data set has (links, devices, `..`).
        ArchiveTooLargeError: it has more entries or more unpacked bytes than allowed.
    """

    def __init__(
        self,
        file: BinaryIO,
        archive_bytes: int,
        limits: IntakeLimits,
        check: Callable[[], None] = always_wanted,
        *,
        make: unpack.Make | None,
        encoding: str | None = None,
        with_test: bool = False,
    ) -> None:
        self._file = file
        self._make = make
        self._limits = limits
        self._check = check
        self._budget = limits.budget(archive_bytes)
        names: list[EntryName] = []
        entries: list[tuple[int, bool]] = []
        unpacked = name_chars = 0
        for info in self._entries():
            if not (info.is_file or info.is_folder):
                raise ArchiveError(f"the entry {shown(info.name)!r} is {info.kind}; only files are read")
            unpacked += info.size
            name_chars += len(info.name)
            _check_members(len(entries) + 1, limits)
            _check_budget(unpacked, archive_bytes, limits)
            _check_directory(name_chars, limits)
            names.append(tar_name(info.name, is_utf8=info.name_is_utf8))
            entries.append((info.size, info.is_folder))
        self._names = decode_names(names, encoding)
        listed = [Entry(name, *entry) for name, entry in zip(self._names, entries, strict=True)]
        self._layout = lay_out(listed, with_test=with_test)

    def items(self) -> Iterator[Item]:
        for info, name, place in zip(self._entries(), self._names, self._layout.places, strict=True):
            where = shown(name)
            if place.reason is not None:
                yield Item(where, None, None, place.reason)
            elif place.label is not None and info.size > self._limits.max_image_bytes:
                yield Item(where, place.label, None, _too_large(info.size, self._limits), test=place.test)
            elif place.label is not None:
                with _as_damage():
                    data = info.read()
                yield Item(where, place.label, data, held_out=place.held_out, test=place.test)

    def _entries(self) -> Iterator[TarEntry]:
        self._file.seek(0)
        packed = iter(lambda: self._file.read(unpack.PACKED_BYTES), b"")
        pieces = packed if self._make is None else unpack.unpack_streams(self._while_wanted(packed), self._make)
        # headers and padding count too, hence the slack of one half
        meter = Meter(self._budget + self._budget // 2 + tarfile.RECORDSIZE, self._check)
        with _as_damage():
            yield from tar_entries(_metered(pieces, meter))

    def _while_wanted(self, packed: Iterator[bytes]) -> Iterator[bytes]:
        for chunk in packed:  # much may go in before anything comes out
            self._check()
            yield chunk


@contextmanager
def _as_damage() -> Iterator[None]:
    try:
        yield
    except unpack.ERRORS as error:
        raise ArchiveError(f"the tar archive is damaged: {shown(str(error))}") from error


class _Directory(io.RawIOBase):
    """The file as zipfile sees it while it reads the directory: no read is larger than a directory may be.

    zipfile keeps an object for every entry, so entries are counted before it does.
    """

    def __init__(self, file: BinaryIO, limits: IntakeLimits) -> None:
        self._file = file
        self._limits = limits

    def read(self, size: int | None = -1) -> bytes:
        if size is None or size < 0:
            size = _most_directory_bytes(self._limits)
        _check_directory(size, self._limits)
        data = self._file.read(size)
        _check_members(data.count(b"PK\x01\x02"), self._limits)
        return data

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True


def _metered(pieces: Iterator[bytes], meter: Meter) -> Iterator[bytes]:
    for piece in pieces:
        meter.count(len(piece))
        yield piece


def _is_read(method: int) -> bool:
    return method == zipfile.ZIP_STORED or method in unpack.ZIP_METHODS


def _check_members(count: int, limits: IntakeLimits) -> None:
    if count > limits.max_members:
        raise ArchiveTooLargeError(f"the archive has more than {limits.max_members} entries")


def _check_budget(unpacked: int, archive_bytes: int, limits: IntakeLimits) -> None:
    budget = limits.budget(archive_bytes)
    if unpacked > budget:
        raise ArchiveTooLargeError(
            f"the archive of {archive_bytes} bytes unpacks to at least {unpacked} bytes; at most {budget} are allowed"
        )


def _most_directory_bytes(limits: IntakeLimits) -> int:
    return limits.max_members * _DIRECTORY_BYTES_PER_MEMBER + 0x1FFFF


def _check_directory(size: int, limits: IntakeLimits) -> None:
    most = _most_directory_bytes(limits)
    if size > most:
        raise ArchiveTooLargeError(f"the archive's directory has {size} bytes; at most {most} are allowed")


def _too_large(size: int | str, limits: IntakeLimits) -> str:
    return f"{size} bytes; at most {limits.max_image_bytes} per image are allowed"


def _special(mode: int) -> str:
    return "a symbolic link" if stat.S_ISLNK(mode) else "a device or another special file"
