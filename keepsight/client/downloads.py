"""Files that the service sends: under a passing name until they are complete."""

from __future__ import annotations

import contextlib
import json
import os
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import httpx

from keepsight.client.errors import ApiError, DownloadError

ExportFormat = Literal["safetensors", "onnx"]
FORMATS: tuple[ExportFormat, ...] = get_args(ExportFormat)
DIFFERENCE_HEADER = "Keepsight-Difference"
OnBytes = Callable[[int, int], None]
"""Gets the bytes received so far, and how many there will be."""
Check = Callable[[Path, httpx.Response], object]
"""Gets a file that was received whole, and raises if it is not what was asked for."""


def no_check(path: Path, response: httpx.Response) -> None:
    """Take any file."""


@dataclass(frozen=True)
class ExportedFile:
    """A version in a file. `difference` is the largest one between an ONNX model's answers and the service's."""

    path: Path
    bytes: int
    difference: float | None


@dataclass(frozen=True)
class BackupFile:
    """A store in a tar file, which `keepsight restore` takes. `damaged` versions were left out, and why."""

    path: Path
    bytes: int
    versions: tuple[str, ...]
    damaged: dict[str, str]


def check_backup(path: Path, response: httpx.Response) -> BackupFile:
    """Return what is in a backup that was received.

    Raises:
        ApiError: the answer ended too early.
        DownloadError: the file cannot be read.
    """
    try:
        with tarfile.open(path, "r:") as archive:
            names = set(archive.getnames())
            index = archive.extractfile("backup.json") if {"backup.json", "CURRENT"} <= names else None
            if index is None:
                raise ApiError(response.status_code, f"{response.url} ended before the backup was complete")
            with index:
                said = json.load(index)
        return BackupFile(path, path.stat().st_size, tuple(said["versions"]), dict(said["damaged"]))
    except (tarfile.TarError, ValueError, KeyError) as error:
        raise ApiError(response.status_code, f"{response.url} sent no backup: {error}") from error
    except OSError as error:
        raise DownloadError(f"{path} cannot be read: {error.strerror}") from error


def file_for(path: Path, version_id: str, form: ExportFormat) -> Path:
    """Return where a version is written: the file itself, or one in the folder that is named after the version.

    Raises:
        DownloadError: there is no folder for the file.
    """
    if path.is_dir():
        return path / f"{version_id}.{form}"
    if not path.absolute().parent.is_dir():
        raise DownloadError(f"{path} cannot be written: there is no folder {path.parent}")
    return path


@contextlib.contextmanager
def receiving(
    path: Path,
    response: httpx.Response,
    on_bytes: OnBytes | None,
    *,
    check: Check = no_check,
) -> Iterator[Callable[[bytes], None]]:
    """Yield what writes the pieces of a response to a file, which has its name only once all of them are there.

    `check` gets the file before that, and raises if it is not what was asked for: what had the name before stays.

    Raises:
        DownloadError: the file cannot be written.
        ApiError: the answer ended too early.
    """
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    expected = int(response.headers.get("Content-Length") or 0)
    try:
        with part.open("wb") as file:

            def write(piece: bytes) -> None:
                file.write(piece)
                if on_bytes is not None:
                    on_bytes(file.tell(), expected)

            yield write
            if expected and file.tell() != expected:
                raise ApiError(response.status_code, f"{response.url} sent {file.tell()} bytes, expected {expected}")
        check(part, response)
        part.replace(path)
    except OSError as error:
        raise DownloadError(f"{path} cannot be written: {error.strerror}") from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


def exported(path: Path, response: httpx.Response) -> ExportedFile:
    """Return what was received."""
    difference = response.headers.get(DIFFERENCE_HEADER)
    return ExportedFile(path, path.stat().st_size, None if difference is None else float(difference))
