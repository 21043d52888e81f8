"""Images as tensors."""

from __future__ import annotations

import torch
from jaxtyping import Float, UInt8
from torch import Tensor


def as_unit_pixels(
    pixels: UInt8[Tensor, "batch 3 height width"] | Float[Tensor, "batch 3 height width"],
) -> Float[Tensor, "batch 3 height width"]:
    """8-bit pixels as float32 in [0, 1]; floats are taken to be in [0, 1] already."""
    return pixels.to(torch.float32) / 255 if pixels.dtype == torch.uint8 else pixels
