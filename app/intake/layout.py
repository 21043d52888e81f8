"""Decides which paths in an archive are refused or ignored, and which class an image belongs to."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from app.errors import ArchiveError

_DRIVE = re.compile(r"^[A-Za-z]:")
_NOISE = {"__macosx", "thumbs.db", "desktop.ini"}
MAX_SHOWN = 200


@dataclass(frozen=True)
class Entry:
    """One entry of an archive, as its directory lists it."""

    path: str
    size: int
    is_folder: bool


@dataclass(frozen=True)
class Place:
    """An entry's class `label`, or the `reason` why it is rejected. If both are None, it is ignored."""

    label: str | None = None
    reason: str | None = None


@dataclass(frozen=True)
class Layout:
    """The place of every entry, in the archive's order, and all classes in alphabetical order."""

    places: tuple[Place, ...]
    labels: tuple[str, ...]
    ignored: int


def shown(path: str) -> str:
    """Return a path that is safe to send and log: valid Unicode, no control characters, at most 200 characters."""
    text = "".join(c if c.isprintable() else "�" for c in path.encode("utf-8", "replace").decode("utf-8"))
    return text if len(text) <= MAX_SHOWN else text[: MAX_SHOWN - 1] + "…"


def parts_of(path: str) -> tuple[str, ...]:
    """Split a path at slashes and backslashes.

    Raises:
        ArchiveError: the path is absolute, climbs out with `..`, or holds a NUL. Ordinary archives have no such
            entries, so the whole archive is refused.
    """
    if "\0" in path:
        raise ArchiveError(f"the entry {shown(path)!r} has a NUL character in its path")
    plain = path.replace("\\", "/")
    if plain.startswith("/") or _DRIVE.match(plain):
        raise ArchiveError(f"the entry {shown(path)!r} has an absolute path; expected paths inside the archive")
    parts = tuple(part for part in plain.split("/") if part not in ("", "."))
    if ".." in parts:
        raise ArchiveError(f"the entry {shown(path)!r} climbs out of the archive with '..'")
    return parts


def is_noise(parts: Sequence[str]) -> bool:
    """Return whether a path is hidden, or one that operating systems leave in archives."""
    return any(part.startswith(".") or part.lower() in _NOISE for part in parts)


def lay_out(entries: Sequence[Entry]) -> Layout:
    """Find the class of every entry: its folder, below a top-level folder that all share.

    Raises:
        ArchiveError: an entry's path is unsafe.
    """
    split = [parts_of(entry.path) for entry in entries]
    noise = [not parts or is_noise(parts) for parts in split]
    files = [p for p, e, n in zip(split, entries, noise, strict=True) if not e.is_folder and not n]
    common = len({parts[0] for parts in files}) == 1 and max(len(parts) for parts in files) > 2
    skip = 1 if common else 0
    top = files[0][0] if common else None

    places: list[Place] = []
    labels: set[str] = set()
    ignored = 0
    for entry, parts, is_ignored in zip(entries, split, noise, strict=True):
        place = Place()
        if is_ignored:
            ignored += not entry.is_folder
        elif entry.is_folder:
            inside = parts[skip:] if top is None or parts[0] == top else parts
            if len(inside) == 1:
                labels.add(inside[0])  # even if it is empty, so that the refusal can name it
        else:
            place = _place(parts[skip:])
            if place.label is not None:
                labels.add(place.label)
        places.append(place)
    return Layout(tuple(places), tuple(sorted(labels)), ignored)


def _place(parts: Sequence[str]) -> Place:
    if len(parts) == 2:
        return Place(label=parts[0])
    if len(parts) < 2:
        return Place(reason="not in a class folder; expected one folder per class")
    return Place(reason="deeper than one folder per class")
