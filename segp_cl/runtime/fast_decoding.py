"""The fast way from untrusted bytes to pixels: not to the bit what `to_pixels` gives, but nearly (docs/adr/0013)."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from segp_cl.data.decoding import MAX_IMAGE_PIXELS, decode_image
from segp_cl.data.preprocessing import Box, Preprocessing, to_pixels

SPARE = 8  # a JPEG is decoded at no less than so many times the wanted size; with less, features differ visibly


def fast_pixels(
    data: bytes, preprocessing: Preprocessing, *, max_pixels: int = MAX_IMAGE_PIXELS, spare: int = SPARE
) -> UInt8[Tensor, "3 size size"]:
    """One image's pixels: a large JPEG unpacked at a fraction of its size, then scaled by PyTorch's vectorised code.

    Without a fraction, values are within 2 of those of `to_pixels(decode_image(data))`.

    Raises:
        ImageDecodeError: as `decode_image`; `max_pixels` counts the picture in its own size.
    """
    image = decode_image(data, max_pixels=max_pixels, at_least=spare * preprocessing.size)
    return to_pixels(image, preprocessing, resample=resample_fast)


def resample_fast(
    image: Image.Image, size: tuple[int, int], box: Box, interpolation: str
) -> UInt8[Tensor, "3 size size"]:
    """Scale an RGB picture to `size` (width, height) and cut `box` out."""
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    if image.size != size:
        scaled = F.interpolate(pixels[None], size=(size[1], size[0]), mode=interpolation, antialias=True)
        pixels = scaled[0]
    left, top, right, bottom = box
    return pixels[:, top:bottom, left:right].contiguous()
