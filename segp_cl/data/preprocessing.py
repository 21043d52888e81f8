"""Converts RGB images to the pixels that a base model takes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

_RESAMPLING = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}


LONGEST_RATIO = 64  # the ends of a longer strip are cut off before it is scaled; the centre crop drops them anyway


@dataclass(frozen=True)
class Preprocessing:
    """Preprocessing of images: resize the shorter side to `size` pixels, crop the centre, scale to [0, 1].

    It is deterministic. With `resize="squash"` both sides become `size` and nothing is cropped (as SigLIP's towers
    were trained). Mean and standard deviation (per channel, of [0, 1] pixels) are applied inside the backbone, so that
    DPGD perturbs pixels. `interpolation` is `bicubic` or `bilinear`, antialiased.
    """

    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str = "bicubic"
    resize: Literal["shortest", "squash"] = "shortest"


Box = tuple[int, int, int, int]
"""Left, top, right, bottom in pixels; right and bottom are exclusive."""


Resample = Callable[[Image.Image, tuple[int, int], Box, str], UInt8[Tensor, "3 size size"]]
"""Maps (RGB image, width and height to scale it to, box to cut out then, interpolation) to pixels."""


def resample_exactly(
    image: Image.Image, size: tuple[int, int], box: Box, interpolation: str
) -> UInt8[Tensor, "3 size size"]:
    """Resample with Pillow, bit for bit as the models' published preprocessing does."""
    if image.size != size:
        image = image.resize(size, _RESAMPLING[interpolation])
    return torch.from_numpy(np.array(image.crop(box))).permute(2, 0, 1).contiguous()


def to_pixels(
    image: Image.Image, preprocessing: Preprocessing, *, resample: Resample = resample_exactly
) -> UInt8[Tensor, "3 size size"]:
    """Resize and crop one RGB image as torchvision's `Resize` and `CenterCrop` do on PIL images."""
    size = preprocessing.size
    if preprocessing.resize == "squash":
        return resample(image, (size, size), (0, 0, size, size), preprocessing.interpolation)
    image = _without_far_ends(image)
    width, height = _scaled(*image.size, size)
    # round() to even, as torchvision does
    left, top = round((width - size) / 2), round((height - size) / 2)
    return resample(image, (width, height), (left, top, left + size, top + size), preprocessing.interpolation)


def _without_far_ends(image: Image.Image) -> Image.Image:
    """Cut a very long strip to its middle, so that scaling its short side up cannot need gigabytes."""
    width, height = image.size
    limit = LONGEST_RATIO * min(width, height)
    if max(width, height) <= limit:
        return image
    left, top = max(0, (width - limit) // 2), max(0, (height - limit) // 2)
    return image.crop((left, top, left + min(width, limit), top + min(height, limit)))


def _scaled(width: int, height: int, shorter: int) -> tuple[int, int]:
    if width <= height:
        return shorter, int(shorter * height / width)
    return int(shorter * width / height), shorter
