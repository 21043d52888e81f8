"""All closed-form heads by name: how each is solved, and how its one setting is chosen."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float
from torch import Tensor

from benchmarks.accuracy.heads.gda import Linear, gda
from benchmarks.accuracy.heads.ridge import Ridge
from benchmarks.accuracy.heads.sums import Sums
from benchmarks.accuracy.heads.whitened import Whitened

Scorer = Callable[[Float[Tensor, "images dim"]], Float[Tensor, "images classes"]]


@dataclass(frozen=True)
class Solution:
    """What is computed from sums once. `head` has a value of the setting, `attempt` tries it on few images."""

    head: Callable[[float], Scorer]
    attempt: Callable[[Float[Tensor, "images dim"], float], Float[Tensor, "images classes"]]


Solver = Callable[[Sums], Solution]


def _half_decades(first: int, last: int) -> tuple[float, ...]:
    return tuple(float(f"{10.0 ** (half / 2):.3g}") for half in range(first, last + 1))


RIDGE_GRID = _half_decades(-8, 4)
"""λ from 0.0001 to 100, in units of the mean eigenvalue of G."""
SHRINKAGE_GRID = _half_decades(-4, 0)
"""α from 0.01 to 1, which is no whitening."""
WEIGHT_GRID = _half_decades(-10, 0)
"""β of text + β · log-likelihood from 0.00001 to 1."""


@dataclass(frozen=True)
class Kind:
    """A head.

    `setting` names what is chosen from `grid`; `default` is its value while nothing was kept back. It is chosen by the
    `right answers` of kept-back images when their task comes, or by their `likelihood`, which follows from sums.
    `width` is M where random features come first. `fused`: the head's scores are added to the text path's with β.
    """

    solver: Solver
    setting: Literal["lambda", "shrinkage", "beta"] | None = None
    grid: tuple[float, ...] = (1.0,)
    default: float = 1.0
    chosen_by: Literal["right answers", "likelihood"] = "right answers"
    width: int | None = None
    fused: bool = False


def _ridge(sums: Sums) -> Solution:
    ridge, none = Ridge(sums), sums.totals.new_zeros(len(sums.counts))
    return Solution(lambda value: Linear(ridge.weights(value), none), ridge.scores)


def _whitened(sums: Sums) -> Solution:
    whitened = Whitened(sums)
    return Solution(lambda value: lambda features: whitened.scores(features, value), whitened.scores)


def _gda(sums: Sums) -> Solution:
    head = gda(sums)
    return Solution(lambda value: head, lambda features, value: head(features))


HEADS: Mapping[str, Kind] = {
    "prototypes": Kind(_whitened),  # α = 1: plain cosines
    "whitened": Kind(_whitened, "shrinkage", SHRINKAGE_GRID, 0.316, chosen_by="likelihood"),
    "ridge": Kind(_ridge, "lambda", RIDGE_GRID, 0.1),
    "ranpac-2000": Kind(_ridge, "lambda", RIDGE_GRID, 0.1, width=2_000),
    "ranpac-10000": Kind(_ridge, "lambda", RIDGE_GRID, 1.0, width=10_000),
    "gda": Kind(_gda),
    "gda+text": Kind(_gda, "beta", WEIGHT_GRID, 0.001, fused=True),
}
