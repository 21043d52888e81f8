"""Decides which paths in an archive are refused or passed over, and which class and split an image belongs to.

The rule is written down once, for users, in docs/uploads.md.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

from app.errors import ArchiveError
from app.intake.class_level import Container, find_containers, listed
from app.intake.folder_names import Kind, Split, kind_of, noise_in, split_of
from exchange.contracts import PassedOver

_DRIVE = re.compile(r"^[A-Za-z]:")
MAX_SHOWN = 200
MAX_FOLDERS = 16
MAX_LISTED = 1000
_FREE_FOLDER_NAMES = 1000
_NO_CLASS = "not in a class folder; expected one folder per class"
_TEST = "a test split, which is neither learned from nor measured on"

Parts = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of an archive, as its directory lists it."""

    path: str
    size: int
    is_folder: bool


@dataclass(frozen=True, slots=True)
class Place:
    """An entry's class `label`, or the `reason` why it is rejected. If both are None, it is passed over.

    `held_out` says that the image is measured on and not learned from, `test` that it is of the test split.
    """

    label: str | None = None
    reason: str | None = None
    held_out: bool = False
    test: bool = False


@dataclass(frozen=True)
class Layout:
    """The place of every entry, in the archive's order, and what is to be told of the whole.

    `labels` are the classes to be learned, `held_out_labels` those with held-out images, `test_labels` those of a test
    split, all in alphabetical order.
    `passed_over` has one row per topmost path, of at most 1,000; `notes` say how the folders were read.
    """

    places: tuple[Place, ...]
    labels: tuple[str, ...]
    held_out_labels: tuple[str, ...]
    passed_over: tuple[PassedOver, ...]
    passed_over_count: int
    notes: tuple[str, ...]
    test_labels: tuple[str, ...] = ()


def shown(path: str) -> str:
    """Return a path that is safe to send and log: valid Unicode, no control characters, at most 200 characters."""
    text = "".join(c if c.isprintable() else "�" for c in path.encode("utf-8", "replace").decode("utf-8"))
    return text if len(text) <= MAX_SHOWN else text[: MAX_SHOWN - 1] + "…"


def parts_of(path: str) -> Parts:
    """Split a path at slashes and backslashes.

    Raises:
        ArchiveError: the path is absolute, climbs out with `..`, holds a NUL, or is deeper than 16 folders. Ordinary
            archives have no such entries, so the whole archive is refused.
    """
    if "\0" in path:
        raise ArchiveError(f"the entry {shown(path)!r} has a NUL character in its path")
    plain = path.replace("\\", "/")
    if plain.startswith("/") or _DRIVE.match(plain):
        raise ArchiveError(f"the entry {shown(path)!r} has an absolute path; expected paths inside the archive")
    parts = tuple(part for part in plain.split("/") if part not in ("", "."))
    if ".." in parts:
        raise ArchiveError(f"the entry {shown(path)!r} climbs out of the archive with '..'")
    if len(parts) > MAX_FOLDERS + 1:
        raise ArchiveError(
            f"the entry {shown(path)!r} lies in {len(parts) - 1} folders; at most {MAX_FOLDERS} are read"
        )
    return parts


def lay_out(entries: Sequence[Entry], *, with_test: bool = False) -> Layout:
    """Find the class and the split of every entry. A test split is passed over, unless `with_test` asks for it.

    Raises:
        ArchiveError: an entry's path is unsafe.
        TaskRefusedError: which folders are the classes cannot be told; the message says what was seen.
    """
    paths = _split([entry.path for entry in entries])
    noise = [noise_in(parts) for parts in paths]
    plain = [not e.is_folder and n is None and bool(p) for e, n, p in zip(entries, noise, paths, strict=True)]
    kinds = [kind_of(parts[-1]) if is_plain else None for parts, is_plain in zip(paths, plain, strict=True)]

    def of_kind(*wanted: Kind) -> list[Parts]:
        return [parts for parts, kind in zip(paths, kinds, strict=True) if kind in wanted]

    # files of unknown kind tell where the classes are only if no file has the name of an image
    images = of_kind(Kind.IMAGE) or of_kind(Kind.UNKNOWN)
    reading = _Reading(find_containers(images, with_test=with_test), with_test=with_test)
    reading.classes.update(filter(None, map(reading.class_folder, of_kind(Kind.IMAGE, Kind.UNKNOWN))))
    left = _PassedOver()
    places: list[Place] = []
    for parts, found, is_plain in zip(paths, noise, plain, strict=True):
        if found is not None:
            left.add(parts[: found[0] + 1], found[1])
        places.append(reading.place(parts, left) if is_plain else Place())
    held = {place.label for place in places if place.label is not None and place.held_out}
    learned = {place.label for place in places if place.label is not None and not place.held_out and not place.test}
    tested = {place.label for place in places if place.label is not None and place.test}
    folders = {
        parts[: found[0]] if found else parts
        for parts, found, entry in zip(paths, noise, entries, strict=True)
        if found or entry.is_folder
    }
    for folder in _empty(folders - {()}, (parts for parts, is_plain in zip(paths, plain, strict=True) if is_plain)):
        left.add(folder, "an empty folder")
    return Layout(
        tuple(places),
        labels=tuple(sorted(learned)),
        held_out_labels=tuple(sorted(held)),
        passed_over=left.rows(),
        passed_over_count=len(left),
        notes=tuple(reading.notes(held)),
        test_labels=tuple(sorted(tested)),
    )


