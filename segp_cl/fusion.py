"""How much the visual path should weigh, read off images that were kept out of training. Ours, not the paper's."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from segp_cl.inference import fused_scores

OCTAVES = tuple(step / 2 for step in range(-12, 13))  # from 1/64 of the expected weight to 64 times
SHARPNESS = (0.5, 1.0, 2.0, 4.0, 8.0)  # multiples of the logit scale
SPREAD_OCTAVES = 0.5  # how far from the expected weight a version's own is thought likely to lie


def keep_back(
    labels: Sequence[int], *, fraction: float, min_images: int, generator: torch.Generator
) -> tuple[int, ...]:
    """Positions of the images that are kept out of training, ascending: `fraction` of every class, at least one.

    A class of fewer than `min_images` images gives none, and nobody does if `fraction` is 0.
    """
    by_class: dict[int, list[int]] = {}
    for position, label in enumerate(labels):
        by_class.setdefault(label, []).append(position)
    kept: list[int] = []
    for _, positions in sorted(by_class.items()):
        if fraction > 0 and len(positions) >= min_images:
            order = torch.randperm(len(positions), generator=generator).tolist()
            kept += [positions[i] for i in order[: max(1, round(fraction * len(positions)))]]
    return tuple(sorted(kept))


def choose_fusion_weight(
    text: Float[Tensor, "images classes"],
    visual: Float[Tensor, "images classes"],
    labels: Int64[Tensor, " images"],
    weights: Float[Tensor, " images"],
    *,
    expected: float,
    logit_scale: float,
) -> float:
    """β of (30) that makes kept-back images likeliest, not far from what was expected.

    For each β on a grid of half octaves around `expected`, the images' cross-entropy over all seen classes is taken at
    the sharpness that suits it best; a normal prior over log2 β of `SPREAD_OCTAVES` holds few images to the
    expectation. Without images, or with `expected` 0, it is the answer.

    Args:
        text: s_clip of images that were neither trained on nor part of a prototype.
        visual: s_v of the same.
        labels: their classes.
        weights: how many images each of them stands for.
        expected: the version's before, or the model's own.
        logit_scale: the model's.
    """
    if len(labels) == 0 or expected == 0:
        return expected
    best = (math.inf, expected)
    for octave in sorted(OCTAVES, key=abs):  # of equals the one nearest to what was expected
        weight = expected * 2**octave
        mean = fused_scores(text, visual, fusion_weight=weight) / (1 + weight)
        losses = [
            float(weights @ F.cross_entropy(logit_scale * sharp * mean, labels, reduction="none"))
            for sharp in SHARPNESS
        ]
        cost = min(losses) + (octave / SPREAD_OCTAVES) ** 2 / 2
        best = min(best, (cost, weight), key=lambda pair: pair[0])
    return best[1]
