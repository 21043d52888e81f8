"""The sums (n, s, G) over features that every closed-form head is solved from."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor


@dataclass(frozen=True)
class Sums:
    """n_c, s_c = Σ z and G = Σ zzᵀ over the images of every class, in float64.

    The order of tasks has no influence, and sums over two sets of images are added. G is held as a root A with
    G = AᵀA and no more rows than images or dimensions, whichever are fewer. A comes from a QR decomposition of each
    task's features, so it holds what G holds: its rows are combinations of all of a task's features.
    """

    counts: Int64[Tensor, " classes"]
    totals: Float[Tensor, "classes dim"]
    root: Float[Tensor, "rank dim"]

    @classmethod
    def of(cls, features: Float[Tensor, "images dim"], labels: Int64[Tensor, " images"], *, classes: int) -> Sums:
        """Sum over the features of `classes` classes, whose labels are in [0, classes)."""
        exact = features.double()
        return cls(
            counts=torch.bincount(labels, minlength=classes),
            totals=exact.new_zeros(classes, exact.shape[1]).index_add_(0, labels, exact),
            root=_triangle(exact),
        )

    def __add__(self, other: Sums) -> Sums:
        """Sum over the images of both; classes that only one of them has come last."""
        classes = max(len(self.counts), len(other.counts))
        root = torch.cat([self.root, other.root])
        return Sums(
            counts=_padded(self.counts, classes) + _padded(other.counts, classes),
            totals=_padded(self.totals, classes) + _padded(other.totals, classes),
            root=_triangle(root) if len(root) > root.shape[1] else root,
        )

    @property
    def images(self) -> int:
        """N = Σ n_c."""
        return int(self.counts.sum())

    @property
    def dim(self) -> int:
        """d, the number of dimensions."""
        return self.root.shape[1]

    @property
    def trace(self) -> float:
        """tr G."""
        return float(self.root.square().sum())

    @property
    def products(self) -> Float[Tensor, "dim dim"]:
        """G."""
        return self.root.T @ self.root

    @property
    def means(self) -> Float[Tensor, "classes dim"]:
        """μ_c = s_c / n_c; zero for a class without images."""
        return self.totals / self.counts.clamp(min=1)[:, None]

    def scatter(self) -> Float[Tensor, "dim dim"]:
        """G - Σ n_c μ_c μ_cᵀ: products of the features' differences from the mean of their class."""
        return self.products - self.totals.T @ self.means


def _triangle(rows: Float[Tensor, "rows dim"]) -> Float[Tensor, "rank dim"]:
    """R of the QR decomposition: RᵀR = rowsᵀ rows."""
    triangle: Tensor = torch.linalg.qr(rows, mode="r").R
    return triangle


def _padded(values: Tensor, classes: int) -> Tensor:
    return torch.cat([values, values.new_zeros(classes - len(values), *values.shape[1:])])
