"""A data set cut into tasks: which classes and images each task brings, prepared for a base model."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from benchmarks.accuracy.datasets import Dataset, DatasetError, LabelledImages, subset, validation_slice
from segp_cl.data.preprocessing import Preprocessing, to_pixels
from segp_cl.data.row_file import RowFile
from segp_cl.prompts import DEFAULT_TEMPLATE, as_prompt
from segp_cl.types import ImageSource, Task, TaskClass

VALIDATION_FRACTION = 0.1
EvaluatedOn = Literal["test", "validation"]


class PreparedImages:
    """Images of a data set as pixels for a base model, each decoded once and then read from a file without a name."""

    def __init__(
        self, images: LabelledImages, chosen: Sequence[int], labels: Sequence[int], preprocessing: Preprocessing
    ) -> None:
        self._images, self._chosen, self.labels = images, tuple(chosen), tuple(labels)
        self._preprocessing = preprocessing
        self._prepared = RowFile(len(chosen))

    def pixels(self, indices: Sequence[int]) -> UInt8[Tensor, "batch 3 height width"]:
        """The images at `indices`, decoded, resized and cropped.

        Raises:
            ImageDecodeError: a file is gone or is not an image; the message names it.
            DatasetError: the disk is full.
        """
        missing = [index for index in dict.fromkeys(indices) if index not in self._prepared]
        if missing:
            with ThreadPoolExecutor(torch.get_num_threads()) as pool:
                for _ in pool.map(self._decode, missing):
                    pass
        batch = torch.empty((len(indices), 3, self._preprocessing.size, self._preprocessing.size), dtype=torch.uint8)
        for position, index in enumerate(indices):
            batch[position] = self._prepared.read(index)
        return batch

    def _decode(self, index: int) -> None:
        pixels = to_pixels(self._images.open(self._chosen[index]), self._preprocessing)
        try:
            self._prepared.write(index, pixels)
        except OSError as error:
            raise DatasetError(
                f"{tempfile.gettempdir()} has no room for the prepared images, {len(self._chosen)} of {pixels.nbytes} "
                "bytes here; set TMPDIR to a folder that has"
            ) from error


@dataclass(frozen=True)
class Bench:
    """All tasks of a data set, in the order they are learned.

    `classes` are in that order too, so a class's position is its row in every learned state. `evaluation[j]` are the
    images that task j is measured on, and `evaluation_labels[j]` their positions in `classes`.
    """

    dataset: str
    classes: tuple[TaskClass, ...]
    tasks: tuple[Task, ...]
    evaluation: tuple[PreparedImages, ...]
    evaluated_on: EvaluatedOn

    @property
    def evaluation_labels(self) -> list[int]:
        """Of all evaluation images, task after task."""
        return [label for images in self.evaluation for label in images.labels]

    @property
    def task_sizes(self) -> list[int]:
        """How many evaluation images each task has."""
        return [len(images.labels) for images in self.evaluation]

    def joint(self) -> Task:
        """All tasks at once."""
        labels = [position for task in self.tasks for position in self._positions(task)]
        return Task("joint", self.classes, _Joined([task.images for task in self.tasks], labels))

    def _positions(self, task: Task) -> list[int]:
        place = {c.name: position for position, c in enumerate(self.classes)}
        return [place[task.classes[label].name] for label in task.images.labels]


def make_bench(
    dataset: Dataset,
    preprocessing: Preprocessing,
    *,
    seed: int,
    train_per_class: int | None = None,
    test_per_class: int | None = None,
    evaluated_on: EvaluatedOn = "test",
    template: str = DEFAULT_TEMPLATE,
) -> Bench:
    """Cut a data set into tasks of (nearly) equal numbers of classes.

    A tenth of the training images of each class is set aside first, always the same one, so that settings can be chosen
    on it (`evaluated_on="validation"`) by models that were trained on just the images that the test is run with.

    Args:
        dataset: what to cut.
        preprocessing: of the base model.
        seed: draws the training images where `train_per_class` leaves some out; evaluation images never depend on it.
        train_per_class: at most so many training images of each class; None: all that are not set aside.
        test_per_class: the same for the images that are measured on.
        evaluated_on: the test split, or the validation slice.
        template: prompt, with `{}` for the class.

    Raises:
        DatasetError: a class has no training image, or a task no image to measure on.
        InvalidTaskError: the template has no `{}`.
    """
    rest, held_out = validation_slice(dataset.train, VALIDATION_FRACTION, seed=0)
    train = subset(rest, train_per_class, seed=seed)
    measured = subset(dataset.test if evaluated_on == "test" else held_out, test_per_class, seed=0)
    groups = [group.tolist() for group in np.array_split(np.array(dataset.class_order), dataset.tasks)]
    order = [c for group in groups for c in group]
    classes = tuple(TaskClass(dataset.classes[c], as_prompt(template, dataset.classes[c])) for c in order)
    position = {c: row for row, c in enumerate(order)}
    tasks, evaluation = [], []
    for number, group in enumerate(groups, start=1):
        within = {c: label for label, c in enumerate(group)}
        tasks.append(
            Task(
                f"{dataset.name}-{number}",
                tuple(classes[position[c]] for c in group),
                _prepared(train, within, preprocessing),
            )
        )
        evaluation.append(_prepared(measured, {c: position[c] for c in group}, preprocessing))
    _check(dataset, train, evaluation, evaluated_on)
    return Bench(dataset.name, classes, tuple(tasks), tuple(evaluation), evaluated_on)


def _check(
    dataset: Dataset, train: LabelledImages, evaluation: Sequence[PreparedImages], evaluated_on: EvaluatedOn
) -> None:
    """Refuse now what would otherwise fail after hours, when its task comes."""
    untaught = sorted(set(range(len(dataset.classes))) - set(train.labels))
    if untaught:
        raise DatasetError(f"{dataset.name} has no training image of the class {dataset.classes[untaught[0]]!r}")
    for number, images in enumerate(evaluation, start=1):
        if not images.labels:
            raise DatasetError(f"{dataset.name} has no {evaluated_on} images of any class of task {number}")


def _prepared(images: LabelledImages, label_of: dict[int, int], preprocessing: Preprocessing) -> PreparedImages:
    chosen = [index for index, label in enumerate(images.labels) if label in label_of]
    return PreparedImages(images, chosen, [label_of[images.labels[index]] for index in chosen], preprocessing)


class _Joined:
    """Several streams of images as one, with labels of its own."""

    def __init__(self, parts: Sequence[ImageSource], labels: Sequence[int]) -> None:
        self._parts, self.labels = tuple(parts), tuple(labels)
        self._places = [(number, index) for number, part in enumerate(parts) for index in range(len(part.labels))]

    def pixels(self, indices: Sequence[int]) -> UInt8[Tensor, "batch 3 height width"]:
        rows_of: dict[int, list[int]] = {}
        for row, place in enumerate(indices):
            rows_of.setdefault(self._places[place][0], []).append(row)
        pieces = [
            self._parts[number].pixels([self._places[indices[row]][1] for row in rows])
            for number, rows in rows_of.items()
        ]
        batch = torch.cat(pieces)
        rows = torch.tensor([row for rows in rows_of.values() for row in rows])
        return torch.empty_like(batch).index_copy_(0, rows, batch)
