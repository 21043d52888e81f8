"""Two versions that were taught different tasks from one: what they learned, put together. No image is needed.

Sums add exactly (`segp_cl.statistics`). Adapters are averaged, as aligned model merging does with a task's and those of
before (PAM, arXiv 2506.03189); each branch counts by its tasks. See docs/adr/0037.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from segp_cl.errors import KeepsightError
from segp_cl.fusion import expected_fusion_weight
from segp_cl.merging import average
from segp_cl.statistics import ClassSums
from segp_cl.types import Familiarity, LearnedClass, LearnerState, LoraFactors, LoraState


class MergeError(KeepsightError):
    """Two versions cannot be merged; the message says why."""


def classes_of_both(base: LearnerState, ours: LearnerState, theirs: LearnerState) -> tuple[LearnedClass, ...]:
    """Return the classes of both branches: ours, then those that only theirs was taught.

    A class that both know has the images of both, and our prompt. Their tasks come after ours.
    """
    before = {known.name: known.images for known in base.classes}
    merged = {known.name: known for known in ours.classes}
    later = ours.tasks - base.tasks
    for known in theirs.classes:
        gained = known.images - before.get(known.name, 0)
        mine = merged.get(known.name)
        if mine is None:
            merged[known.name] = LearnedClass(known.name, known.prompt, known.task + later, known.images)
        else:
            merged[known.name] = LearnedClass(mine.name, mine.prompt, mine.task, mine.images + gained)
    return tuple(merged.values())


def adds_exactly(base: LearnerState, ours: LearnerState, theirs: LearnerState) -> bool:
    """Return whether the branches' sums add exactly: all were kept, and no image tower was moved."""
    states = (base, ours, theirs)
    return not any(state.moves_image_tower for state in states) and all(
        state.sums is not None or not state.classes for state in states
    )


def sums_of_both(base: LearnerState, ours: LearnerState, theirs: LearnerState) -> ClassSums:
    """Return the sums of all classes, in the order of `classes_of_both`: ours, and what theirs has above the base.

    Where an image tower was moved, sums of the branches are of different features. Then theirs are scaled to the images
    that the base does not have, and the sum is an approximation.

    Raises:
        MergeError: theirs has fewer images of a class than the base.
    """
    rows = _rows(ours.class_names, theirs.class_names)
    places = {name: row for row, name in enumerate(theirs.class_names)}
    try:
        known = [places[name] for name in base.class_names]
    except KeyError as error:
        raise MergeError(f"the class {error.args[0]!r} of their common ancestor is missing in one of them") from error
    try:
        if adds_exactly(base, ours, theirs):
            gained = theirs.kept_sums.minus(base.kept_sums, known)
        else:
            gained = _scaled(theirs.kept_sums, base.kept_sums, known)
    except ValueError as error:
        raise MergeError("one of them has fewer images of a class than their common ancestor") from error
    return ours.kept_sums.plus(gained, rows)


def shares(base: LearnerState, ours: LearnerState, theirs: LearnerState) -> tuple[float, float]:
    """Return how much each branch counts where they are averaged: by the tasks that it was taught since the base."""
    mine, other = (max(1, state.tasks - base.tasks) for state in (ours, theirs))
    return mine / (mine + other), other / (mine + other)


def averaged(ours: LoraState | None, theirs: LoraState | None, weights: tuple[float, float]) -> LoraState | None:
    """Return the mean of two adapters' products, w₁ B₁A₁ + w₂ B₂A₂, at the rank of ours.

    Adapters of one lineage have the same frozen A, and B is averaged element by element (PAM). Those that were begun
    apart have not: then it is the nearest product of that rank (Eckart and Young, 1936). An adapter that one side lacks
    counts as zero.

    Raises:
        MergeError: they have different scales, or adapt matrices of different shapes.
    """
    if ours is None or theirs is None:
        only, weight = (theirs, weights[1]) if ours is None else (ours, weights[0])
        if only is None:
            return None
        factors = {key: LoraFactors(a=f.a, b=weight * f.b) for key, f in only.factors.items()}
        return LoraState(rank=only.rank, scale=only.scale, factors=factors)
    if ours.scale != theirs.scale:
        raise MergeError(f"their adapters have different scales, {ours.scale:g} and {theirs.scale:g}")
    merged: dict[str, LoraFactors] = {}
    for key in dict.fromkeys((*ours.factors, *theirs.factors)):
        mine, other = ours.factors.get(key), theirs.factors.get(key)
        if mine is None or other is None:
            only_one, weight = (other, weights[1]) if mine is None else (mine, weights[0])
            assert only_one is not None
            merged[key] = LoraFactors(a=only_one.a, b=weight * only_one.b)
        else:
            merged[key] = mean_product(mine, other, weights)
    return LoraState(rank=ours.rank, scale=ours.scale, factors=merged)


