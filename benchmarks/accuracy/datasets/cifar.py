"""CIFAR-100 and CIFAR-10 as published (python version), and CIFAR-10 as one small array file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from torchvision.datasets import CIFAR10, CIFAR100

from benchmarks.accuracy.datasets.images import ArrayImages
from benchmarks.accuracy.datasets.types import Dataset, DatasetError, DatasetMissingError, peer_dataset, require, shown


# torchvision hashes every file each time it opens either split, and refuses a re-packed copy that reads just as well.
# A file without a checksum need only be there; which data was read is in the record, as `data_digest`.
class _PresentCIFAR10(CIFAR10):  # type: ignore[misc]
    train_list = [[name, None] for name, _ in CIFAR10.train_list]  # noqa: RUF012 - torchvision's own class attributes
    test_list = [[name, None] for name, _ in CIFAR10.test_list]  # noqa: RUF012
    meta = {**CIFAR10.meta, "md5": None}  # noqa: RUF012


class _PresentCIFAR100(CIFAR100):  # type: ignore[misc]
    train_list = [[name, None] for name, _ in CIFAR100.train_list]  # noqa: RUF012
    test_list = [[name, None] for name, _ in CIFAR100.test_list]  # noqa: RUF012
    meta = {**CIFAR100.meta, "md5": None}  # noqa: RUF012


def load_cifar100(root: Path, cache: Path) -> Dataset:
    """CIFAR-100 with its fine classes, from `root/cifar-100-python` (the files are pickles: use the published ones)."""
    layout = (
        f"the unpacked cifar-100-python.tar.gz (https://www.cs.toronto.edu/~kriz/cifar.html): "
        f"{root}/cifar-100-python with the files train, test and meta."
    )
    return _load("cifar100", _PresentCIFAR100, root, layout, tasks=10)


def load_cifar10(root: Path, cache: Path) -> Dataset:
    """CIFAR-10 from `root/cifar-10-batches-py`, or else from `root/cifar10-6k.npz`."""
    layout = (
        f"the unpacked cifar-10-python.tar.gz (https://www.cs.toronto.edu/~kriz/cifar.html): "
        f"{root}/cifar-10-batches-py with data_batch_1 to data_batch_5, test_batch and batches.meta; "
        f"or {root}/cifar10-6k.npz with x_train, y_train, x_test, y_test and classes."
    )
    archive = root / "cifar10-6k.npz"
    if archive.is_file() and not (root / CIFAR10.base_folder).exists():
        return _load_npz(archive, layout)
    return _load("cifar10", _PresentCIFAR10, root, layout, tasks=5)


def _load(
    name: str, kind: type[_PresentCIFAR10] | type[_PresentCIFAR100], root: Path, layout: str, *, tasks: int
) -> Dataset:
    folder = root / kind.base_folder
    for file in [*(file for file, _ in kind.train_list + kind.test_list), kind.meta["filename"]]:
        require(folder / file, name, layout)
    train, test = kind(root, train=True, download=False), kind(root, train=False, download=False)
    images = (ArrayImages(part.data, part.targets) for part in (train, test))
    return peer_dataset(name, [shown(published) for published in train.classes], *images, tasks=tasks)


def _load_npz(path: Path, layout: str) -> Dataset:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            x_train, y_train, x_test, y_test, names = (
                arrays[key] for key in ("x_train", "y_train", "x_test", "y_test", "classes")
            )
    except KeyError as error:
        raise DatasetMissingError(f"data set cifar10: {path}: {error.args[0]}; expected {layout}") from error
    try:
        train, test = ArrayImages(x_train, y_train.tolist()), ArrayImages(x_test, y_test.tolist())
    except ValueError as error:
        raise DatasetError(f"data set cifar10: {path}: {error}") from error
    return peer_dataset("cifar10", [shown(str(name)) for name in names], train, test, tasks=5)
