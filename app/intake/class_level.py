"""Finds the folders whose sub-folders are the classes, from nothing but the paths of the images.

Every step asks what lies directly in a folder: images, folders, or both. Where two readings are left, the upload is
refused with what was seen, since a wrong guess teaches wrong names.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from heapq import nsmallest

from app.errors import TaskRefusedError
from app.intake.folder_names import Split, is_container, names_no_class, split_of

Parts = tuple[str, ...]
_SHOWN = 4
_DATE_LEVELS = 3  # year, month, day


@dataclass(frozen=True)
class Container:
    """A folder whose sub-folders are classes, all of one split; or the folder of a test split.

    The `split_classes` are split below the class instead: `cat/train/1.jpg`, `cat/val/2.jpg`.
    """

    path: Parts
    split: Split = Split.TRAIN
    split_classes: frozenset[str] = frozenset()


def find_containers(images: Sequence[Parts], *, with_test: bool = False) -> Mapping[Parts, Container]:
    """Return the folders of classes by their paths. All of their images are among `images`.

    The folder of a test split counts as one container, whatever is in it, unless `with_test` asks for its classes.

    Raises:
        TaskRefusedError: which folders are the classes cannot be told.
    """
    top = _unwrapped(_Folder((), images))
    if not _is_split(top):
        return {c.path: c for c in _class_folders(top)}
    found: dict[Parts, Container] = {}
    for name, part in top.folders.items():
        split = split_of(name)
        assert split is not None
        whole = split is Split.TEST and not with_test
        inside = [part.path] if whole else [c.path for c in _class_folders(_unwrapped(part))]
        found.update({path: Container(path, split) for path in inside})
    return found


class _Folder:
    """A folder, with the paths of all images in it and below it."""

    def __init__(self, path: Parts, images: Sequence[Parts]) -> None:
        self.path = path
        self.images = images

    @cached_property
    def folders(self) -> Mapping[str, _Folder]:
        """The sub-folders that hold images, by name."""
        depth = len(self.path)
        below: dict[str, list[Parts]] = {}
        for parts in self.images:
            if len(parts) > depth + 1:
                below.setdefault(parts[depth], []).append(parts)
        return {name: _Folder((*self.path, name), images) for name, images in below.items()}

    @cached_property
    def is_flat(self) -> bool:
        """Whether images lie directly in it."""
        return any(len(parts) == len(self.path) + 1 for parts in self.images)

    @property
    def is_nested(self) -> bool:
        """Whether images lie in folders of it."""
        return any(len(parts) > len(self.path) + 1 for parts in self.images)

    def __str__(self) -> str:
        return repr("/".join(self.path)[:200])


def _unwrapped(folder: _Folder) -> _Folder:
    """Go down through folders that hold nothing but one folder of folders."""
    while len(folder.folders) == 1:
        (only,) = folder.folders.values()
        if not _may_be_classes(only.folders):  # also where it has none: it is the one class
            break
        if only.is_flat and len(only.folders) > 1:
            raise TaskRefusedError(
                f"the folder {only} holds images and also folders of images ({listed(only.folders)}), so it may be one "
                "class or a folder of classes; move the images out of it, or all images of the one class into it"
            )
        if only.is_flat:
            break
        folder = only
    return folder


def _is_split(folder: _Folder) -> bool:
    """Return whether the folders in this one are the splits of a data set: all are called so, and train has classes."""
    splits = {name: split_of(name) for name in folder.folders}
    if len(splits) < 2 or None in splits.values():
        return False
    if not any(splits[name] is Split.TRAIN and part.is_nested for name, part in folder.folders.items()):
        raise TaskRefusedError(
            f"the folders {listed(splits)} are called like the splits of a data set, but there is no train folder with "
            "one folder per class; expected, for example, train/cat/1.jpg and val/cat/2.jpg"
        )
    return True


def _class_folders(folder: _Folder) -> list[Container]:
    """Return the folders of classes at or below `folder`: it, or each of its sub-folders."""
    inside = folder.folders
    nested = {name: part for name, part in inside.items() if not part.is_flat}
    here = [Container(folder.path, split_classes=frozenset(n for n, part in nested.items() if _is_split_class(part)))]
    if len(nested) < len(inside) or len(inside) < 2:
        doubtful = [part for name, part in nested.items() if is_container(name) and _may_be_classes(part.folders)]
        if doubtful and len(inside) > 1:
            raise TaskRefusedError(
                f"the folder {doubtful[0]} holds folders of images ({listed(doubtful[0].folders)}), and beside it lie "
                f"folders of images ({listed(set(inside) - set(nested))}), so the classes may be on either level; put "
                "all classes into one folder, and leave out what is no class"
            )
        return here
    if len(here[0].split_classes) == len(inside):
        return here
    below = [(name, part) for group in inside.values() for name, part in group.folders.items()]
    names = {name for name, _ in below}
    all_flat = all(part.is_flat and not part.is_nested for _, part in below)
    if not any(_may_be_classes(group.folders) for group in inside.values()):
        return here
    groups = all(names_no_class(name) for name in inside)
    if len(names) == 1 and not groups and (all_flat or split_of(below[0][0]) is None):
        return here
    differ = len(names) == len(below) and all(any(map(str.isalpha, name)) for name in names)
    if all_flat and (groups or differ):
        return [Container(group.path) for group in inside.values()]
    raise TaskRefusedError(
        f"every folder ({listed(inside)}) holds folders of images ({listed(names)}), so the classes may be on either "
        "level; put one folder per class next to each other, with the images in it"
    )


def _may_be_classes(folders: Mapping[str, _Folder], levels: int = _DATE_LEVELS) -> bool:
    """Return whether folders, or folders in them, may be classes by their names."""
    return any(
        not names_no_class(name) or (not part.is_flat and (not levels or _may_be_classes(part.folders, levels - 1)))
        for name, part in folders.items()
    )


def _is_split_class(folder: _Folder) -> bool:
    """Return whether a class folder holds nothing but its own splits, each with images."""
    splits = [split_of(name) for name in folder.folders]
    flat = all(part.is_flat for part in folder.folders.values())
    return len(splits) > 1 and None not in splits and Split.TRAIN in splits and flat


def listed(names: Iterable[str]) -> str:
    """Return names for a sentence: the first four in quotes, and how many more there are."""
    names = list(names)
    shown = ", ".join(repr(name[:60]) for name in nsmallest(_SHOWN, names))
    return f"{shown} and {len(names) - _SHOWN} more" if len(names) > _SHOWN else shown
