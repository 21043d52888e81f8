"""Gaussian discriminant analysis, alone and added to the text path (Wang et al., arXiv 2402.04087)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from benchmarks.accuracy.heads.sums import Sums

HIGHEST_WEIGHT = 1e6


@dataclass(frozen=True)
class Linear:
    """Scores zᵀW + b."""

    weights: Float[Tensor, "dim classes"]
    bias: Float[Tensor, " classes"]

    def __call__(self, features: Float[Tensor, "images dim"]) -> Float[Tensor, "images classes"]:
        return features.double() @ self.weights + self.bias


def gda(sums: Sums) -> Linear:
    """μ_cᵀ Σ⁻¹ z - ½ μ_cᵀ Σ⁻¹ μ_c with Σ⁻¹ = d ((N-1) W + tr(W) I)⁻¹, all classes equally frequent.

    W is the covariance within classes, divided by N - 1 as in the paper. Without any variance Σ is I.
    """
    means, scatter, degrees = sums.means, sums.scatter(), max(sums.images - 1, 1)
    trace = float(scatter.trace()) / degrees
    weights = means.T
    if trace > 1e-12 * sums.dim:
        shrunk = scatter + trace * torch.eye(sums.dim, dtype=scatter.dtype)
        weights = sums.dim * torch.cholesky_solve(weights, torch.linalg.cholesky(shrunk))
    return Linear(weights, -0.5 * (weights * means.T).sum(dim=0))


def text_weight(kept: Sums, visual: Linear, texts: Float[Tensor, "classes joint"]) -> float | None:
    """β of text + β · visual that suits kept-back images, from their sums alone; None if there is no such image.

    Both scores are linear in the features, so the squared error of a · text + b · visual against one-hot labels
    follows from (n, s, G) of the kept-back images. Its minimum has a closed form, and β = b / a. Scores are centred
    over classes first, which changes no answer. The paper tries weights on images instead, which have to be kept.

    Args:
        kept: sums over features [z, v]: what `visual` reads, then the unit-norm features of the joint space.
        visual: solved without these images.
        texts: unit-norm text features of the classes.
    """
    if kept.images == 0:
        return None
    joint = texts.shape[1]
    # both as linear maps of [z, v, 1]
    shape = (kept.dim + 1, len(texts))
    by_text, by_visual = torch.zeros(shape, dtype=torch.float64), torch.zeros(shape, dtype=torch.float64)
    by_text[-1 - joint : -1] = texts.double().T
    by_visual[: -1 - joint], by_visual[-1] = visual.weights, visual.bias
    maps = [each - each.mean(dim=1, keepdim=True) for each in (by_text, by_visual)]
    total = kept.totals.sum(dim=0)
    right = [float((each[:-1] * kept.totals.T).sum() + each[-1] @ kept.counts.double()) for each in maps]

    def product(one: Tensor, other: Tensor) -> float:
        linear = ((kept.root @ one[:-1]) * (kept.root @ other[:-1])).sum()
        crossed = one[-1] @ (other[:-1].T @ total) + other[-1] @ (one[:-1].T @ total)
        return float(linear + crossed + kept.images * (one[-1] @ other[-1]))

    tt, tv, vv = product(maps[0], maps[0]), product(maps[0], maps[1]), product(maps[1], maps[1])
    # Cramer's rule; the determinant is positive and cancels out of the quotient
    for_text, for_visual = right[0] * vv - right[1] * tv, right[1] * tt - right[0] * tv
    if for_visual <= 0:
        return 0.0
    return HIGHEST_WEIGHT if for_text * HIGHEST_WEIGHT <= for_visual else for_visual / for_text
