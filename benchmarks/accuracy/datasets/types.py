"""What a benchmark's data set is: labelled images that are opened one at a time, class names, an order of classes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image

from segp_cl.errors import KeepsightError

PEER_SEED = 1993


class DatasetError(KeepsightError):
    """A data set's files contradict each other, or what was asked of it cannot be had."""


class DatasetMissingError(DatasetError):
    """Files of a data set are not where they are published to be. The message says what to put where."""


class LabelledImages(Protocol):
    """Images with one label each; an image is read when it is opened and not kept."""

    @property
    def labels(self) -> Sequence[int]:
        """Position in `Dataset.classes` of every image."""
        ...

    def open(self, index: int) -> Image.Image:
        """The image as RGB, at full size.

        Raises:
            ImageDecodeError: the file is gone or is not an image; the message names it.
        """
        ...


@dataclass(frozen=True)
class Dataset:
    """A data set as a class-incremental benchmark uses it.

    `classes` are the names shown to the text tower. `class_order` is a permutation of the classes' positions: the order
    in which they are learned, cut into `tasks` tasks. How it is cut when it does not divide is the benchmark's choice.

    Raises:
        DatasetError: two classes share a name, the order is no permutation, more tasks than classes (or none).
    """

    name: str
    classes: tuple[str, ...]
    train: LabelledImages
    test: LabelledImages
    tasks: int
    class_order: tuple[int, ...]

    def __post_init__(self) -> None:
        twice = sorted(name for name, count in Counter(self.classes).items() if count > 1)
        if twice:
            raise DatasetError(f"every class of {self.name} needs its own name, but some share one: {', '.join(twice)}")
        if sorted(self.class_order) != list(range(len(self.classes))):
            raise DatasetError(f"the class order of {self.name} must hold each of 0..{len(self.classes) - 1} once")
        if not 1 <= self.tasks <= len(self.classes):
            raise DatasetError(f"{self.name} has {len(self.classes)} classes; they cannot make {self.tasks} tasks")


def peer_dataset(
    name: str, classes: Sequence[str], train: LabelledImages, test: LabelledImages, *, tasks: int = 10
) -> Dataset:
    """A data set in the peers' order, in `tasks` tasks or fewer where there are not that many classes."""
    count = len(classes)
    return Dataset(name, tuple(classes), train, test, usual_tasks(tasks, count), peer_order(count))


def peer_order(classes: int) -> tuple[int, ...]:
    """The peers' order (PyCIL: `np.random.seed(1993); np.random.permutation(n)`), without seeding anything global."""
    return tuple(np.random.RandomState(PEER_SEED).permutation(classes).tolist())


def usual_tasks(usual: int, classes: int) -> int:
    """The usual number of tasks, or fewer where there are not that many classes."""
    return max(1, min(usual, classes))


def shown(name: str) -> str:
    """A published name as the text tower sees it: `Aquarium_fish` -> `aquarium fish`."""
    return name.replace("_", " ").lower()


def require(path: Path, dataset: str, layout: str) -> Path:
    """`path`, which must exist.

    Raises:
        DatasetMissingError: it does not; the message names it and gives the whole `layout`.
    """
    if not path.exists():
        raise DatasetMissingError(f"data set {dataset}: {path} is missing; expected {layout}")
    return path
