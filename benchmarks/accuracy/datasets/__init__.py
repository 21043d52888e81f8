"""The benchmarks' data sets, read from their published layouts; nothing is downloaded.

`load_dataset` finds one by name, or reads anybody's folder-per-class directory. Images stay in files until opened.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

from benchmarks.accuracy.datasets.caltech import load_caltech101
from benchmarks.accuracy.datasets.cifar import load_cifar10, load_cifar100
from benchmarks.accuracy.datasets.cub import load_cub200
from benchmarks.accuracy.datasets.digest import data_digest
from benchmarks.accuracy.datasets.folders import load_folder
from benchmarks.accuracy.datasets.imagenet import load_imagenet_r, load_imagenet_sub
from benchmarks.accuracy.datasets.selection import subset, validation_slice
from benchmarks.accuracy.datasets.types import Dataset, DatasetError, DatasetMissingError, LabelledImages
from benchmarks.accuracy.datasets.ucf import load_ucf101

__all__ = [
    "DATASETS",
    "Dataset",
    "DatasetError",
    "DatasetMissingError",
    "LabelledImages",
    "Loader",
    "data_digest",
    "load_dataset",
    "subset",
    "validation_slice",
]

Loader = Callable[[Path, Path], Dataset]
"""(root, cache) -> data set. `root` is only read; what has to be unpacked goes into `cache`."""

DATASETS: Mapping[str, Loader] = MappingProxyType(
    {
        "cifar100": load_cifar100,
        "imagenet-r": load_imagenet_r,
        "imagenet-sub": load_imagenet_sub,
        "cub200": load_cub200,
        "ucf101": load_ucf101,
        "caltech101": load_caltech101,
        "cifar10": load_cifar10,
    }
)

_FOLDER = "folder:"


def load_dataset(name: str, root: Path, *, tasks: int | None = None, cache: Path | None = None) -> Dataset:
    """The data set `name` of `DATASETS` under `root`; or `folder:PATH`, or the path of a directory: a folder per class.

    `tasks` replaces the usual number of tasks. `cache` is where an archive is unpacked once: if None, `keepsight-bench`
    in the user's cache directory (`XDG_CACHE_HOME`).

    Raises:
        DatasetMissingError: unknown name, or files that are not there; the message says what to put where.
        DatasetError: files that contradict each other, or more tasks than classes.
    """
    if name in DATASETS:
        dataset = DATASETS[name](root, _user_cache() if cache is None else cache)
    elif name.startswith(_FOLDER):
        dataset = load_folder(Path(name.removeprefix(_FOLDER)).expanduser())
    elif Path(name).expanduser().is_dir():
        dataset = load_folder(Path(name).expanduser())
    else:
        raise DatasetMissingError(
            f"there is no data set {name!r}; expected one of {', '.join(DATASETS)}; or folder:PATH, a directory with a "
            "folder per class"
        )
    return dataset if tasks is None else replace(dataset, tasks=tasks)


def _user_cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "keepsight-bench"
