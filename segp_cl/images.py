"""Untrusted bytes to RGB pictures, and pictures to pixels for a base model."""

from __future__ import annotations

from dataclasses import dataclass
from PIL import Image

MAX_IMAGE_PIXELS = 50_000_000


@dataclass(frozen=True)
class Preprocessing:
    """Deterministic: resize the shorter side to `size` pixels, crop the centre, scale to [0, 1].

    Mean and standard deviation (per channel, of [0, 1] pixels) are applied inside the backbone, so that DPGD's
    perturbation lives in pixels.
    """

    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str = "bicubic"


def decode_image(data: bytes, *, max_pixels: int = MAX_IMAGE_PIXELS) -> Image.Image:
    """Decode one image to 8-bit RGB: EXIF rotation applied, first frame of animations, CMYK / 16-bit / palette / alpha converted.

    Raises:
        ImageDecodeError: not an image, truncated, or more than `max_pixels` pixels.
    """
    raise NotImplementedError
