"""Directories with a folder per class: how they are listed and split, and anybody's own data set in that form."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from benchmarks.accuracy.datasets.images import FileImages
from benchmarks.accuracy.datasets.selection import split_by_hash
from benchmarks.accuracy.datasets.types import Dataset, DatasetError, DatasetMissingError, peer_dataset, require, shown

TRAIN_SHARE = 0.8
_SUFFIXES = (".jpg", ".jpeg", ".png", ".gif", ".webp", ".bmp", ".tif", ".tiff")


def load_folder(path: Path) -> Dataset:
    """A folder per class: `train/<class>/*` with `test/<class>/*` (or `val`), or `<class>/*`, split 80/20 by hash.

    Raises:
        DatasetMissingError: not a directory, no class folders, a class without images, train without test.
        DatasetError: train and test do not hold the same classes, or two names differ in case or underscores only.
    """
    layout = (
        f"a folder per class: {path}/train/<class>/*.jpg and {path}/test/<class>/*.jpg (or val), "
        f"or {path}/<class>/*.jpg, which is split 80/20."
    )
    name = path.resolve().name
    if not path.is_dir():
        raise DatasetMissingError(f"{path} is not a directory; expected {layout}")
    # a class may be called `train`: it then holds images, not folders
    if (path / "train").is_dir() and class_folders(path / "train"):
        test = next((path / part for part in ("test", "val") if (path / part).is_dir()), path / "test")
        require(test, name, layout)
        folders = class_folders(path / "train")
        if class_folders(test) != folders:
            different = sorted(set(folders) ^ set(class_folders(test)))
            raise DatasetError(f"{path}: train and {test.name} must hold the same classes; {different} are in one only")
        splits = (of_classes(path, folders, "train"), of_classes(path, folders, test.name))
    else:
        folders = class_folders(path)
        splits = split_classes(path, folders)
    if not folders:
        raise DatasetMissingError(f"{path} holds no class folders; expected {layout}")
    return peer_dataset(name, [shown(folder) for folder in folders], *splits)


def class_folders(path: Path) -> list[str]:
    """The names of the folders in `path`, sorted by code point, hidden ones left out."""
    with os.scandir(path) as entries:
        return sorted(entry.name for entry in entries if not entry.name.startswith(".") and entry.is_dir())


def image_files(root: Path, folder: str) -> list[str]:
    """The image files in `root/folder`, relative to `root`, sorted.

    Raises:
        DatasetMissingError: the folder is not there, or holds no image.
    """
    try:
        with os.scandir(root / folder) as entries:
            names = sorted(
                f"{folder}/{entry.name}"
                for entry in entries
                if not entry.name.startswith(".") and entry.name.lower().endswith(_SUFFIXES)
            )
    except (FileNotFoundError, NotADirectoryError) as error:
        raise DatasetMissingError(f"{root / folder} is missing; expected a folder of images") from error
    if not names:
        raise DatasetMissingError(f"{root / folder} holds no images; expected files that end in {', '.join(_SUFFIXES)}")
    return names


def of_classes(root: Path, folders: Sequence[str], part: str) -> FileImages:
    """The images in `root/part/<folder>`, labelled by the folder's position."""
    return labelled(root, {label: image_files(root, f"{part}/{folder}") for label, folder in enumerate(folders)})


def split_classes(root: Path, folders: Sequence[str], *, first: int | None = None) -> tuple[FileImages, FileImages]:
    """The images in `root/<folder>`, split by hash within each: `first` for training (80 % if None), the rest for test.

    Raises:
        DatasetMissingError: a folder does not hold two images.
    """
    train: dict[int, list[str]] = {}
    test: dict[int, list[str]] = {}
    for label, folder in enumerate(folders):
        names = image_files(root, folder)
        if len(names) < 2:
            raise DatasetMissingError(f"{root / folder} holds one image; training and test need one each")
        train[label], test[label] = split_by_hash(names, round(TRAIN_SHARE * len(names)) if first is None else first)
    return labelled(root, train), labelled(root, test)


def labelled(root: Path, names: Mapping[int, Iterable[str]]) -> FileImages:
    """Files under `root` by label, as one sequence of images."""
    pairs = [(name, label) for label, of_label in names.items() for name in of_label]
    return FileImages(root, [name for name, _ in pairs], [label for _, label in pairs])
