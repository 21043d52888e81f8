"""A group of figures: what it measures on, what it finds, and how that is shown."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from benchmarks.answers.features import Photos
from benchmarks.answers.lineage import Lineage, Taught, history
from benchmarks.common.record import Record


@dataclass(frozen=True, eq=False)
class Inputs:
    """What all groups measure on.

    Attributes:
        photos: data sets by name.
        lineage: of the model that made their features.
        far: raw features of images of another world, by the same model.
        clip: CLIP features by name; empty if there is no such file.
        data: the folder of the data sets.
        results: where the accuracy benchmark's results are.
        work: where finished trainings are kept, so that a run can be gone on with.
        rounds: how often seconds are measured.
        orders: how many orders of classes are measured.
        draws: how many draws of few images.
        pairs: how many pairs of classes with uneven numbers of images.
    """

    photos: Mapping[str, Photos]
    lineage: Lineage
    far: Tensor
    clip: Mapping[str, Tensor]
    data: Path = Path("data")
    results: Path = Path("docs/results")
    work: Path = Path("var/bench")
    rounds: int = 3
    orders: int = 3
    draws: int = 3
    pairs: int = 12

    @cached_property
    def histories(self) -> Mapping[str, list[list[Taught]]]:
        """By data set and order: the states after every task, taught once for all groups."""
        return {
            name: [history(self.lineage, photos, seed) for seed in range(self.orders)]
            for name, photos in self.photos.items()
        }


@dataclass(frozen=True)
class Part:
    """What a group found: figures in [0, 1] by name, and the details that they rest on, as JSON."""

    figures: dict[str, float]
    details: Record = field(default_factory=dict)


@dataclass(frozen=True)
class Group:
    """One group of figures.

    Attributes:
        meanings: what each figure says, by its name.
        measure: finds them.
        section: shows the details as Markdown.
        plots: shows them as PNG files by name.
        on_features: whether it needs the features of all images, which take minutes to compute.
    """

    meanings: Mapping[str, str]
    measure: Callable[[Inputs], Part]
    section: Callable[[Record], str]
    plots: Callable[[Record], Mapping[str, bytes]] = lambda details: {}
    on_features: bool = True


def mean(values: Any) -> float:
    """Return the mean of numbers."""
    found = list(values)
    return float(sum(found) / len(found))
