"""The four scores of all ordered pairs of tasks: from images of both, and as a service has them, without old images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass
from itertools import product
from statistics import fmean

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from benchmarks.accuracy.features.file import Rows
from benchmarks.accuracy.protocol import Bench
from segp_cl.contributions import MODALITIES, Modality, Side, contributions, image_spread
from segp_cl.models.backbone import Backbone
from segp_cl.pixels import as_unit_pixels
from segp_cl.prototypes import class_means

BATCH = 64
WITHOUT_TEXTS: tuple[Modality, ...] = ("image_to_image",)

Table = tuple[tuple[float, ...], ...]
"""A score of the ordered pair (row, column)."""


class Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


@dataclass(frozen=True)
class TaskSide:
    """One task before a frozen model.

    Attributes:
        images: features of its images in joint space, of unit norm.
        texts: features of its classes' prompts; none where there are no texts.
        norm: the usual norm of its raw features.
        remembered: what is left of the images when they are gone: prototypes in joint space, of unit norm. It takes the
            norm at which they are projected.
    """

    images: Float[Tensor, "images joint"]
    texts: Float[Tensor, "classes joint"]
    norm: float
    remembered: Callable[[float], Float[Tensor, "classes joint"]]


class Distance(Frozen):
    """How far the scores without old images are from the exact ones, over all ordered pairs of different tasks."""

    mean: float
    largest: float


class Spread(Frozen):
    """σ_I over all pairs of the tasks' images, and the least and the largest of any ordered pair of different tasks."""

    of_all: float
    least: float
    largest: float


class Compared(Frozen):
    """All ordered pairs of some tasks. A score that needs texts is left out where there are none.

    `exact` is from images of both tasks. `exemplar_free` has projected prototypes in place of the old task's images.
    """

    images: int
    exact: dict[Modality, Table]
    exemplar_free: dict[Modality, Table]
    distance: dict[Modality, Distance]
    sigma_image: Spread
    sigma_image_exemplar_free: Spread


@torch.no_grad()
def sides_of_bench(backbone: Backbone, bench: Bench, on_task: Callable[[], None] = lambda: None) -> list[TaskSide]:
    """Return every task's side, from its training images and the untouched base model."""
    sides = []
    for task in bench.tasks:
        count = len(task.images.labels)
        parts = [range(start, min(start + BATCH, count)) for start in range(0, count, BATCH)]
        raw = torch.cat(
            [backbone.raw_features(as_unit_pixels(task.images.pixels(part)).to(backbone.device)) for part in parts]
        )
        prototypes = class_means([(raw, torch.tensor(task.images.labels))], classes=len(task.classes))

        def remembered(norm: float, prototypes: Tensor = prototypes) -> Tensor:
            return backbone.project(norm * prototypes).cpu()

        texts = backbone.text_features([c.prompt for c in task.classes]).cpu()
        sides.append(TaskSide(backbone.project(raw).cpu(), texts, float(raw.norm(dim=1).mean()), remembered))
        on_task()
    return sides


def sides_of_rows(
    rows: Rows, groups: Sequence[Sequence[int]], texts: Float[Tensor, "classes joint"] | None
) -> list[TaskSide]:
    """Return the side of every group of classes; features are in joint space already, and so are their means."""
    sides = []
    for group in groups:
        of_class = [rows.features[rows.labels == label] for label in group]
        prototypes = F.normalize(torch.stack([features.mean(dim=0) for features in of_class]), dim=1)
        images = torch.cat(of_class)
        own = images.new_empty(0, images.shape[1]) if texts is None else texts[list(group)]

        def remembered(_norm: float, prototypes: Tensor = prototypes) -> Tensor:
            return prototypes

        sides.append(TaskSide(images, own, 1.0, remembered))
    return sides


def compare(sides: Sequence[TaskSide]) -> Compared:
    """Return the scores of all ordered pairs of at least two tasks, the pairs of a task with itself included."""
    modalities = MODALITIES if all(len(side.texts) for side in sides) else WITHOUT_TEXTS
    exact = [[(Side(old.images, old.texts), Side(new.images, new.texts)) for new in sides] for old in sides]
    free = [
        [(Side(old.remembered(new.norm), old.texts), Side(new.images, new.texts)) for new in sides] for old in sides
    ]
    tables, tables_free = _tables(exact, modalities), _tables(free, modalities)
    images = torch.cat([side.images for side in sides])
    norm = fmean(side.norm for side in sides)
    return Compared(
        images=len(images),
        exact=tables,
        exemplar_free=tables_free,
        distance={name: _distance(tables[name], tables_free[name]) for name in modalities},
        sigma_image=_spread(image_spread(images, images), exact),
        sigma_image_exemplar_free=_spread(
            image_spread(torch.cat([side.remembered(norm) for side in sides]), images), free
        ),
    )


Pairs = Sequence[Sequence[tuple[Side, Side]]]


def _tables(pairs: Pairs, modalities: Sequence[Modality]) -> dict[Modality, Table]:
    found = [[dict(zip(MODALITIES, astuple(contributions(*pair)), strict=True)) for pair in line] for line in pairs]
    return {name: tuple(tuple(scores[name] for scores in line) for line in found) for name in modalities}


def _distance(table: Table, other: Table) -> Distance:
    apart = [abs(table[i][j] - other[i][j]) for i, j in different(len(table))]
    return Distance(mean=fmean(apart), largest=max(apart))


def _spread(of_all: float, pairs: Pairs) -> Spread:
    each = [image_spread(old.images, new.images) for old, new in (pairs[i][j] for i, j in different(len(pairs)))]
    return Spread(of_all=of_all, least=min(each), largest=max(each))


def different(tasks: int) -> list[tuple[int, int]]:
    """Return all ordered pairs of different tasks."""
    return [(one, other) for one, other in product(range(tasks), repeat=2) if one != other]
