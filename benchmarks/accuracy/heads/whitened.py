"""Nearest class mean, plain and in the space that the covariance within classes whitens."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from benchmarks.accuracy.heads.sums import Sums


class Whitened:
    """The cosine of Σ^(-1/2) z and Σ^(-1/2) μ_c, with Σ = (1-α) W + α (tr W/d) I.

    W = (G - Σ n_c μ_c μ_cᵀ) / (N - C) is the covariance within classes. α = 1 gives plain cosines, as does W = 0.
    Σ^(-1/2) is the inverse of a Cholesky factor: cosines are the same with every root of Σ⁻¹.

    Args:
        sums: of the features of all classes.
    """

    def __init__(self, sums: Sums) -> None:
        self._means = sums.means
        self._within = sums.scatter() / max(sums.images - len(sums.counts), 1)
        self._variance = float(self._within.diagonal().mean())

    def matrix(self, shrinkage: float) -> Float[Tensor, "dim dim"]:
        """Σ^(-1/2), transposed, with α = `shrinkage` in (0, 1]."""
        identity = torch.eye(len(self._within), dtype=self._within.dtype)
        if self._variance <= 1e-12:  # one image a class, or only equal ones: what is left is rounding
            return identity
        covariance = (1 - shrinkage) * self._within + shrinkage * self._variance * identity
        inverse: Tensor = torch.linalg.solve_triangular(torch.linalg.cholesky(covariance), identity, upper=False)
        return inverse.T

    def scores(self, features: Float[Tensor, "images dim"], shrinkage: float) -> Float[Tensor, "images classes"]:
        """The whitened cosines of `features` with every class."""
        matrix = self.matrix(shrinkage)
        return F.normalize(features.double() @ matrix, dim=-1) @ F.normalize(self._means @ matrix, dim=-1).T
