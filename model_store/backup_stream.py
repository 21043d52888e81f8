"""A copy of a store as a tar archive that is made while it is sent, piece by piece, however large the store is.

The archive is like that of `backup.back_up_to_tar`, and is restored like it. It holds the store at the moment when the
last version was copied: versions that are published meanwhile are copied too, and those that are pruned meanwhile are
not among the `versions` of the index, which comes after them. CURRENT comes last, so an archive that was cut has none.
At most one version, or one evaluation, is in memory.
"""

from __future__ import annotations

import contextlib
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from model_store import evaluations
from model_store.backup import INDEX_FILE, POINTER, VERSIONS, FolderSource
from model_store.reader import decode_version
from model_store.types import MANIFEST_FILE, TENSORS_FILE, CorruptVersionError, VersionId, VersionNotFoundError

PIECE_BYTES: Final = 256 * 1024
_BLOCK: Final = tarfile.BLOCKSIZE


def backup_pieces(store: Path) -> Iterator[bytes]:
    """Yield the archive of a store, which may be in use. Every version is verified before it is yielded.

    A version that is damaged in the store is left out, and named with what is wrong in the index.

    Raises:
        BackupError: the folder is no store, or a file of it cannot be read.
        StoreBusyError: another process held the store's lock for long.
    """
    source = FolderSource(store, locked=True, leave_out=(evaluations.FOLDER,))
    copied: set[VersionId] = set()
    damaged: dict[VersionId, str] = {}
    while True:
        snapshot = source.snapshot()
        waiting = [version for version in snapshot.versions if version not in copied and version not in damaged]
        if not waiting:
            break
        for version in waiting:
            try:
                files = source.files_of(version)
                decode_version(version, files)
            except VersionNotFoundError:
                continue  # pruned since; the next snapshot is without it
            except CorruptVersionError as error:
                damaged[version] = f"{error.file}: {error.problem}"
                continue
            yield from _entry(f"{VERSIONS}/{version}/{TENSORS_FILE}", files.tensors)
            yield from _entry(f"{VERSIONS}/{version}/{MANIFEST_FILE}", files.manifest)
            copied.add(version)
    kept = [version for version in snapshot.versions if version in copied]
    for path in _evaluations(store, kept):
        with contextlib.suppress(FileNotFoundError):  # its test set was removed
            yield from _entry(path.relative_to(store).as_posix(), path.read_bytes())
    index = {"versions": kept, "damaged": {version: damaged[version] for version in damaged}}
    yield from _entry(INDEX_FILE, json.dumps(index, indent=2).encode())
    for name in sorted(snapshot.files, key=lambda name: (name == POINTER, name)):
        yield from _entry(name, snapshot.files[name])
    yield b"\0" * (2 * _BLOCK)


def _evaluations(store: Path, versions: list[VersionId]) -> Iterator[Path]:
    for version in versions:
        with contextlib.suppress(FileNotFoundError):
            folder = store / evaluations.FOLDER / version
            yield from sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def _entry(name: str, data: bytes) -> Iterator[bytes]:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(data), 0o600
    yield entry.tobuf(tarfile.PAX_FORMAT)
    for at in range(0, len(data), PIECE_BYTES):
        yield data[at : at + PIECE_BYTES]
    if left := len(data) % _BLOCK:
        yield b"\0" * (_BLOCK - left)
