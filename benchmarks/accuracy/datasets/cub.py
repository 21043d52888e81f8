"""CUB-200-2011: birds, listed by index files."""

from __future__ import annotations

from pathlib import Path

from benchmarks.accuracy.datasets.images import FileImages
from benchmarks.accuracy.datasets.types import Dataset, DatasetError, peer_dataset, require


def load_cub200(root: Path, cache: Path) -> Dataset:
    """CUB-200-2011 with its published split; names keep their capitals (`Black footed Albatross`).

    Raises:
        DatasetMissingError: an index file or the images folder is missing.
        DatasetError: an image is not in all of the index files, or its class has no name.
    """
    base = root / "CUB_200_2011"
    layout = (
        f"the unpacked CUB_200_2011.tgz (https://data.caltech.edu/records/65de6-vp158): {base} with images.txt, "
        "image_class_labels.txt, train_test_split.txt, classes.txt and images/."
    )
    images, labels, split, published = (
        _pairs(require(base / f"{name}.txt", "cub200", layout))
        for name in ("images", "image_class_labels", "train_test_split", "classes")
    )
    folder = require(base / "images", "cub200", layout)
    if not images.keys() == labels.keys() == split.keys():
        odd = sorted((images.keys() | labels.keys() | split.keys()) - (images.keys() & labels.keys() & split.keys()))
        raise DatasetError(f"data set cub200: image {odd[0]} is not in all of the index files in {base}")
    position = {identifier: index for index, identifier in enumerate(sorted(published, key=int))}
    unnamed = sorted(set(labels.values()) - position.keys())
    if unnamed:
        raise DatasetError(f"data set cub200: {base / 'classes.txt'} does not name class {unnamed[0]}")

    def part(flag: str) -> FileImages:
        chosen = sorted((image for image in images if split[image] == flag), key=int)
        return FileImages(folder, [images[image] for image in chosen], [position[labels[image]] for image in chosen])

    classes = [published[identifier].split(".", 1)[-1].replace("_", " ") for identifier in position]
    return peer_dataset("cub200", classes, part("1"), part("0"))


def _pairs(path: Path) -> dict[str, str]:
    """Lines of `identifier value`."""
    lines = (line.split(maxsplit=1) for line in path.read_text(encoding="utf-8").splitlines() if line.strip())
    return {identifier: value.strip() for identifier, value in lines}
