"""Nearest class mean, plain and in the space that the covariance within classes whitens."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from benchmarks.accuracy.heads.sums import Sums


class Whitened:
    """The cosine of Σ^(-1/2) z and Σ^(-1/2) μ_c, with Σ = (1-α) W + α (tr W/d) I.

    W = (G - Σ n_c μ_c μ_cᵀ) / (N - C) is the covariance within classes. α = 1 gives plain cosines, as does W = 0. The
    root is the inverse of a Cholesky factor: every root of Σ⁻¹ gives the same cosines. docs/adr/0009 has the reasons.

    Args:
        sums: of the features of all classes.
    """

    def __init__(self, sums: Sums) -> None:
        self._means = sums.means
        self._within = sums.scatter() / max(sums.images - len(sums.counts), 1)
        self._variance = float(self._within.diagonal().mean())

    def root(self, shrinkage: float) -> Float[Tensor, "dim dim"]:
        """Σ^(-1/2), lower triangular, with α = `shrinkage` in (0, 1]."""
        identity = torch.eye(len(self._within), dtype=self._within.dtype)
        if self._variance <= 1e-12:  # one image a class, or only equal ones: what is left is rounding
            return identity
        covariance = (1 - shrinkage) * self._within + shrinkage * self._variance * identity
        inverse: Tensor = torch.linalg.solve_triangular(torch.linalg.cholesky(covariance), identity, upper=False)
        return inverse

    def scores(self, features: Float[Tensor, "images dim"], shrinkage: float) -> Float[Tensor, "images classes"]:
        """The whitened cosines of `features` with every class."""
        root = self.root(shrinkage)
        return F.normalize(features.double() @ root.T, dim=-1) @ F.normalize(self._means @ root.T, dim=-1).T

    def log_likelihood(self, kept: Sums, shrinkage: float) -> float:
        """log N(z; μ_c, Σ), up to a constant, summed over kept-back images; it follows from their sums.

        Σ (z - μ_c)(z - μ_c)ᵀ = G - Σ (s_c μ_cᵀ + μ_c s_cᵀ - n_c μ_c μ_cᵀ) with n, s, G of the kept-back images.
        """
        root = self.root(shrinkage)
        means, totals = self._means @ root.T, kept.totals @ root.T
        distances = (kept.root @ root.T).square().sum() - 2 * (totals * means).sum()
        distances += kept.counts.double() @ means.square().sum(dim=1)
        return float(kept.images * root.diagonal().log().sum() - 0.5 * distances)
