"""Decodes untrusted bytes to RGB images."""

from __future__ import annotations

import io
import logging

import numpy as np
from PIL import (
    BmpImagePlugin,
    ExifTags,
    GifImagePlugin,
    Image,
    ImageFile,
    ImageOps,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from segp_cl.errors import ImageDecodeError

logger = logging.getLogger(__name__)

MAX_IMAGE_PIXELS = 50_000_000

# The plugins are called directly: Image.open would try any format, and would warn about big images by itself.
_PLUGINS: tuple[tuple[tuple[bytes, ...], type[ImageFile.ImageFile]], ...] = (
    ((b"\xff\xd8\xff",), JpegImagePlugin.JpegImageFile),
    ((b"\x89PNG\r\n\x1a\n",), PngImagePlugin.PngImageFile),
    ((b"GIF87a", b"GIF89a"), GifImagePlugin.GifImageFile),
    ((b"RIFF",), WebPImagePlugin.WebPImageFile),
    ((b"BM",), BmpImagePlugin.BmpImageFile),
    ((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"), TiffImagePlugin.TiffImageFile),
)
_TIFF_BITS_PER_SAMPLE, _TIFF_PHOTOMETRIC = 258, 262


def decode_image(data: bytes, *, max_pixels: int = MAX_IMAGE_PIXELS, at_least: int | None = None) -> Image.Image:
    """Decode one JPEG, PNG, GIF, WEBP, BMP or TIFF to 8-bit RGB; the format is taken from the bytes, never from a name.

    Applies EXIF rotation, takes the first frame of an animation, puts transparency on white, and scales grey values
    of more than 8 bits instead of clipping them (32 bits have no fixed white, so from minimum to maximum).
    Thread-safe: changes no state of Pillow's.

    Args:
        data: the file's bytes.
        max_pixels: largest image that is decoded, counted at its own size.
        at_least: a JPEG may be decoded at 1/2, 1/4 or 1/8 of its size, if that divides both sides exactly (a last
            column of less than a pixel would shift the image) and leaves each at least this many pixels.

    Raises:
        ImageDecodeError: not an image of these formats, truncated, or of more than `max_pixels` pixels (refused before
            decoding).
    """
    plugin = next((plugin for magics, plugin in _PLUGINS if data.startswith(magics)), None)
    if plugin is None:
        what = "no bytes at all" if not data else "bytes that are none of JPEG, PNG, GIF, WEBP, BMP or TIFF"
        raise ImageDecodeError(f"expected an image, got {what}")
    if plugin is GifImagePlugin.GifImageFile:
        _check_size(_gif_size(data), max_pixels)  # the plugin allocates while it opens
    try:
        with plugin(io.BytesIO(data)) as image:
            _check_size(image.size, max_pixels)
            _check_size(getattr(image, "_tile_size", image.size), max_pixels)  # TIFF: what would be allocated
            if at_least is not None:
                image.draft(None, _fraction(image.size, at_least))  # of these formats only JPEG does anything
            image.load()
            return _to_rgb(_upright(image))
    except ImageDecodeError:
        raise
    except Exception as error:  # Pillow's plugins raise a dozen types on hostile bytes; all mean the same here
        name = plugin.format or "image"
        raise ImageDecodeError(f"the {name} image is truncated or damaged: {error or type(error).__name__}") from error


def _check_size(size: tuple[int, int], max_pixels: int) -> None:
    width, height = size
    if width * height > max_pixels:
        raise ImageDecodeError(f"the image has {width} x {height} pixels; at most {max_pixels} are accepted")


def _fraction(size: tuple[int, int], at_least: int) -> tuple[int, int]:
    """Return the smallest exact eighth, quarter or half of `size` with no side below `at_least`, or else `size`."""
    width, height = size
    whole = (n for n in (8, 4, 2) if width % n == 0 and height % n == 0 and min(size) // n >= at_least)
    n = next(whole, 1)
    return width // n, height // n


def _gif_size(data: bytes) -> tuple[int, int]:
    """Return the canvas that a GIF's screen and first frame need, from their headers; (0, 0) if there is no frame."""

    def u16(at: int) -> int:
        return int.from_bytes(data[at : at + 2], "little")

    at = 13 + (3 << (data[10] & 7) + 1 if len(data) > 10 and data[10] & 0x80 else 0)
    while at + 9 < len(data):
        if data[at] == 0x2C:
            left, top, width, height = (u16(at + offset) for offset in (1, 3, 5, 7))
            return max(u16(6), left + width), max(u16(8), top + height)
        if data[at] == 0x21:
            at += 2
            while at < len(data) and data[at]:
                at += 1 + data[at]
        at += 1
    return 0, 0


def _upright(image: Image.Image) -> Image.Image:
    try:
        if image.getexif().get(ExifTags.Base.Orientation, 1) == 1:
            return image  # exif_transpose would copy it
        return ImageOps.exif_transpose(image)
    except Exception:  # a damaged EXIF block is no reason to refuse an image that decoded
        return image


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith(("I", "F")):
        image = _to_8_bits(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image if image.mode == "RGB" else image.convert("RGB")  # converting RGB to RGB copies it


def _to_8_bits(image: Image.Image) -> Image.Image:
    values = np.asarray(image).astype(np.float64)
    tags = getattr(image, "tag_v2", {})
    if image.mode.startswith("I;16"):
        low, high = 0.0, 2.0 ** int(tags.get(_TIFF_BITS_PER_SAMPLE, (16,))[0]) - 1
    else:
        values = np.nan_to_num(values, posinf=0.0, neginf=0.0)
        low, high = float(values.min()), float(values.max())
    scaled = np.rint((values - low) * (255 / ((high - low) or 1))).clip(0, 255).astype(np.uint8)
    return Image.fromarray(255 - scaled if tags.get(_TIFF_PHOTOMETRIC) == 0 else scaled)
