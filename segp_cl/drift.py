"""How an update moved the feature space, as one linear map: fitted on images at hand, applied to what is kept."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Float64
from torch import Tensor


class DriftMap:
    """Sums over pairs of features before and after an update, from which a linear map between them follows.

    It is learnable drift compensation (Gomez-Villa et al., 2024, arXiv 2407.08536) in closed form. Memory does not
    depend on the number of pairs.
    """

    def __init__(self) -> None:
        self._products = torch.empty(0)
        self._moves = torch.empty(0)

    def add(self, before: Float[Tensor, "batch raw"], after: Float[Tensor, "batch raw"]) -> None:
        """Add a batch of raw features of the same images by both towers, of any norm; they are normalised here."""
        if self._products.numel() == 0:
            width = before.shape[-1]
            self._products = torch.zeros(width, width, dtype=torch.float64)
            self._moves = torch.zeros(width, width, dtype=torch.float64)
        old, new = (F.normalize(features.detach().cpu().double(), dim=-1) for features in (before, after))
        self._products += old.T @ old
        self._moves += old.T @ (new - old)

    def solve(self, *, ridge: float) -> Float64[Tensor, "raw raw"]:
        """Return M of the least Σ |z M - z'|² + λ |M - I|², λ = `ridge` times the mean eigenvalue of Σ zᵀz."""
        identity = torch.eye(len(self._products), dtype=torch.float64)
        penalty = ridge * self._products.diagonal().mean()
        solved: Tensor = torch.linalg.solve(self._products + penalty * identity, self._moves)
        return identity + solved
