"""How an update moved the feature space: a linear map, fitted on images at hand and applied to what is kept.

Not in the paper; see docs/adr/0035.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Float64
from torch import Tensor


@dataclass(frozen=True)
class Drift:
    """A unit-norm feature z of the old space is z M + e in the new one.

    Attributes:
        matrix: M.
        noise: the mean of e eᵀ.
    """

    matrix: Float64[Tensor, "raw raw"]
    noise: Float64[Tensor, "raw raw"]


class DriftSums:
    """Sums over pairs of features before and after an update, from which `Drift` follows.

    It is learnable drift compensation (Gomez-Villa et al., 2024, arXiv 2407.08536) in closed form. Memory does not
    depend on the number of pairs.
    """

    def __init__(self) -> None:
        self._pairs = 0
        self._products = self._moves = self._squares = torch.zeros(())

    def add(self, before: Float[Tensor, "batch raw"], after: Float[Tensor, "batch raw"]) -> None:
        """Add raw features of the same images by both towers, of any norm; they are normalised here."""
        old, new = (F.normalize(features.detach().cpu().double(), dim=-1) for features in (before, after))
        moved = new - old
        self._pairs += len(old)
        self._products = self._products + old.T @ old
        self._moves = self._moves + old.T @ moved
        self._squares = self._squares + moved.T @ moved

    def solve(self, *, ridge: float) -> Drift:
        """Minimise Σ |z M - z'|² + λ |M - I|², λ = `ridge` times the mean eigenvalue of Σ zᵀz. At least one pair."""
        identity = torch.eye(len(self._products), dtype=torch.float64)
        penalty = ridge * self._products.diagonal().mean()
        change = torch.linalg.solve(self._products + penalty * identity, self._moves)
        explained = change.T @ self._moves
        left = self._squares - explained - explained.T + change.T @ self._products @ change
        return Drift(identity + change, left / self._pairs)
