"""The weight of the visual path: by the number of images, and by held-out images. Not in the paper.

See docs/adr/0009 and docs/adr/0028.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from jaxtyping import Float, Int64
from torch import Tensor

from segp_cl.scores import fused_scores, predict

OCTAVES = tuple(range(-6, 7))  # from 1/64 of the expected weight to 64 times
STANDARD_ERRORS = 2.0  # by how many another weight must beat the expected one on held-out images

FEW = 0.1  # the share of classes that may have fewer images than beta assumes


def expected_fusion_weight(images: Sequence[int], *, limit: float, half_images: float) -> float:
    """Return β of (30) before any image is looked at: `limit` * n / (n + `half_images`).

    A prototype of few images is uncertain and must not outvote the text. n is the number of images that nine of ten
    classes have at least. It is one number for all classes: with a β for each class, those of larger β win.

    Args:
        images: the number of images of every class; empty: the limit is returned.
        limit: β where all classes have very many images.
        half_images: the number of images at which β is half of that.
    """
    if not images:
        return limit
    few = sorted(images)[int(FEW * (len(images) - 1))]
    return limit * few / (few + half_images) if few + half_images else limit


def choose_fusion_weight(
    text: Float[Tensor, "images classes"],
    visual: Float[Tensor, "images classes"],
    labels: Int64[Tensor, " images"],
    weights: Float[Tensor, " images"],
    *,
    expected: float,
) -> float:
    """Choose β of (30): `expected`, unless another weight is significantly more accurate.

    The other weights are octaves of `expected`. Each is compared with it image by image, and its gain in accuracy must
    exceed `STANDARD_ERRORS` standard errors of that paired difference; the largest such gain wins. Few images therefore
    leave the weight unchanged. Without images, or if `expected` is 0, the result is `expected`.

    Args:
        text: s_clip of images that were neither trained on nor part of a prototype.
        visual: s_v of the same.
        labels: their classes.
        weights: the number of images that each of them represents.
        expected: the weight before any image was looked at.
    """
    if len(labels) == 0 or expected == 0:
        return expected
    share = weights / weights.sum()

    def right(weight: float) -> Float[Tensor, " images"]:
        return (predict(fused_scores(text, visual, fusion_weight=weight)) == labels).to(share)

    before, best, most = right(expected), expected, 0.0
    for octave in sorted(OCTAVES, key=abs):  # of equal gains, the weight nearest to `expected` wins
        gains = right(expected * 2.0**octave) - before
        gain = float(share @ gains)
        error = math.sqrt(float(share**2 @ (gains - gain) ** 2))
        if gain > most and gain > STANDARD_ERRORS * error:
            best, most = expected * 2.0**octave, gain
    return best
