"""Ridge regression onto one-hot labels: the head of ACIL (Zhuang et al., arXiv 2205.14922)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from benchmarks.accuracy.heads.sums import Sums


class Ridge:
    """Scores zᵀB with B = (G + λ (tr G/d) I)⁻¹ [s_1 … s_C].

    λ is in units of the mean eigenvalue of G, so that it does not depend on the number of images or dimensions. With
    fewer images than dimensions, the system that is solved has the size of the images: with G = AᵀA and S the sums,
    (AᵀA + κI)⁻¹ S = (S - Aᵀ (AAᵀ + κI)⁻¹ A S) / κ, which is exact (Woodbury).

    Args:
        sums: of the features of all classes, at least one image.
    """

    def __init__(self, sums: Sums) -> None:
        self._root, self._sums = sums.root, sums.totals.T
        self._unit = sums.trace / sums.dim
        self._wide = len(self._root) < sums.dim
        self._gram = self._root @ self._root.T if self._wide else sums.products
        self._right = self._root @ self._sums if self._wide else self._sums

    def weights(self, strength: float) -> Float[Tensor, "dim classes"]:
        """B with λ = `strength` > 0."""
        solved = torch.cholesky_solve(self._right, self._factor(strength))
        return (self._sums - self._root.T @ solved) / (strength * self._unit) if self._wide else solved

    def scores(self, features: Float[Tensor, "images dim"], strength: float) -> Float[Tensor, "images classes"]:
        """zᵀB. Without computing B where images are fewer than dimensions, which makes a grid cheap to try."""
        exact = features.double()
        if not self._wide:
            return exact @ self.weights(strength)
        solved = torch.cholesky_solve(self._root @ exact.T, self._factor(strength))
        return (exact @ self._sums - solved.T @ self._right) / (strength * self._unit)

    def _factor(self, strength: float) -> Float[Tensor, "size size"]:
        shifted = self._gram.clone()
        shifted.diagonal().add_(strength * self._unit)
        factor: Tensor = torch.linalg.cholesky(shifted)
        return factor
