"""Opens what `teach` sends: a folder as a tar that is built while it is read, or an archive."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, BinaryIO, Protocol, TypeVar, cast

from keepsight.client.errors import UploadError
from keepsight.client.folders import Member, Skipped, pack_folder
from keepsight.client.images import sendable

ARCHIVE_SUFFIXES = (
    *(".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst", ".tzst", ".parquet"),
)
_BLOCK = tarfile.BLOCKSIZE
_END = bytes(2 * _BLOCK)

OnRead = Callable[[int], None]
"""Called with the number of bytes read so far."""
Document = TypeVar("Document", bound=Mapping[str, Any])


class Archive(Protocol):
    """A file that can be read again from its start: an open file, `io.BytesIO`, or an `Upload`."""

    def read(self, size: int = ..., /) -> bytes: ...
    def seek(self, offset: int, whence: int = ..., /) -> int: ...
    def tell(self) -> int: ...
    def seekable(self) -> bool: ...


class Upload(io.RawIOBase):
    """A file of known size that can be read again from its start, and reports how far it was read.

    `skipped` is what lay beside its content and is not in it.
    """

    skipped: Sequence[Skipped] = ()

    def __init__(self, size: int, on_read: OnRead | None) -> None:
        super().__init__()
        self.size = size
        self.on_read = on_read
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move to the start or the end; sending a file of known length needs no more."""
        target = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self.size}[whence]
        if target not in (0, self._position, self.size):
            raise io.UnsupportedOperation(f"cannot seek to {target}; expected the start or the end")
        if target != self._position:
            self._position = target
            self._rewound()
        return target

    def _rewound(self) -> None:
        """Follow a move of the position to the start or the end."""

    def _advance(self, count: int) -> None:
        self._position += count
        if self.on_read is not None and count:
            self.on_read(self._position)


class FileUpload(Upload):
    """An archive on disk."""

    def __init__(self, file: BinaryIO, on_read: OnRead | None = None) -> None:
        self._file = file
        super().__init__(os.fstat(file.fileno()).st_size, on_read)

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size)
        self._advance(len(data))
        return data

    def close(self) -> None:
        self._file.close()
        super().close()

    def _rewound(self) -> None:
        self._file.seek(self._position)


class TarUpload(Upload):
    """A tar of `members`, built while it is read: it needs no temporary file, and its length is known beforehand."""

    def __init__(
        self, members: Sequence[Member], on_read: OnRead | None = None, *, skipped: Sequence[Skipped] = ()
    ) -> None:
        self._members = members
        self.skipped = skipped
        self._chunks = self._produce()
        self._rest = b""
        super().__init__(sum(len(_header(m)) + _padded(m.size) for m in members) + len(_END), on_read)

    def read(self, size: int = -1) -> bytes:
        wanted = self.size - self._position if size < 0 else size
        parts: list[bytes] = []
        missing = wanted
        while missing > 0:
            if not self._rest:
                self._rest = next(self._chunks, b"")
                if not self._rest:
                    break
            part, self._rest = self._rest[:missing], self._rest[missing:]
            parts.append(part)
            missing -= len(part)
        self._advance(wanted - missing)
        return b"".join(parts)

    def _rewound(self) -> None:
        self._rest = b""
        self._chunks = self._produce() if self._position == 0 else iter(())

    def _produce(self) -> Iterator[bytes]:
        for member in self._members:
            yield _header(member)
            if member.name.endswith("/"):
                continue
            try:
                with member.path.open("rb") as file:
                    data = file.read(member.size + 1)
            except OSError as error:
                raise UploadError(f"{member.path} cannot be read: {error.strerror}") from error
            if len(data) != member.size:
                raise UploadError(f"{member.path} changed while it was being sent; nothing was taught")
            if data:
                yield data + bytes(_padded(len(data)) - len(data))
        yield _END


def open_task(source: Path, on_read: OnRead | None = None) -> tuple[Upload, str]:
    """Open a folder or an archive, and return it with the file name to send.

    Raises:
        UploadError: it does not exist, or is neither a folder of class folders nor an archive the service reads.
    """
    if source.is_dir():
        packed = pack_folder(source)
        upload = TarUpload(packed.members, on_read, skipped=packed.skipped)
        return upload, sendable(f"{source.resolve().name or 'task'}.tar")
    if not source.exists():
        raise UploadError(f"{source} does not exist; give a folder with a subfolder per class, or an archive of one")
    if not source.name.lower().endswith(ARCHIVE_SUFFIXES):
        raise UploadError(f"{source.name} is not an archive that can be taught; expected {', '.join(ARCHIVE_SUFFIXES)}")
    try:
        return FileUpload(source.open("rb"), on_read), sendable(source.name)
    except OSError as error:
        raise UploadError(f"{source} cannot be read: {error.strerror}") from error


def open_archive(source: Path | Archive) -> AbstractContextManager[Archive]:
    """Open a folder or an archive on disk until the context ends; a file that is already open stays open.

    Raises:
        UploadError: as `open_task`.
    """
    return open_task(source)[0] if isinstance(source, Path) else nullcontext(source)


def with_skipped(document: Document, archive: Archive) -> Document:
    """Return an answer to an upload, whose validation also lists what the archive's folder has and was not sent."""
    skipped: Sequence[Skipped] = getattr(archive, "skipped", ())
    validation = document.get("validation")
    if not skipped or not isinstance(validation, dict):
        return document
    rows = [{"path": each.path, "reason": each.reason, "entries": 1} for each in skipped]
    told = {
        **validation,
        "passed_over": [*rows, *validation.get("passed_over", [])],
        "passed_over_count": len(rows) + validation.get("passed_over_count", 0),
    }
    return cast(Document, {**document, "validation": told})


def _header(member: Member) -> bytes:
    is_folder = member.name.endswith("/")
    info = tarfile.TarInfo(member.name.removesuffix("/"))
    info.type = tarfile.DIRTYPE if is_folder else tarfile.REGTYPE
    info.size = member.size
    info.mode = 0o755 if is_folder else 0o644
    return info.tobuf(format=tarfile.PAX_FORMAT)


def _padded(size: int) -> int:
    return -(-size // _BLOCK) * _BLOCK
