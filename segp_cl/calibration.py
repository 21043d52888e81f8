"""Calibrates probabilities: one multiplier of scores per path, fitted on held-out images. Not in the paper.

See docs/adr/0029.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

import torch
from jaxtyping import Float, Int64
from torch import Tensor

PRIOR_IMAGES: Final = 4.0
"""How many images the multiplier that was expected counts for."""
OCTAVES: Final = 4
"""How far from it the multiplier may go: at most 16 times as large or as small."""


def fit_scale(
    scores: Float[Tensor, "images classes"],
    labels: Int64[Tensor, " images"],
    *,
    expected: float,
    gone: Callable[[float], float] = lambda scale: 0.0,
) -> float:
    """Return the multiplier a that makes softmax(a * `scores`) most likely, as temperature scaling does with 1 / a.

    It minimises -Σ log p(label) + k/2 log²(a / `expected`), k = `PRIOR_IMAGES` (Guo et al. 2017, arXiv 1706.04599, and
    a prior: where every image is right, the likelihood alone has no maximum).

    Args:
        scores: of images that were neither trained on nor part of what they are compared with.
        labels: their classes.
        expected: the multiplier without any image, greater than 0.
        gone: returns Σ -log p at a multiplier, in nats, of images that are no more.
    """
    from scipy.optimize import minimize_scalar  # here, because servers never fit and it takes long to import

    scores = scores.double()

    def cost(octaves: float) -> float:
        log_p = torch.log_softmax(expected * 2.0**octaves * scores, dim=-1)
        surprise = gone(expected * 2.0**octaves) - float(log_p.gather(1, labels[:, None]).sum())
        return surprise + PRIOR_IMAGES / 2 * (octaves * math.log(2)) ** 2

    found = minimize_scalar(cost, bounds=(-OCTAVES, OCTAVES), method="bounded", options={"xatol": 1e-6})
    return float(expected * 2.0**found.x)


def expected_calibration_error(
    probabilities: Float[Tensor, "images classes"], labels: Int64[Tensor, " images"], *, bins: int = 15
) -> float:
    """Return how far the best class's probability is from the share that is right, on average, in [0, 1].

    Images are put into `bins` of equal width by that probability (ECE, Guo et al. 2017, arXiv 1706.04599).
    """
    confidence, answers = probabilities.double().max(dim=-1)
    right = (answers == labels).double()
    place = (confidence * bins).ceil().clamp(1, bins).long() - 1
    gap = torch.zeros(bins, dtype=torch.float64).index_add(0, place, right - confidence)
    return float(gap.abs().sum() / max(1, len(labels)))
