"""Fast decoding of untrusted bytes to pixels: nearly, but not bit for bit, those of `to_pixels` (docs/adr/0013)."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from segp_cl.data.decoding import MAX_IMAGE_PIXELS, Plan, pixels_of, plan_decoding
from segp_cl.data.preprocessing import Box, Preprocessing, resample_exactly

MOST_PIXELS = 1 << 23
"""Of a decoded image. PyTorch copies what it scales, and for larger ones memory counts for more than time."""
SPARE = 8  # a JPEG is decoded at this multiple of the wanted size or more; with less, features differ visibly


def fast_pixels(
    data: bytes, preprocessing: Preprocessing, *, max_pixels: int = MAX_IMAGE_PIXELS, spare: int = SPARE
) -> UInt8[Tensor, "3 size size"]:
    """Decode one image: a large JPEG at a fraction of its size, then scaled by PyTorch's vectorised code.

    An image decoded at full size has values within 2 of those of `to_pixels(decode_image(data))`.

    Raises:
        ImageDecodeError: as `decode_image`; `max_pixels` counts the image at its own size.
    """
    plan = plan_fast(data, preprocessing, max_pixels=max_pixels, spare=spare)
    return pixels_of(plan, preprocessing, resample=resample_fast)


def plan_fast(
    data: bytes, preprocessing: Preprocessing, *, max_pixels: int = MAX_IMAGE_PIXELS, spare: int = SPARE
) -> Plan:
    """Decide how one image is decoded the fast way.

    Raises:
        ImageDecodeError: as `plan_decoding`.
    """
    return plan_decoding(data, max_pixels=max_pixels, at_least=spare * preprocessing.size)


def resample_fast(
    image: Image.Image, size: tuple[int, int], box: Box, interpolation: str
) -> UInt8[Tensor, "3 size size"]:
    """Scale an RGB image to `size` (width, height) and cut `box` out."""
    if image.width * image.height > MOST_PIXELS:
        return resample_exactly(image, size, box, interpolation)
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    if image.size != size:
        scaled = F.interpolate(pixels[None], size=(size[1], size[0]), mode=interpolation, antialias=True)
        pixels = scaled[0]
    left, top, right, bottom = box
    return pixels[:, top:bottom, left:right].contiguous()
