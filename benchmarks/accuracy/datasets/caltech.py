"""Caltech-101: the small re-encoded archive with its split lists, or the published folder."""

from __future__ import annotations

import hashlib
import os
import shutil
import tarfile
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.accuracy.datasets.folders import class_folders, labelled, split_classes
from benchmarks.accuracy.datasets.images import FileImages
from benchmarks.accuracy.datasets.types import (
    PEER_SEED,
    Dataset,
    DatasetError,
    DatasetMissingError,
    peer_dataset,
    shown,
)

CLASSES = 100
TRAIN_PER_CLASS = 30
_BACKGROUND = "BACKGROUND_Google"
_ARCHIVE, _LISTS = "caltech101-128px.tar", ("caltech101-train.txt", "caltech101-test.txt")


def load_caltech101(root: Path, cache: Path) -> Dataset:
    """Caltech-101's first hundred classes in alphabetical order, case-sensitive, the background left out.

    The split is that of the two lists where they are there, else 30 training images of each class, chosen by hash, and
    the rest for test. The archive is unpacked once, into `cache`. (torchvision's loader is not used: it needs scipy,
    counts files instead of naming them, and creates the folder it is asked about.)

    Raises:
        DatasetMissingError: neither archive nor folder is there, one list without the other, a damaged archive, an
            image that a list names is not there.
        DatasetError: a list names no image of one of the classes.
    """
    archive, folder = root / _ARCHIVE, root / "caltech101" / "101_ObjectCategories"
    if archive.is_file():
        images = unpacked(archive, cache)
    elif folder.is_dir():
        images = folder
    else:
        raise DatasetMissingError(
            f"data set caltech101: neither {archive} nor {folder} is there; expected {archive} with {_LISTS[0]} and "
            f"{_LISTS[1]} beside it; or the published images (https://data.caltech.edu/records/mzrjq-6wc02) as "
            f"{folder}/<class>/*.jpg"
        )
    folders = [name for name in class_folders(images) if name != _BACKGROUND][:CLASSES]
    if not folders:
        raise DatasetMissingError(f"data set caltech101: {images} holds no class folders; expected <class>/*.jpg in it")
    lists = _lists(root, folder.parent)
    if lists is None:
        train, test = split_classes(images, folders, first=TRAIN_PER_CLASS)
    else:
        train, test = (_listed(images, folders, path) for path in lists)
    order = tuple(np.random.default_rng(PEER_SEED).permutation(len(folders)).tolist())
    return replace(peer_dataset("caltech101", [shown(name) for name in folders], train, test), class_order=order)


def unpacked(archive: Path, cache: Path) -> Path:
    """The folder in `cache` that holds what is in `archive`, unpacked if it is not there yet.

    The folder is named after the archive's content and appears whole or not at all, so that an interrupted unpacking,
    another process at the same work, or a changed archive never leave a mixture.

    Raises:
        DatasetMissingError: the archive is damaged, or holds what would land outside the folder.
    """
    with archive.open("rb") as file:
        content = hashlib.file_digest(file, "sha256").hexdigest()
    target = cache / f"{archive.stem}-{content[:16]}"
    if target.is_dir():
        return target
    cache.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f".{archive.stem}-", dir=cache))
    try:
        with tarfile.open(archive) as tar:
            tar.extractall(unfinished, filter="data")
        os.replace(unfinished, target)
    except (tarfile.TarError, EOFError) as error:
        raise DatasetMissingError(f"{archive} cannot be unpacked: {error}; expected an intact archive") from error
    except OSError:
        if not target.is_dir():  # unless another process was first, which is as good
            raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return target


def _lists(*places: Path) -> tuple[Path, Path] | None:
    for place in places:
        train, test = (place / name for name in _LISTS)
        if train.is_file() and test.is_file():
            return train, test
        if train.is_file() or test.is_file():
            raise DatasetMissingError(
                f"data set caltech101: {place} holds one of {' and '.join(_LISTS)}; expected both"
            )
    return None


def _listed(images: Path, folders: list[str], path: Path) -> FileImages:
    names: dict[str, list[str]] = {folder: [] for folder in folders}
    for name in filter(None, map(str.strip, path.read_text(encoding="utf-8").splitlines())):
        folder = name.partition("/")[0]
        # of classes that are not taken, too: without its first classes, a torn archive would pass for another data set
        if folder != _BACKGROUND and not (images / name).is_file():
            raise DatasetMissingError(f"data set caltech101: {path} names {name}, which is not in {images}")
        if folder in names:
            names[folder].append(name)
    empty = [folder for folder, listed in names.items() if not listed]
    if empty:
        raise DatasetError(f"data set caltech101: {path} names no image of {', '.join(empty)}")
    return labelled(images, dict(enumerate(names.values())))
