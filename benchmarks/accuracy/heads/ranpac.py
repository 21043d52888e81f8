"""Random features before a ridge head: RanPAC (McDonnell et al., arXiv 2307.02251)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


class RandomFeatures:
    """φ(z) = relu(Rᵀz), R [d, M] drawn once from N(0, 1); products of features make classes easier to separate.

    Args:
        dim: d, dimensions of the features.
        width: M, dimensions of φ.
        seed: of R. The same seed gives the same R, whatever else is drawn.
    """

    def __init__(self, dim: int, width: int, *, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self._matrix = torch.randn(dim, width, generator=generator, dtype=torch.float64)

    def __call__(self, features: Float[Tensor, "images dim"]) -> Float[Tensor, "images width"]:
        """Compute φ in float64."""
        return torch.relu(features.double() @ self._matrix)