def _split(paths: Sequence[str]) -> list[Parts]:
    """Split all paths, and keep every name once: archives have few folders, so hostile ones that have many are refused.

    Raises:
        ArchiveError: there are more names of folders than entries could need.
    """
    names: dict[str, str] = {}
    most = _FREE_FOLDER_NAMES + 2 * len(paths)
    split: list[Parts] = []
    for path in paths:
        *folders, last = parts_of(path) or ("",)
        folders = [names.setdefault(name, name) for name in folders]
        if len(names) > most:
            raise ArchiveError(f"the archive of {len(paths)} entries has more than {most} names of folders")
        split.append((*folders, last) if last else ())
    return split


class _PassedOver:
    """What is passed over, by its topmost path."""

    def __init__(self) -> None:
        self._reasons: dict[Parts, str] = {}
        self._files: Counter[Parts] = Counter()

    def add(self, path: Parts, reason: str) -> None:
        self._reasons.setdefault(path, reason)
        self._files[path] += 1

    def __len__(self) -> int:
        return len(self._reasons)

    def rows(self) -> tuple[PassedOver, ...]:
        return tuple(
            PassedOver(path=shown("/".join(path)), reason=reason, entries=self._files[path])
            for path, reason in islice(self._reasons.items(), MAX_LISTED)
        )


class _Reading:
    """Where the classes are, and how every file is read by it."""

    def __init__(self, containers: Mapping[Parts, Container], *, with_test: bool) -> None:
        self.classes: set[Parts] = set()
        self._with_test = with_test
        self._containers = containers
        self._depths = sorted({len(path) for path in containers}, reverse=True)
        self._nested: Counter[str] = Counter()
        self._places: dict[tuple[str, Split], Place] = {}  # one for all images of a class

    def container(self, parts: Parts) -> Container | None:
        """Return the nearest folder of classes (or test split) above a file."""
        return next((self._containers[parts[:n]] for n in self._depths if parts[:n] in self._containers), None)

    def class_folder(self, parts: Parts) -> Parts | None:
        """Return the path of the class folder that a file lies in."""
        container = self.container(parts)
        depth = 0 if container is None else len(container.path) + 1
        return parts[:depth] if depth and len(parts) > depth else None

    def place(self, parts: Parts, left: _PassedOver) -> Place:
        """Return the place of a file; if it is passed over, note it in `left`."""
        container = self.container(parts)
        if container is not None and container.split is Split.TEST and not self._with_test:
            left.add(container.path, _TEST)
            return Place()
        folder = self.class_folder(parts)
        if container is None or folder is None:
            return Place(reason=_NO_CLASS)
        if folder not in self.classes:
            left.add(folder, "a folder without an image file")
            return Place()
        label, inside = folder[-1], parts[len(folder) : -1]
        split = container.split
        if inside and label in container.split_classes:
            split = split_of(inside[0]) or split
            if split is Split.TEST and not self._with_test:
                left.add((*folder, inside[0]), _TEST)
                return Place()
        elif inside:
            self._nested[label] += 1
        place = Place(label=label, held_out=split is Split.VAL, test=split is Split.TEST)
        return self._places.setdefault((label, split), place)

    def notes(self, held: set[str]) -> Iterator[str]:
        """Say how the folders were read, where that is not the plain `class/image`."""
        above = [shown("/".join(c.path)) for c in self._containers.values() if c.path and c.split is not Split.TEST]
        if above:
            yield f"the classes are the folders in {listed(above)}"
        if held:
            yield f"the val split is measured on and not learned from; it has the classes {listed(held)}"
        if count := self._nested.total():
            yield f"{count} files in sub-folders of class folders belong to the classes {listed(self._nested)}"


def _empty(folders: set[Parts], files: Iterable[Parts]) -> Iterator[Parts]:
    """Yield those of the folders that hold no file, and lie in no other of these."""
    empty = set(folders)
    for parts in files:
        empty.difference_update(parts[:n] for n in range(1, len(parts)))
    yield from sorted(folder for folder in empty if not any(folder[:n] in empty for n in range(1, len(folder))))
