"""Corrections of answers in closed form: what is moved between class sums, and what mistakes have added to the scatter.

Ours, not the paper's. A few wrong labels hardly move the mean of a class. But the difference between the means of the
class that an image is taught as and of its own is then counted as variance within a class, and whitening makes just the
direction count for less that tells the two apart. A correction moves its image. It is also evidence of other images
with the same mistake, which nobody has corrected: what these have added to the scatter is estimated and taken away. See
docs/adr/0041.
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

PRIOR: Final = 0.1
"""What every pair of a task's classes counts before a correction is seen, in corrections."""
MOST_TAKEN: Final = 0.9
"""Largest share of the variance along any direction that is taken away."""
MOST_WRONG: Final = 0.5
"""Largest share of a class's images that is thought to be wrong."""
_RIDGE: Final = 1e-3
_TOLERANCE: Final = 1e-2


@dataclass(frozen=True)
class CorrectedImages:
    """Images with their right classes.

    Attributes:
        units: unit-norm raw features.
        right: row of each one's right class.
        taught: row of the class that it was taught as, by a wrong label; None: it was not taught.
    """

    units: Float64[Tensor, "images raw"]
    right: Sequence[int]
    taught: Sequence[int | None]

    @property
    def mistakes(self) -> list[tuple[int, int]]:
        """(taught, right) of every image with a wrong label."""
        both = zip(self.taught, self.right, strict=True)
        return [(taught, right) for taught, right in both if taught is not None and taught != right]


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


def expected_mistakes(
    mistakes: Sequence[tuple[int, int]], tasks: Sequence[int], counts: Sequence[int], *, stands_for: float
) -> Float64[Tensor, "classes classes"]:
    """Return how many images of class c are thought to be taught as class j, at [j, c], besides those that were found.

    All mistakes together are `stands_for` times those that were found. They are spread over pairs of classes as a
    Dirichlet prior expects it: a pair has what was found of it, in either direction, and `PRIOR`. So a pair that was
    found several times has most of them, and where each was found once, many pairs have some.

    Args:
        mistakes: (taught, right) of each that was found.
        tasks: the task of every class. The pairs are those of classes that were taught together with a class that has
            a mistake.
        counts: n_c. At most `MOST_WRONG` of a class's images are thought to be wrong.
        stands_for: how many mistakes there are for one that was found.
    """
    classes = len(tasks)
    found = torch.zeros(classes, classes, dtype=torch.float64)
    for taught, right in mistakes:
        found[taught, right] += 0.5
        found[right, taught] += 0.5
    of_task = torch.tensor(tasks)
    together = (of_task[:, None] == of_task[None]) & torch.isin(of_task, of_task[[taught for taught, _ in mistakes]])
    prior = PRIOR * together.double().fill_diagonal_(0)
    weight = found + prior
    expected = stands_for * len(mistakes) * weight / weight.sum().clamp(min=1)
    most = MOST_WRONG * torch.tensor(counts, dtype=torch.float64) / expected.sum(dim=1).clamp(min=1e-9)
    return expected * most.clamp(max=1)[:, None]


def without_mistakes(sums: ClassSums, expected: Float64[Tensor, "classes classes"]) -> ClassSums:
    """Return the sums without what mistakes have added to the scatter. Counts and means stay.

    k images of class c among the n of class j add g d dᵀ, with d = m_j - m_c and g = k n / (n - k). Over all pairs that
    is T Tᵀ = Mᵀ L M, with the means M and the Laplacian L of the graph whose edges weigh g. T is brought into the
    range of the scatter W, as B = W Q with Q = (W + λI)⁻¹ T, λ that of the whitening, and what is taken away is
    B (I + Qᵀ W Q / θ)⁻¹ Bᵀ: B Bᵀ where that is little beside W, and never more than the share θ = `MOST_TAKEN` of the
    variance along any direction, so that none becomes negative.

    Args:
        sums: of all classes.
        expected: how many images of class c were taught as class j, at [j, c].
    """
    if sums.scatter is None or not bool(expected.any()):
        return sums
    counts = sums.counts.double().clamp(min=1)
    gained = expected * counts[:, None] / (counts[:, None] - expected).clamp(min=1)
    edges = gained + gained.T
    involved = edges.sum(dim=1).nonzero().flatten()
    edges = edges[involved][:, involved]
    values, vectors = torch.linalg.eigh(edges.sum(dim=1).diag() - edges)
    rooted = vectors * values.clamp(min=0).sqrt()
    added = (sums.sums[involved] / counts[involved, None]).T @ rooted[:, 1:]  # the first value of a Laplacian is 0
    scatter = sums.scatter
    ridge = WHITENING_SHRINKAGE * scatter.diagonal().mean()
    factor = torch.linalg.cholesky(scatter + ridge * torch.eye(len(scatter), dtype=scatter.dtype))
    within = torch.cholesky_solve(added, factor)
    along = scatter @ within
    shrunk = torch.eye(along.shape[1], dtype=scatter.dtype) + within.T @ along / MOST_TAKEN
    taken = along @ torch.linalg.solve(shrunk, along.T)
    return replace(sums, scatter=scatter - (taken + taken.T) / 2)


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
