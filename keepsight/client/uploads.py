"""Opens what `teach` and `classify` send: folders as a tar built while it is read, archives, image files."""

from __future__ import annotations

import glob
import io
import os
import tarfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

from keepsight.client.errors import UploadError

ARCHIVE_SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".parquet")
IMAGE_SUFFIXES = frozenset(
    {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"},
)
_BLOCK = tarfile.BLOCKSIZE
_END = bytes(2 * _BLOCK)

OnRead = Callable[[int], None]
"""Called with the number of bytes read so far."""


class Archive(Protocol):
    """A file that can be read again from its start: an open file, `io.BytesIO`, or an `Upload`."""

    def read(self, size: int = ..., /) -> bytes: ...
    def seek(self, offset: int, whence: int = ..., /) -> int: ...
    def tell(self) -> int: ...
    def seekable(self) -> bool: ...


@dataclass(frozen=True)
class Member:
    """A file of a folder, and the name it has in the archive."""

    path: Path
    name: str
    size: int


class Upload(io.RawIOBase):
    """A file of known size that can be read again from its start, and reports how far it was read."""

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

    def __init__(self, members: Sequence[Member], on_read: OnRead | None = None) -> None:
        self._members = members
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
        return TarUpload(class_members(source), on_read), f"{source.resolve().name or 'task'}.tar"
    if not source.exists():
        raise UploadError(f"{source} does not exist; give a folder with a subfolder per class, or an archive of one")
    if not source.name.lower().endswith(ARCHIVE_SUFFIXES):
        raise UploadError(f"{source.name} is not an archive that can be taught; expected {', '.join(ARCHIVE_SUFFIXES)}")
    try:
        return FileUpload(source.open("rb"), on_read), source.name
    except OSError as error:
        raise UploadError(f"{source} cannot be read: {error.strerror}") from error


def open_archive(source: Path | Archive) -> AbstractContextManager[Archive]:
    """Open a folder or an archive on disk until the context ends; a file that is already open stays open.

    Raises:
        UploadError: as `open_task`.
    """
    return open_task(source)[0] if isinstance(source, Path) else nullcontext(source)


def class_members(folder: Path) -> list[Member]:
    """Return the files of a folder with a subfolder per class, in a stable order, without hidden ones.

    Raises:
        UploadError: there is no subfolder with a file in it.
    """
    members = []
    for class_folder in sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".")):
        for path in sorted(p for p in class_folder.rglob("*") if p.is_file()):
            relative = path.relative_to(folder)
            if not any(part.startswith(".") for part in relative.parts):
                members.append(Member(path, relative.as_posix(), path.stat().st_size))
    if not members:
        raise UploadError(f"{folder} has no class folders with files in them; make one folder per class")
    return members


def find_images(arguments: Sequence[str]) -> list[Path]:
    """Return image files from paths, folders (searched recursively for image suffixes) and globs; each once, in order.

    Raises:
        UploadError: an argument matches no file.
    """
    found: dict[Path, None] = {}
    for argument in arguments:
        path = Path(argument)
        if path.is_dir():
            files = sorted(p for p in path.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file())
            if not files:
                raise UploadError(f"{argument} has no images in it")
        elif path.exists():
            files = [path]
        else:
            files = sorted(p for p in map(Path, glob.glob(argument, recursive=True)) if p.is_file())
            if not files:
                raise UploadError(f"{argument} does not exist")
        found.update(dict.fromkeys(files))
    return list(found)


def _header(member: Member) -> bytes:
    info = tarfile.TarInfo(member.name)
    info.size = member.size
    info.mode = 0o644
    return info.tobuf(format=tarfile.PAX_FORMAT)


def _padded(size: int) -> int:
    return -(-size // _BLOCK) * _BLOCK
