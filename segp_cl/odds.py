"""What is kept of held-out images: quantiles of the log-odds of their right classes. Not in the paper.

Prediction sets follow from them (split conformal prediction, Vovk et al. 2005), and they say how sure the answers for
classes of earlier tasks may be, whose images are gone. See docs/adr/0030.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

SHARES: Final = 51
"""Quantiles are at SHARES equal steps of the share of images, from 0 (the least) to 1 (the largest)."""
OCTAVES: Final = 4
"""Multipliers from 1/16 of the model's logit scale to 16 times."""
PER_OCTAVE: Final = 2
MULTIPLIERS: Final = 2 * OCTAVES * PER_OCTAVE + 1
LARGEST: Final = 1000.0
"""Log-odds beyond are cut off: with a single class they are infinite."""


def multipliers(logit_scale: float) -> list[float]:
    """Return the multipliers of scores at which log-odds are kept, ascending."""
    return [logit_scale * 2.0 ** (step / PER_OCTAVE - OCTAVES) for step in range(MULTIPLIERS)]


def log_odds(
    scores: Float[Tensor, "images classes"],
    labels: Int64[Tensor, " images"],
    *,
    logit_scale: float,
    among: int | None = None,
) -> Float[Tensor, "multipliers images"]:
    """Return log p / (1 - p) of each image's right class, p = softmax(a * `scores`), for all multipliers a.

    Args:
        scores: of one path.
        labels: the right classes.
        logit_scale: the model's own.
        among: compare the right class with the first so many classes only; None: with all.
    """
    scores = scores.double()
    gaps = (scores - scores.gather(1, labels[:, None])).scatter(1, labels[:, None], -torch.inf)[:, :among]
    odds = torch.stack([-(scale * gaps).logsumexp(dim=1) for scale in multipliers(logit_scale)])
    return odds.clamp(-LARGEST, LARGEST)


def quantiles(values: Float[Tensor, "rows images"]) -> Float[Tensor, "rows shares"]:
    """Return the quantiles of each row at equal steps of the share."""
    return torch.quantile(values, torch.linspace(0, 1, SHARES, dtype=values.dtype), dim=1).T.contiguous()


def pooled(
    ours: Float[Tensor, "rows shares"], theirs: Float[Tensor, "rows shares"], *, weights: tuple[int, int]
) -> Float[Tensor, "rows shares"]:
    """Return the quantiles of both groups together, which count by `weights`."""
    each = np.repeat(np.array(weights, dtype=np.float64), SHARES)
    ends = np.arange(2 * SHARES) % SHARES
    each[(ends == 0) | (ends == SHARES - 1)] /= 2  # the ends stand for half a step
    rows = []
    for row in torch.cat([ours, theirs], dim=1).numpy():
        order = row.argsort()
        places = (each[order].cumsum() - each[order] / 2) / each.sum()
        rows.append(np.interp(np.linspace(0, 1, SHARES), places, row[order]))
    return torch.tensor(np.array(rows), dtype=ours.dtype)


def grown(
    odds: Float[Tensor, "rows shares"],
    against_old: Float[Tensor, "rows images"],
    *,
    old_classes: int,
    new_classes: int,
) -> Float[Tensor, "rows shares"]:
    """Return what becomes of images' log-odds as `new_classes` join the `old_classes` that they were measured among.

    The odds against an image's class grow by what the new classes add: -log(exp(-odds) + exp(-m)). How much that is,
    images of the old classes cannot say any more; those of the new ones, held against the old classes, can. The hardest
    images of both meet the most, so quantiles are added to quantiles.

    Args:
        odds: quantiles over images of the old classes.
        against_old: log-odds of images of the new classes against the old ones only; none: as many odds come with each
            class as there were.
        old_classes: how many classes `odds` were measured among.
        new_classes: how many join them.
    """
    if not new_classes or old_classes < 1:
        return odds
    if against_old.shape[1]:
        added = quantiles(against_old) - math.log(new_classes / old_classes)
    else:
        added = odds - math.log(new_classes / max(1, old_classes - 1))
    return (-torch.logaddexp(-odds, -added)).clamp(-LARGEST, LARGEST)


def at(odds: Float[Tensor, "multipliers shares"], scale: float, *, logit_scale: float) -> Float[Tensor, " shares"]:
    """Return the quantiles at the multiplier `scale`, interpolated between octaves."""
    place = (math.log2(scale / logit_scale) + OCTAVES) * PER_OCTAVE
    below = int(min(max(place, 0.0), len(odds) - 2))
    share = min(max(place - below, 0.0), 1.0)
    return torch.lerp(odds[below], odds[below + 1], share)


def surprise(odds: Float[Tensor, " shares"]) -> float:
    """Return the mean of -log p over the images, in nats."""
    return float(torch.trapezoid(F.softplus(-odds), dx=1 / (SHARES - 1)))


def least_probability(odds: Float[Tensor, " shares"], *, coverage: float, images: int) -> float:
    """Return the least probability of labels in a set that holds the right one with probability `coverage`.

    The ⌈(n + 1) `coverage`⌉-th smallest of 1 - p over n = `images` held-out images is 1 minus it; 0 where there are too
    few for that.

    Args:
        odds: quantiles of the images' log-odds.
        coverage: in (0, 1).
        images: how many they are.
    """
    rank = math.ceil((images + 1) * coverage - 1e-9)
    if rank > images:
        return 0.0
    least = np.interp((images - rank) / max(1, images - 1), np.linspace(0, 1, SHARES), odds.numpy())
    return float(torch.sigmoid(torch.tensor(least)))
