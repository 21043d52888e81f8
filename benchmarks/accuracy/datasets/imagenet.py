"""ImageNet-R, and ImageNet-Sub: the hundred classes of ImageNet-1k that the peers draw."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from open_clip.zero_shot_metadata import IMAGENET_CLASSNAMES

from benchmarks.accuracy.datasets.folders import class_folders, of_classes, split_classes
from benchmarks.accuracy.datasets.types import Dataset, DatasetMissingError, peer_dataset, peer_order, require, shown

SUBSET_CLASSES = 100
_WNID = re.compile(r"n\d{8}")
_NAME_LINE = re.compile(r"(n\d{8})\s+(\S.*)")


def load_imagenet_r(root: Path, cache: Path) -> Dataset:
    """ImageNet-R; its own `train` and `test` where it has been split so, else 80/20 of each class by hash.

    Raises:
        DatasetMissingError: a folder is missing, or README.txt does not name a class; the message says which.
    """
    base = root / "imagenet-r"
    layout = (
        f"the unpacked imagenet-r.tar (https://github.com/hendrycks/imagenet-r): {base}/<wnid>/*.jpg and "
        f"{base}/README.txt with lines such as 'n01443537 goldfish'; or the same README.txt with images that are split "
        f"already, {base}/train/<wnid>/*.jpg and {base}/test/<wnid>/*.jpg."
    )
    require(base, "imagenet-r", layout)
    names = _names(require(base / "README.txt", "imagenet-r", layout))
    if (base / "train").is_dir() and (base / "test").is_dir():
        wnids = _wnids(base / "train", "imagenet-r", layout)
        train, test = of_classes(base, wnids, "train"), of_classes(base, wnids, "test")
    else:
        wnids = _wnids(base, "imagenet-r", layout)
        train, test = split_classes(base, wnids)
    classes = [shown(_named(wnid, names, base / "README.txt")) for wnid in wnids]
    return peer_dataset("imagenet-r", classes, train, test)


def load_imagenet_sub(root: Path, cache: Path) -> Dataset:
    """ImageNet-Sub: of the 1000 sorted wnids, the first hundred of the permutation seeded with 1993, sorted again.

    Where `train` holds a selection already, that is taken, with its names from `classnames.txt`. Names are CLIP's.

    Raises:
        DatasetMissingError: a folder is missing, or neither 1000 classes nor names of the selected ones are there.
    """
    base = root / "imagenet"
    layout = (
        f"ImageNet-1k as {base}/train/<wnid>/*.JPEG and {base}/val/<wnid>/*.JPEG (the validation images sorted into "
        f"folders) with all 1000 classes in train; or only the chosen hundred, and {base}/classnames.txt with lines "
        "such as 'n01443537 goldfish'."
    )
    require(base / "val", "imagenet-sub", layout)
    wnids = _wnids(require(base / "train", "imagenet-sub", layout), "imagenet-sub", layout)
    if len(wnids) == len(IMAGENET_CLASSNAMES):
        # the class index of ImageNet-1k is the position of its wnid among the sorted ones
        chosen = sorted(peer_order(len(wnids))[:SUBSET_CLASSES])
        wnids, classes = [wnids[index] for index in chosen], [IMAGENET_CLASSNAMES[index] for index in chosen]
    elif (base / "classnames.txt").is_file():
        names = _names(base / "classnames.txt")
        classes = [_named(wnid, names, base / "classnames.txt").replace("_", " ") for wnid in wnids]
    else:
        raise DatasetMissingError(
            f"data set imagenet-sub: {base / 'train'} holds {len(wnids)} classes and there is no "
            f"{base / 'classnames.txt'}; expected {layout}"
        )
    train, test = of_classes(base, wnids, "train"), of_classes(base, wnids, "val")
    return peer_dataset("imagenet-sub", classes, train, test)


def _wnids(folder: Path, dataset: str, layout: str) -> Sequence[str]:
    wnids = [name for name in class_folders(folder) if _WNID.fullmatch(name)]
    if not wnids:
        raise DatasetMissingError(f"data set {dataset}: {folder} holds no <wnid> folders; expected {layout}")
    return wnids


def _names(path: Path) -> dict[str, str]:
    lines = (_NAME_LINE.fullmatch(line.strip()) for line in path.read_text(encoding="utf-8").splitlines())
    return {line[1]: line[2] for line in lines if line}


def _named(wnid: str, names: dict[str, str], path: Path) -> str:
    if wnid not in names:
        raise DatasetMissingError(
            f"{path} does not name {wnid}; expected a line '{wnid} <name>' for every class folder"
        )
    return names[wnid]
