"""Finds the files that `teach` and `classify` send, and notes every file that they leave behind, with the reason."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from keepsight.client.errors import UploadError

IMAGE_SUFFIXES = frozenset(
    {
        ".apng", ".avif", ".avifs", ".bmp", ".dib", ".gif", ".heic", ".heics", ".heif", ".hif", ".jfi", ".jfif", ".jif",
        ".jpe", ".jpeg", ".jpg", ".mpo", ".png", ".tif", ".tiff", ".webp",
    }
)  # fmt: skip
"""How a file's name must end for the file to be found in a folder. One that is given itself is sent in any case."""

_DEEPEST = 100


@dataclass(frozen=True)
class Skipped:
    """A file or folder that is not sent, and why."""

    path: str
    reason: str


@dataclass(frozen=True)
class Member:
    """A file of a folder, and the name it has in the archive. A name that ends with `/` is an empty folder's."""

    path: Path
    name: str
    size: int


@dataclass(frozen=True)
class Packed:
    """The members of a folder in a stable order, and what of it is not sent."""

    members: tuple[Member, ...]
    skipped: tuple[Skipped, ...]


@dataclass(frozen=True)
class Found:
    """Image files, each once, in order, and what lay beside them in the same folders."""

    files: tuple[Path, ...]
    skipped: tuple[Skipped, ...]


def pack_folder(folder: Path) -> Packed:
    """Return what is to be sent of a folder with a subfolder per class: all but what is hidden or in no subfolder.

    Raises:
        UploadError: there is no subfolder with a file in it, or a folder cannot be read.
    """
    members: list[Member] = []
    skipped: list[Skipped] = []
    for path in _walk(folder, skipped):
        relative = path.relative_to(folder)
        if path.is_dir():
            members.append(Member(path, f"{relative.as_posix()}/", 0))
        elif len(relative.parts) == 1:
            skipped.append(Skipped(relative.as_posix(), "not in a class folder; expected one folder per class"))
        else:
            members.append(Member(path, relative.as_posix(), path.stat().st_size))
    if not any(member.path.is_file() for member in members):
        raise UploadError(f"{folder} has no class folders with files in them; make one folder per class")
    return Packed(tuple(members), tuple(skipped))


def find_images(arguments: Sequence[str]) -> Found:
    """Return image files from paths, folders (searched recursively for image suffixes) and globs.

    Raises:
        UploadError: an argument matches no file, or a folder cannot be read.
    """
    found: dict[Path, None] = {}
    skipped: dict[Skipped, None] = {}
    for argument in arguments:
        path = Path(argument)
        if path.is_dir():
            beside: list[Skipped] = []
            files = [each for each in _walk(path, beside) if not each.is_dir()]
            others = [each for each in files if each.suffix.lower() not in IMAGE_SUFFIXES]
            files = [each for each in files if each.suffix.lower() in IMAGE_SUFFIXES]
            beside = [Skipped(str(path / each.path), each.reason) for each in beside]
            beside += [Skipped(str(each), "not called like an image that is read") for each in others]
            if not files:
                raise UploadError(f"{argument} has no images in it{_listed(beside)}")
            skipped.update(dict.fromkeys(beside))
        elif path.exists():
            files = [path]
        else:
            files = sorted(p for p in map(Path, glob.glob(argument, recursive=True)) if p.is_file())
            if not files:
                raise UploadError(f"{argument} does not exist")
        found.update(dict.fromkeys(files))
    given = {str(path) for path in found}
    return Found(tuple(found), tuple(each for each in skipped if each.path not in given))


def _walk(folder: Path, skipped: list[Skipped]) -> Iterator[Path]:
    """Yield the files in and below a folder, and its empty folders; note in `skipped` what is hidden or unreadable."""

    def fail(error: OSError) -> None:
        raise UploadError(f"{error.filename} cannot be read: {error.strerror}") from error

    def skip(path: Path, reason: str) -> None:
        skipped.append(Skipped(path.relative_to(folder).as_posix(), reason))

    seen = {_identity(folder)}
    for place, folders, files in os.walk(folder, followlinks=True, onerror=fail):
        at = Path(place)
        inside = []
        for name in sorted(folders):
            identity = _identity(at / name)
            if name.startswith("."):
                skip(at / name, "hidden")
            elif identity in seen:
                skip(at / name, "a link to a folder that is sent already")
            elif len(at.relative_to(folder).parts) >= _DEEPEST:
                skip(at / name, f"deeper than {_DEEPEST} folders")
            else:
                seen.add(identity)
                inside.append(name)
        folders[:] = inside
        visible = []
        for name in sorted(files):
            if name.startswith("."):
                skip(at / name, "hidden")
            elif not (at / name).is_file():
                skip(at / name, "not a file, or a link that leads nowhere")
            else:
                visible.append(at / name)
        yield from visible
        if not visible and not inside and at != folder:
            yield at


def _identity(folder: Path) -> tuple[int, int]:
    status = folder.stat()
    return status.st_dev, status.st_ino


def _listed(skipped: Sequence[Skipped]) -> str:
    if not skipped:
        return ""
    more = f" and {len(skipped) - 3} more" if len(skipped) > 3 else ""
    return "; skipped " + ", ".join(f"{each.path} ({each.reason})" for each in skipped[:3]) + more
