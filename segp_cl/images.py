"""Untrusted bytes to RGB pictures, pictures to pixels for a base model, and images that stream from files."""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, UInt8
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
from torch import Tensor

from segp_cl.errors import ImageDecodeError
from segp_cl.rows import RowFile

logger = logging.getLogger(__name__)

MAX_IMAGE_PIXELS = 50_000_000

# The plugins are called directly: Image.open would try any format, and would warn about big pictures by itself.
_PLUGINS: tuple[tuple[tuple[bytes, ...], type[ImageFile.ImageFile]], ...] = (
    ((b"\xff\xd8\xff",), JpegImagePlugin.JpegImageFile),
    ((b"\x89PNG\r\n\x1a\n",), PngImagePlugin.PngImageFile),
    ((b"GIF87a", b"GIF89a"), GifImagePlugin.GifImageFile),
    ((b"RIFF",), WebPImagePlugin.WebPImageFile),
    ((b"BM",), BmpImagePlugin.BmpImageFile),
    ((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"), TiffImagePlugin.TiffImageFile),
)
_RESAMPLING = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
_LONGEST_RATIO = 64  # beyond it the sides of a strip are cut off before it is scaled; the centre crop drops them anyway
_TIFF_BITS_PER_SAMPLE, _TIFF_PHOTOMETRIC = 258, 262


@dataclass(frozen=True)
class Preprocessing:
    """Deterministic: resize the shorter side to `size` pixels, crop the centre, scale to [0, 1].

    With `resize="squash"` both sides become `size` and nothing is cropped (SigLIP's towers were trained so).
    Mean and standard deviation (per channel, of [0, 1] pixels) are applied inside the backbone, so that DPGD's
    perturbation lives in pixels. `interpolation` is `bicubic` or `bilinear`, antialiased.
    """

    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str = "bicubic"
    resize: Literal["shortest", "squash"] = "shortest"


Box = tuple[int, int, int, int]
"""Left, top, right, bottom in pixels; right and bottom are outside."""

Resample = Callable[[Image.Image, tuple[int, int], Box, str], UInt8[Tensor, "3 size size"]]
"""(RGB picture, width and height to scale it to, box to cut out then, interpolation) to pixels."""


def decode_image(data: bytes, *, max_pixels: int = MAX_IMAGE_PIXELS, at_least: int | None = None) -> Image.Image:
    """Decode one JPEG, PNG, GIF, WEBP, BMP or TIFF to 8-bit RGB; the format is taken from the bytes, never from a name.

    EXIF rotation is applied, of an animation the first frame is taken, transparency is laid on white, and grey
    values of more than 8 bits are scaled, not clipped (32 bits have no fixed white: from minimum to maximum).
    Safe to call from many threads: no state of Pillow's is changed.

    Args:
        data: the file's bytes.
        max_pixels: largest picture that is unpacked, in its own size.
        at_least: a JPEG may be decoded at 1/2, 1/4 or 1/8 of its size, if that divides both sides without a rest (a
            last column of less than a pixel would shift the picture) and leaves them so many pixels or more.

    Raises:
        ImageDecodeError: not such an image, truncated, or more than `max_pixels` pixels (refused before decoding).
    """
    plugin = next((plugin for magics, plugin in _PLUGINS if data.startswith(magics)), None)
    if plugin is None:
        what = "no bytes at all" if not data else "bytes that are none of JPEG, PNG, GIF, WEBP, BMP or TIFF"
        raise ImageDecodeError(f"Expected an image, got {what}.")
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
    except Exception as error:  # Pillow's plugins raise a dozen kinds on hostile bytes; every one means the same here
        name = plugin.format or "image"
        raise ImageDecodeError(f"The {name} image is truncated or damaged: {error or type(error).__name__}.") from error


def resample_exactly(
    image: Image.Image, size: tuple[int, int], box: Box, interpolation: str
) -> UInt8[Tensor, "3 size size"]:
    """Pillow's own resampling: what the models' published preprocessing does, to the bit."""
    if image.size != size:
        image = image.resize(size, _RESAMPLING[interpolation])
    return torch.from_numpy(np.array(image.crop(box))).permute(2, 0, 1).contiguous()


def to_pixels(
    image: Image.Image, preprocessing: Preprocessing, *, resample: Resample = resample_exactly
) -> UInt8[Tensor, "3 size size"]:
    """Resize and crop one RGB picture as torchvision's `Resize` and `CenterCrop` do on PIL images."""
    size = preprocessing.size
    if preprocessing.resize == "squash":
        return resample(image, (size, size), (0, 0, size, size), preprocessing.interpolation)
    image = _without_far_ends(image)
    width, height = _scaled(*image.size, size)
    # round() to even, as torchvision does
    left, top = round((width - size) / 2), round((height - size) / 2)
    return resample(image, (width, height), (left, top, left + size, top + size), preprocessing.interpolation)


def as_unit_pixels(
    pixels: UInt8[Tensor, "batch 3 height width"] | Float[Tensor, "batch 3 height width"],
) -> Float[Tensor, "batch 3 height width"]:
    """8-bit pixels as float32 in [0, 1]; floats are taken to be in [0, 1] already."""
    return pixels.to(torch.float32) / 255 if pixels.dtype == torch.uint8 else pixels


class TensorImages:
    """Labelled images that are already pixels: `pixels` [N, 3, size, size] of 8 bits, one label each."""

    def __init__(self, pixels: UInt8[Tensor, "images 3 height width"], labels: Sequence[int]) -> None:
        _check_lengths(len(pixels), len(labels))
        self._pixels, self._labels = pixels, tuple(labels)

    @property
    def labels(self) -> Sequence[int]:
        """Position in `Task.classes` of every image."""
        return self._labels

    def pixels(self, indices: Sequence[int]) -> UInt8[Tensor, "batch 3 height width"]:
        """The images at `indices`, in that order."""
        return self._pixels[list(indices)]


class FolderImages:
    """Labelled image files, decoded when asked for, by `threads` at a time.

    No more than the batch asked for is held in memory. With `cache`, pixels are kept after their first read in a file
    without a name in that folder, so that later epochs do not decode again and no image stays behind. A cache that
    cannot be written (a full disk) costs time, not the task.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        labels: Sequence[int],
        preprocessing: Preprocessing,
        *,
        threads: int = 2,
        cache: Path | None = None,
        max_pixels: int = MAX_IMAGE_PIXELS,
    ) -> None:
        _check_lengths(len(paths), len(labels))
        self._paths, self._labels = tuple(paths), tuple(labels)
        self._preprocessing, self._threads, self._max_pixels = preprocessing, threads, max_pixels
        self._cache = None if cache is None else RowFile(len(paths), folder=cache)

    @property
    def labels(self) -> Sequence[int]:
        """Position in `Task.classes` of every image."""
        return self._labels

    def pixels(self, indices: Sequence[int]) -> UInt8[Tensor, "batch 3 height width"]:
        """The images at `indices`, in that order, decoded, resized and cropped.

        Raises:
            ImageDecodeError: a file is gone or is not an image; the message names it.
        """
        size = self._preprocessing.size
        batch = torch.empty((len(indices), 3, size, size), dtype=torch.uint8)

        def fill(position: int) -> None:
            batch[position] = self._read(indices[position])

        cached = self._cache is not None and all(index in self._cache for index in indices)
        if self._threads <= 1 or len(indices) <= 1 or cached:
            for position in range(len(indices)):
                fill(position)
        else:
            with ThreadPoolExecutor(self._threads) as pool:
                for _ in pool.map(fill, range(len(indices))):
                    pass
        return batch

    def _read(self, index: int) -> UInt8[Tensor, "3 size size"]:
        if self._cache is not None and index in self._cache:
            return self._cache.read(index)
        path = self._paths[index]
        try:
            pixels = to_pixels(decode_image(path.read_bytes(), max_pixels=self._max_pixels), self._preprocessing)
        except (OSError, ImageDecodeError) as error:
            raise ImageDecodeError(f"{path.name}: {error}") from error
        if self._cache is not None:
            try:
                self._cache.write(index, pixels)
            except OSError as error:
                logger.warning("The pixel cache cannot be written (%s); images are decoded again instead.", error)
        return pixels


def _check_lengths(images: int, labels: int) -> None:
    if images != labels:
        raise ValueError(f"Every image needs one label: got {images} images and {labels} labels.")


def _check_size(size: tuple[int, int], max_pixels: int) -> None:
    width, height = size
    if width * height > max_pixels:
        raise ImageDecodeError(f"The image has {width} x {height} pixels; at most {max_pixels} are accepted.")


def _fraction(size: tuple[int, int], at_least: int) -> tuple[int, int]:
    """An eighth, a quarter or a half of `size`, the smallest that is whole and no side of which is below `at_least`."""
    width, height = size
    whole = (n for n in (8, 4, 2) if width % n == 0 and height % n == 0 and min(size) // n >= at_least)
    n = next(whole, 1)
    return width // n, height // n


def _gif_size(data: bytes) -> tuple[int, int]:
    """The canvas that a GIF's screen and first frame need, read from their headers; (0, 0) if there is no frame."""

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
    except Exception:  # a damaged EXIF block is no reason to refuse a picture that decoded
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


def _without_far_ends(image: Image.Image) -> Image.Image:
    """Cut a very long strip to its middle, so that scaling its short side up cannot need gigabytes."""
    width, height = image.size
    limit = _LONGEST_RATIO * min(width, height)
    if max(width, height) <= limit:
        return image
    left, top = max(0, (width - limit) // 2), max(0, (height - limit) // 2)
    return image.crop((left, top, left + min(width, limit), top + min(height, limit)))


def _scaled(width: int, height: int, shorter: int) -> tuple[int, int]:
    if width <= height:
        return shorter, int(shorter * height / width)
    return int(shorter * width / height), shorter
