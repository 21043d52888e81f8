"""What each modality of one task has in common with another: cross-modal contributions, arXiv 2606.14883.

Four expected pairwise cosines of an ordered pair of tasks, from one frozen forward pass. The source forecasts from them
how much of the first task is forgotten when the second is learned. Its own check holds on COCO and fails on CUB, so the
forecast is one with a measured correlation, never a promise. What the source leaves open is in docs/adr/0038.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, Literal, get_args

import torch
from jaxtyping import Float, Int64
from torch import Tensor

Modality = Literal["image_to_text", "text_to_image", "image_to_image", "text_to_text"]
MODALITIES: Final[tuple[Modality, ...]] = get_args(Modality)

LEAST_SPREAD: Final = 0.1
"""Image cosines that spread less tell tasks apart too little for a forecast: there the source's has the wrong sign."""
MEASURED_CORRELATION: Final[Mapping[str, float]] = {"caltech101": 0.01, "cifar10": 0.70}
"""Pearson's r of the image-to-text score and what `segp` forgot, by data set, exemplar-free; docs/adr/0038."""
MOST_EXACT: Final = 12
"""Most tasks whose cheapest order is found; an order of more is built greedily."""


@dataclass(frozen=True)
class Side:
    """One task in the joint space of a frozen model. All rows are of unit norm.

    Attributes:
        images: features of its images; where these are gone, its prototypes, projected.
        texts: features of its classes' prompts.
    """

    images: Float[Tensor, "images joint"]
    texts: Float[Tensor, "classes joint"]


@dataclass(frozen=True)
class Contributions:
    """The four scores of an ordered pair of tasks, in [-1, 1]; arXiv 2606.14883.

    Attributes:
        image_to_text: E v·u', images of the first task and texts of the second.
        text_to_image: E u·v', texts of the first and images of the second.
        image_to_image: E v·v', images of both.
        text_to_text: E u·u', texts of both.
    """

    image_to_text: float
    text_to_image: float
    image_to_image: float
    text_to_text: float


def mean_cosine(one: Float[Tensor, "some joint"], other: Float[Tensor, "others joint"]) -> float:
    """Return the expected cosine of a row of `one` and a row of `other`, both of unit norm: that of all pairs.

    The mean of all products is the product of the means, so no pair is formed.
    """
    return float(one.double().mean(dim=0) @ other.double().mean(dim=0))


def contributions(before: Side, after: Side) -> Contributions:
    """Return the four scores of the ordered pair (before, after)."""
    return Contributions(
        image_to_text=mean_cosine(before.images, after.texts),
        text_to_image=mean_cosine(before.texts, after.images),
        image_to_image=mean_cosine(before.images, after.images),
        text_to_text=mean_cosine(before.texts, after.texts),
    )


def image_spread(one: Float[Tensor, "some joint"], other: Float[Tensor, "others joint"]) -> float:
    """Return σ_I: the standard deviation of the cosines of all pairs of a row of `one` and a row of `other`.

    E (v·v')² is the trace of the product of both second moments, so no pair is formed.
    """
    one, other = one.double(), other.double()
    second = (one.T @ one / len(one)).mul(other.T @ other / len(other)).sum()
    return float((second - mean_cosine(one, other) ** 2).clamp(min=0).sqrt())


@dataclass(frozen=True)
class Margin:
    """By how much an old class's images are nearer to their own text than to the nearest of the new ones.

    Attributes:
        row: the old class.
        nearest: the new class whose text is nearest to its images.
        margin: v·u_own - v·u_new, a difference of cosines. Below 0 the frozen model takes its images for the new class.
    """

    row: int
    nearest: int
    margin: float


def margins(
    images: Float[Tensor, "old joint"], own: Float[Tensor, "old joint"], new: Float[Tensor, "new joint"]
) -> list[Margin]:
    """Return the margin of every old class, the least first.

    Args:
        images: what stands for each class's images, such as its prototype, projected.
        own: each class's text.
        new: the texts of the new classes.
    """
    nearest = (images @ new.T).max(dim=1)
    gaps = (images * own).sum(dim=1) - nearest.values
    order = gaps.argsort(stable=True).tolist()
    return [Margin(row, int(nearest.indices[row]), float(gaps[row])) for row in order]


def nearest_pairs(
    old: Float[Tensor, "old joint"], new: Float[Tensor, "new joint"], *, most: int
) -> list[tuple[int, int, float]]:
    """Return the (old, new, cosine) of the `most` nearest pairs of rows, the nearest first, each old row once."""
    best = (old @ new.T).max(dim=1)
    order = best.values.argsort(descending=True, stable=True)[:most].tolist()
    return [(row, int(best.indices[row]), float(best.values[row])) for row in order]


def suggested_order(scores: Float[Tensor, "tasks tasks"]) -> tuple[int, ...]:
    """Return the order of tasks whose summed score of consecutive tasks is least.

    By the image-to-text score, the source forecasts that this order forgets least. Up to `MOST_EXACT` tasks it is exact
    (Held and Karp, 1962); beyond, each next task is the one that adds least, from the best start.

    Args:
        scores: of the ordered pair (row, column).
    """
    table = scores.double().tolist()
    if not table:
        return ()
    if len(table) > MOST_EXACT:
        return min((_greedily(table, start) for start in range(len(table))), key=lambda order: _cost(table, order))
    best: dict[tuple[frozenset[int], int], tuple[float, tuple[int, ...]]] = {
        (frozenset([task]), task): (0.0, (task,)) for task in range(len(table))
    }
    for _ in range(len(table) - 1):
        longer: dict[tuple[frozenset[int], int], tuple[float, tuple[int, ...]]] = {}
        for (done, last), (cost, order) in best.items():
            for task in set(range(len(table))) - done:
                step = (cost + table[last][task], (*order, task))
                key = (done | {task}, task)
                longer[key] = min(longer.get(key, step), step)
        best = longer
    return min(best.values())[1]


def _cost(table: Sequence[Sequence[float]], order: Sequence[int]) -> float:
    return sum((table[one][other] for one, other in pairwise(order)), 0.0)


def _greedily(table: Sequence[Sequence[float]], start: int) -> tuple[int, ...]:
    order, left = [start], set(range(len(table))) - {start}
    while left:
        order.append(min(sorted(left), key=lambda task: table[order[-1]][task]))
        left.remove(order[-1])
    return tuple(order)


def forgetting_pairs(
    accuracies: Float[Tensor, "tasks tasks"],
) -> tuple[Int64[Tensor, "pairs 2"], Float[Tensor, " pairs"]]:
    """Return the pairs (old task, task that was learned), and by how much the accuracy on the old one fell by it.

    Args:
        accuracies: R_ij, the accuracy on task j after task i.
    """
    pairs = [(old, learned) for learned in range(1, len(accuracies)) for old in range(learned)]
    fallen = [float(accuracies[learned - 1, old] - accuracies[learned, old]) for old, learned in pairs]
    return torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2), torch.tensor(fallen, dtype=torch.float64)