def mean_product(ours: LoraFactors, theirs: LoraFactors, weights: tuple[float, float]) -> LoraFactors:
    """Return factors of w₁ B₁A₁ + w₂ B₂A₂, or of what is nearest to it at the rank of `ours`.

    Raises:
        MergeError: the products have different shapes.
    """
    if (len(ours.b), ours.a.shape[1]) != (len(theirs.b), theirs.a.shape[1]):
        raise MergeError("their adapters are of matrices of different shapes")
    if ours.a.shape == theirs.a.shape and bool((ours.a == theirs.a).all()):
        return LoraFactors(a=ours.a, b=average(ours.b, theirs.b, weight=weights[1]))
    left = torch.cat([weights[0] * ours.b, weights[1] * theirs.b], dim=1).double()
    right = torch.cat([ours.a, theirs.a]).double()
    # the product of thin factors is decomposed by way of a square matrix of their inner width
    q_left, r_left = torch.linalg.qr(left)
    q_right, r_right = torch.linalg.qr(right.T)
    u, values, vt = torch.linalg.svd(r_left @ r_right.T, full_matrices=False)
    rank = len(ours.a)
    root = values[:rank].sqrt()
    return LoraFactors(
        a=(root[:, None] * (q_right @ vt[:rank].T).T).to(ours.a), b=((q_left @ u[:, :rank]) * root).to(ours.b)
    )


def fusion_weight_of_both(
    ours: LearnerState, theirs: LearnerState, images: Sequence[int], *, limit: float, half_images: float
) -> float:
    """Return β: what the number of images gives, times by how much the branches' own β are above that on average."""

    def expected(counts: Sequence[int]) -> float:
        return expected_fusion_weight(counts, limit=limit, half_images=half_images)

    above = []
    for state in (ours, theirs):
        usual = expected([known.images for known in state.classes])
        if state.classes and usual > 0 and state.fusion_weight > 0:
            above.append(math.log(state.fusion_weight / usual))
    return expected(images) * math.exp(sum(above) / len(above)) if above else expected(images)


def familiarity_of_both(ours: LearnerState, theirs: LearnerState) -> Familiarity | None:
    """Return the mean of the branches' weights, each counting by the held-out images that it rests on."""
    found = [state.familiarity for state in (ours, theirs) if state.familiarity is not None]
    if len(found) < 2:
        return found[0] if found else None
    images = [max(1, each.images) for each in found]

    def mean(values: Sequence[float]) -> float:
        return sum(count * value for count, value in zip(images, values, strict=True)) / sum(images)

    return Familiarity(
        visual=mean([each.visual for each in found]),
        text=mean([each.text for each in found]),
        offset=mean([each.offset for each in found]),
        images=sum(each.images for each in found),
    )


def _rows(ours: Sequence[str], theirs: Sequence[str]) -> list[int]:
    """Return the place of each of their classes among both."""
    places: Mapping[str, int] = {name: row for row, name in enumerate(dict.fromkeys((*ours, *theirs)))}
    return [places[name] for name in theirs]


def _scaled(theirs: ClassSums, base: ClassSums, known: Sequence[int]) -> ClassSums:
    counts = theirs.counts.index_add(0, torch.tensor(known, dtype=torch.int64), base.counts, alpha=-1)
    if bool((counts < 0).any()):
        raise ValueError("these sums are not part of the others")
    part: Float[Tensor, "classes 1"] = (counts / theirs.counts.clamp(min=1)).double()[:, None]
    scatter = theirs.scatter
    if scatter is not None:
        scatter = scatter * (counts.sum() / theirs.counts.sum().clamp(min=1))
    return ClassSums(counts, theirs.sums * part, scatter)
