"""Gaussian discriminant analysis (Wang et al., arXiv 2402.04087), alone or added to the text path."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from benchmarks.accuracy.heads.sums import Sums


@dataclass(frozen=True)
class Linear:
    """Scores zᵀW + b."""

    weights: Float[Tensor, "dim classes"]
    bias: Float[Tensor, " classes"]

    def __call__(self, features: Float[Tensor, "images dim"]) -> Float[Tensor, "images classes"]:
        return features.double() @ self.weights + self.bias


def gda(sums: Sums) -> Linear:
    """μ_cᵀ Σ⁻¹ z - ½ μ_cᵀ Σ⁻¹ μ_c with Σ⁻¹ = (N-1) ((N-1) W + tr(W) I)⁻¹, all classes equally frequent.

    W is the covariance within classes, divided by N - 1 as in the paper. The paper has d in place of the first N - 1,
    which changes no answer. With N - 1 the scores are log-likelihoods whatever N, so the weight that suits them beside
    the text path does not change as images are added. Without any variance Σ is I.
    """
    means, scatter, degrees = sums.means, sums.scatter(), max(sums.images - 1, 1)
    trace = float(scatter.trace()) / degrees
    weights = means.T
    if trace > 1e-12:  # below, one image a class or only equal ones: what is left is rounding
        shrunk = scatter + trace * torch.eye(sums.dim, dtype=scatter.dtype)
        weights = degrees * torch.cholesky_solve(weights, torch.linalg.cholesky(shrunk))
    return Linear(weights, -0.5 * (weights * means.T).sum(dim=0))
