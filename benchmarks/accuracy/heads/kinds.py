"""All closed-form heads by name: what each is solved with, and the grid of its one setting."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from benchmarks.accuracy.heads.gda import Linear, gda
from benchmarks.accuracy.heads.ridge import Ridge
from benchmarks.accuracy.heads.sums import Sums
from benchmarks.accuracy.heads.whitened import Whitened

Scorer = Callable[[Float[Tensor, "images dim"]], Float[Tensor, "images classes"]]
Solver = Callable[[Sums], Callable[[float], Scorer]]
"""What is computed from the sums once, and the head that comes of it with a value of the setting."""


@dataclass(frozen=True)
class Kind:
    """A head.

    `setting` names what is chosen from `grid` (weakest first); `default` is its value while nothing was kept back.
    `width` is M where random features come first. `fused`: the head's scores are added to the text path's.
    """

    solver: Solver
    setting: str
    grid: tuple[float, ...]
    default: float
    width: int | None = None
    fused: bool = False


def _ridge(sums: Sums) -> Callable[[float], Scorer]:
    ridge, none = Ridge(sums), sums.totals.new_zeros(())
    return lambda value: Linear(ridge.weights(value), none.expand(len(sums.counts)))


def _whitened(sums: Sums) -> Callable[[float], Scorer]:
    whitened = Whitened(sums)
    return lambda value: lambda features: whitened.scores(features, value)


def _gda(sums: Sums) -> Callable[[float], Scorer]:
    head = gda(sums)
    return lambda value: head


RIDGE_GRID = tuple(round(10.0 ** (half / 2), 6) for half in range(-8, 5))
"""λ from 0.0001 to 100 by factors of √10, in units of the mean eigenvalue of G."""

SHRINKAGE_GRID = (0.03, 0.1, 0.3, 1.0)
ONE = (1.0,)
"""The grid of a head that has nothing to choose."""

HEADS: Mapping[str, Kind] = {
    "prototypes": Kind(_whitened, "shrinkage", ONE, 1.0),  # shrunk to a sphere: plain cosines
    "whitened": Kind(_whitened, "shrinkage", SHRINKAGE_GRID, 0.3),
    "ridge": Kind(_ridge, "lambda", RIDGE_GRID, 0.1),
    "ranpac-2000": Kind(_ridge, "lambda", RIDGE_GRID, 0.1, width=2_000),
    "ranpac-10000": Kind(_ridge, "lambda", RIDGE_GRID, 1.0, width=10_000),
    "gda": Kind(_gda, "", ONE, 1.0),
    "gda+text": Kind(_gda, "", ONE, 1.0, fused=True),
}
