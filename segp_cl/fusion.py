"""How much the visual path should weigh, read off images that were kept out of training. Ours, not the paper's."""

from __future__ import annotations

import math

from jaxtyping import Float, Int64
from torch import Tensor

from segp_cl.scores import fused_scores, predict

OCTAVES = tuple(range(-6, 7))  # from 1/64 of the expected weight to 64 times
STANDARD_ERRORS = 2.0  # by how many the kept-back images must speak against the expected weight


def choose_fusion_weight(
    text: Float[Tensor, "images classes"],
    visual: Float[Tensor, "images classes"],
    labels: Int64[Tensor, " images"],
    weights: Float[Tensor, " images"],
    *,
    expected: float,
) -> float:
    """β of (30): the expected one, unless another answers so many more images right that chance hardly explains it.

    The others are octaves of `expected`. Each is compared with it image by image, and its gain in accuracy must exceed
    `STANDARD_ERRORS` standard errors of that paired difference; of those whose gain does, the largest gain wins. Few
    images so leave the weight where it is. Without images, or with `expected` 0, it is the answer too.

    Args:
        text: s_clip of images that were neither trained on nor part of a prototype.
        visual: s_v of the same.
        labels: their classes.
        weights: how many images each of them stands for.
        expected: the version's before, or the model's own.
    """
    if len(labels) == 0 or expected == 0:
        return expected
    share = weights / weights.sum()

    def right(weight: float) -> Float[Tensor, " images"]:
        return (predict(fused_scores(text, visual, fusion_weight=weight)) == labels).to(share)

    before, best, most = right(expected), expected, 0.0
    for octave in sorted(OCTAVES, key=abs):  # of equals the one nearest to what was expected
        gains = right(expected * 2.0**octave) - before
        gain = float(share @ gains)
        error = math.sqrt(float(share**2 @ (gains - gain) ** 2))
        if gain > most and gain > STANDARD_ERRORS * error:
            best, most = expected * 2.0**octave, gain
    return best
