"""Conversion of 8-bit pixels."""

from __future__ import annotations

import torch
from jaxtyping import Float, UInt8
from torch import Tensor


def as_unit_pixels(
    pixels: UInt8[Tensor, "batch 3 height width"] | Float[Tensor, "batch 3 height width"],
) -> Float[Tensor, "batch 3 height width"]:
    """Convert 8-bit pixels to float32 in [0, 1]; floats must be in [0, 1] already and are returned as they are."""
    return pixels.to(torch.float32) / 255 if pixels.dtype == torch.uint8 else pixels
