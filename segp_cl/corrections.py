"""Corrections of answers in closed form: what is moved between class sums, and which boundaries are sharpened. Ours.

A few wrong labels hardly move the mean of a class. But the difference between the two classes' means is then counted as
variance within a class, and whitening makes just the direction count for less that tells them apart. So a correction
moves its image, and gives the direction back to the pair of classes that it names. See docs/adr/0041.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import torch
from jaxtyping import Float64
from torch import Tensor

from segp_cl.config import WHITENING_SHRINKAGE
from segp_cl.statistics import ClassSums

_RIDGE: Final = 1e-3
_TOLERANCE: Final = 1e-2


@dataclass(frozen=True)
class CorrectedImages:
    """Images with their right classes.

    Attributes:
        units: unit-norm raw features.
        right: row of each one's right class.
        taught: row of the class that it was taught as, by a wrong label; None: it was not taught.
        answered: row of the class that it was answered as; None: it is not known.
    """

    units: Float64[Tensor, "images raw"]
    right: Sequence[int]
    taught: Sequence[int | None]
    answered: Sequence[int | None]

    def pairs(self) -> list[tuple[int, int]]:
        """Return the pairs of classes that were taken for each other, each once, the smaller row first."""
        found = set()
        for right, taught, answered in zip(self.right, self.taught, self.answered, strict=True):
            for wrong in (taught, answered):
                if wrong is not None and wrong != right:
                    found.add((min(right, wrong), max(right, wrong)))
        return sorted(found)


def with_corrections(sums: ClassSums, corrected: CorrectedImages) -> ClassSums:
    """Return the sums with each image in its right class, and no longer in the one that it was taught as.

    An image that cannot have been taught as that class, because the sums would have less than no variance without it,
    or no image of the class, is added alone. Rows beyond those of the sums are new classes.
    """
    may_be = _Membership(sums)
    for unit, right, taught in zip(corrected.units, corrected.right, corrected.taught, strict=True):
        alone = ClassSums(torch.ones(1, dtype=torch.int64), unit[None], torch.zeros(len(unit), len(unit)).double())
        if taught is not None and may_be(sums, unit, taught):
            sums = sums.without(unit, taught)
        sums = sums.plus(replace(alone, scatter=None if sums.scatter is None else alone.scatter), [right])
    return sums


def sharpened(sums: ClassSums, pairs: Sequence[tuple[int, int]], *, share: float) -> ClassSums:
    """Return the sums with less of the scatter along the directions that tell pairs of classes apart.

    Q = (W + λI)⁻¹ D are Fisher's directions, D the differences of the pairs' means, λ that of the whitening. The result
    is W - `share` W Q (Qᵀ W Q)⁺ Qᵀ W: along each of them the variance is (1 - `share`) of what it was, and whatever has
    no covariance with them keeps its own. It has no negative variance for a share of at most 1.

    Args:
        sums: of all classes.
        pairs: rows of classes.
        share: of the variance, in [0, 1].
    """
    if sums.scatter is None or not pairs or not share:
        return sums
    means = sums.sums / sums.counts.clamp(min=1)[:, None]
    first, second = torch.tensor(pairs).unbind(dim=1)
    scatter = sums.scatter
    ridge = WHITENING_SHRINKAGE * scatter.diagonal().mean()
    factor = torch.linalg.cholesky(scatter + ridge * torch.eye(len(scatter), dtype=scatter.dtype))
    fisher = torch.cholesky_solve((means[first] - means[second]).T, factor)
    along = scatter @ fisher
    taken = along @ torch.linalg.pinv(fisher.T @ along, hermitian=True) @ along.T
    return replace(sums, scatter=scatter - share * (taken + taken.T) / 2)


class _Membership:
    """Tells whether an image may be one of those in the sums: what is left without it has no negative variance."""

    def __init__(self, sums: ClassSums) -> None:
        self._factor = None
        if sums.scatter is not None and int(sums.counts.sum()):
            ridge = _RIDGE * sums.scatter.diagonal().mean()
            identity = torch.eye(len(sums.scatter), dtype=sums.scatter.dtype)
            self._factor, _ = torch.linalg.cholesky_ex(sums.scatter + ridge * identity)

    def __call__(self, sums: ClassSums, unit: Float64[Tensor, " raw"], row: int) -> bool:
        images = int(sums.counts[row]) if row < len(sums.counts) else 0
        if images < 2:
            return False
        if self._factor is None:
            return True
        apart = (unit - sums.sums[row] / images)[:, None]
        share = images / (images - 1) * float(apart.T @ torch.cholesky_solve(apart, self._factor))
        return share <= 1 + _TOLERANCE
