"""Decodes untrusted bytes to RGB images, in bounded memory (docs/adr/0021)."""

from __future__ import annotations

import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from segp_cl.data.decode_memory import MAX_DECODE_BYTES, MIB, USUAL_BYTES, decode_memory
from segp_cl.data.formats import Croppable, Header, exif_orientation, read_header
from segp_cl.data.preprocessing import LONGEST_RATIO, Preprocessing, Resample, resample_exactly, to_pixels
from segp_cl.errors import ImageDecodeError

Convert = Callable[[Image.Image], Image.Image]

# texts of warnings contain numbers from the file, so that Python would remember and print each of them
warnings.filterwarnings("ignore", module=r"PIL\.")

# In one piece, a large image is memory of its own: the system zeroes it page by page where it is written, instead of
# Pillow all at once while every thread waits, and has it back as soon as the image is gone.
Image.core.set_block_size(1 << 30)  # type: ignore[attr-defined]

MAX_IMAGE_PIXELS = 250_000_000
_EXACT_BYTES = 192 * MIB
_EXACT_JPEG_BYTES = 96 * MIB
"""Up to this, a JPEG is decoded at its own size: 25 million pixels if it is upright, half as many if it is turned."""
_LARGE_REDUCED = 4
_PILLOW_PIXELS = 89_478_485  # more, and some of Pillow's plugins warn or refuse by themselves
_STRIP_PIXELS = 1 << 16
_SCALED_COSTS = 4
_RGB_BYTES = 4  # Pillow pads RGB
_TIFF_BITS_PER_SAMPLE, _TIFF_PHOTOMETRIC = 258, 262
_FROM_THE_TOP = (1, 2, 5, 8)  # orientations in which the stored first row is the upper or the left end
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclass(frozen=True)
class Plan:
    """How an image will be decoded.

    Attributes:
        header: what the image says of itself.
        fraction: the decoder unpacks it at one `fraction`-th of its size.
        reduced: the decoded pixels are averaged, `reduced` x `reduced` to one.
        size_bytes: the most memory that this takes at once, beside the file's own bytes.
    """

    header: Header
    fraction: int
    reduced: int
    size_bytes: int

    @property
    def is_usual(self) -> bool:
        """Whether it takes so little memory that it need not wait for others."""
        return self.size_bytes <= USUAL_BYTES

    @property
    def cost_pixels(self) -> int:
        """What it counts in a request's budget: its pixels, or a quarter of them if it is scaled while it is decoded.

        A JPEG at a half of its size takes about a quarter of the time a pixel that other ways take.
        """
        return -(-self.header.pixels // (_SCALED_COSTS if self.fraction > 1 else 1))


def plan_decoding(data: bytes, *, max_pixels: int = MAX_IMAGE_PIXELS, at_least: int | None = None) -> Plan:
    """Decide from its header how an image is decoded. Depends on nothing but the image and `at_least`.

    Raises:
        ImageDecodeError: not an image, more than `max_pixels` pixels, or more memory than this process may use.
    """
    header = read_header(data)
    width, height = header.size
    if header.pixels > max_pixels:
        raise ImageDecodeError(f"the image has {width} x {height} pixels; at most {max_pixels} are accepted")
    if header.pixels > _PILLOW_PIXELS and not header.scales:
        raise ImageDecodeError(
            f"the {header.format} image has {width} x {height} pixels; at most {_PILLOW_PIXELS} are accepted if it is "
            "not JPEG"
        )
    plan = _plan(header, at_least)
    if header.data is not data:
        plan = replace(plan, size_bytes=plan.size_bytes + len(header.data))
    limit = decode_memory().limit
    if plan.size_bytes > limit:
        raise ImageDecodeError(
            f"the {header.format} image of {width} x {height} pixels needs {-(-plan.size_bytes // MIB)} MiB of memory "
            f"to be decoded; at most {limit // MIB} MiB are allowed"
        )
    return plan


def image_pixels(data: bytes) -> int:
    """Return how many pixels an image has by its header, without decoding it; 0 if the header cannot be read."""
    try:
        return read_header(data).pixels
    except ImageDecodeError:  # as in `decode_image`, which then says what is wrong
        return 0


def decode_image(data: bytes, *, max_pixels: int = MAX_IMAGE_PIXELS, at_least: int | None = None) -> Image.Image:
    """Decode one image to 8-bit RGB; the formats are `segp_cl.data.formats.NAMES`.

    Applies the orientation, takes the first frame of an animation, puts transparency on white, and scales grey values
    of more than 8 bits instead of clipping them (32 bits have no fixed white, so from minimum to maximum).

    An image is decoded at its own size, unless that would take too much memory: then a JPEG is unpacked at a half, a
    quarter or an eighth, and others are averaged 4 x 4 while they are converted. Larger images wait until the process
    has memory for them. Thread-safe: changes no state of Pillow's.

    Args:
        data: the file's bytes.
        max_pixels: largest image that is decoded, counted at its own size.
        at_least: a JPEG may be decoded at 1/2, 1/4 or 1/8 of its size, if that divides both sides exactly (a last
            column of less than a pixel would shift the image) and leaves each at least this many pixels.

    Raises:
        ImageDecodeError: not an image of these formats, truncated, or of more pixels or memory than accepted (refused
            before decoding).
    """
    plan = plan_decoding(data, max_pixels=max_pixels, at_least=at_least)
    with decode_memory().hold(plan.size_bytes):
        return _decode(plan)


def check_image(data: bytes, *, max_pixels: int = MAX_IMAGE_PIXELS) -> None:
    """Decode an image as cheaply as shows that `decode_image` can, and keep nothing of it.

    Raises:
        ImageDecodeError: as `decode_image`.
    """
    plan = plan_decoding(data, max_pixels=max_pixels)
    header = plan.header
    if header.scales:
        plan = Plan(header, 8, 1, _size_bytes(header, 8, 1) + len(header.data))
    with decode_memory().hold(plan.size_bytes), _loaded(plan) as (image, _):
        next(_strips(image, _converter(image), 1))


def read_pixels(
    data: bytes, preprocessing: Preprocessing, *, max_pixels: int = MAX_IMAGE_PIXELS
) -> UInt8[Tensor, "3 size size"]:
    """Decode one image and bring it to a model's size: what serving and learning both do, to the bit.

    Raises:
        ImageDecodeError: as `decode_image`.
    """
    return pixels_of(plan_decoding(data, max_pixels=max_pixels), preprocessing)


def pixels_of(
    plan: Plan, preprocessing: Preprocessing, *, resample: Resample = resample_exactly
) -> UInt8[Tensor, "3 size size"]:
    """Decode as planned and bring the image to a model's size. The memory is held until both are done.

    Raises:
        ImageDecodeError: the image is truncated or damaged.
    """
    with decode_memory().hold(plan.size_bytes):
        return to_pixels(_decode(plan), preprocessing, resample=resample)


def _plan(header: Header, at_least: int | None) -> Plan:
    if not header.scales:
        exact = _size_bytes(header, 1, 1)
        if exact <= _EXACT_BYTES:
            return Plan(header, 1, 1, exact)
        return Plan(header, 1, _LARGE_REDUCED, _size_bytes(header, 1, _LARGE_REDUCED))
    least = 1 if at_least is None else _fraction(header.size, at_least)
    for fraction in (least, *(n for n in (2, 4, 8) if n > least)):
        needed = _size_bytes(header, fraction, 1)
        if needed - header.fixed_bytes <= _EXACT_JPEG_BYTES and needed <= MAX_DECODE_BYTES:
            break
    return Plan(header, fraction, 1, needed)


def _fraction(size: tuple[int, int], at_least: int) -> int:
    """Return the largest of 8, 4 and 2 that divides both sides and leaves each `at_least` pixels, or else 1."""
    width, height = size
    whole = (n for n in (8, 4, 2) if width % n == 0 and height % n == 0 and min(size) // n >= at_least)
    return next(whole, 1)


def _size_bytes(header: Header, fraction: int, reduced: int) -> int:
    pixels = -(-header.size[0] // fraction) * -(-header.size[1] // fraction)
    if reduced > 1:
        source = header.large_bytes * pixels if header.open_large else header.fixed_bytes + header.source_bytes * pixels
        return source + _RGB_BYTES * pixels // reduced**2
    # `to_pixels` cuts the ends off a long strip, which copies what is left
    as_it_is = header.is_rgb and header.orientation == 1 and max(header.size) < LONGEST_RATIO * min(header.size)
    return header.fixed_bytes + (header.source_bytes + (0 if as_it_is else _RGB_BYTES)) * pixels


def _decode(plan: Plan) -> Image.Image:
    with _loaded(plan) as (image, orientation):
        as_it_is = orientation == 1 and plan.reduced == 1
        if as_it_is and isinstance(image, Image.Image) and image.mode == "RGB" and not image.has_transparency_data:
            return image
        convert = _converter(image)
        width, height = (-(-side // plan.reduced) for side in image.size)
        upright: Image.Image | None = None
        for top, strip in _strips(image, convert, plan.reduced):
            below = height - top - strip.height
            turned = strip.transpose(_TURNS[orientation]) if orientation in _TURNS else strip
            if upright is None:
                if below == 0:
                    return turned
                upright = Image.new("RGB", (width, height) if orientation <= 4 else (height, width))
            distance = top if orientation in _FROM_THE_TOP else below
            upright.paste(turned, (0, distance) if orientation <= 4 else (distance, 0))
        assert upright is not None
        return upright


@contextmanager
def _loaded(plan: Plan) -> Iterator[tuple[Croppable, int]]:
    """Open and decode the image; yields it with its orientation."""
    header = plan.header
    try:
        if plan.reduced > 1 and header.open_large is not None:
            yield header.open_large(header.data), header.orientation or 1
            return
        with header.open(header.data) as image, _freed_if_it_fails(image):
            size = getattr(image, "_tile_size", image.size)
            if size[0] * size[1] > header.pixels:
                raise ImageDecodeError(f"{size[0]} x {size[1]} pixels, where its header has {header.size}")
            if plan.fraction > 1:
                image.draft(None, (max(1, header.size[0] // plan.fraction), max(1, header.size[1] // plan.fraction)))
            orientation = header.orientation or exif_orientation(image.info.get("exif") or b"") or 1
            image.load()
            yield image, orientation
    except Exception as error:  # Pillow's plugins raise a dozen types on hostile bytes; all mean the same here
        why = error or type(error).__name__
        raise ImageDecodeError(f"the {header.format} image is truncated or damaged: {why}") from error


@contextmanager
def _freed_if_it_fails(image: Image.Image) -> Iterator[None]:
    """Free the pixels if the block fails: the error keeps its frames, and these the image, until a collection."""
    try:
        yield
    except BaseException as error:
        traceback.clear_frames(error.__traceback__)
        image.close()
        raise


def _strips(image: Croppable, convert: Convert, reduced: int) -> Iterator[tuple[int, Image.Image]]:
    """Yield the image in strips of full width, converted and reduced, with their first rows.

    Only a strip at a time is in memory more than once, and other threads get their turn between two.
    """
    width, height = image.size
    rows = max(1, _STRIP_PIXELS // width // reduced) * reduced
    for top in range(0, height, rows):
        strip = convert(image.crop((0, top, width, min(height, top + rows))))
        yield top // reduced, strip.reduce(reduced) if reduced > 1 else strip


def _converter(image: Croppable) -> Convert:
    """Return what brings a part of `image` to opaque RGB."""
    if not image.mode.startswith(("I", "F")):
        return _opaque
    tags = getattr(image, "tag_v2", {})
    if image.mode.startswith("I;16"):
        low, high = 0.0, 2.0 ** int(tags.get(_TIFF_BITS_PER_SAMPLE, (16,))[0]) - 1
    else:
        ends = [(values.min(), values.max()) for values in (_finite(part) for _, part in _strips(image, _unchanged, 1))]
        low, high = float(min(least for least, _ in ends)), float(max(most for _, most in ends))
    inverted = tags.get(_TIFF_PHOTOMETRIC) == 0

    def convert(part: Image.Image) -> Image.Image:
        scaled = np.rint((_finite(part) - low) * (255 / ((high - low) or 1))).clip(0, 255).astype(np.uint8)
        return _opaque(Image.fromarray(255 - scaled if inverted else scaled))

    return convert


def _unchanged(part: Image.Image) -> Image.Image:
    return part


def _finite(part: Image.Image) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    return np.nan_to_num(np.asarray(part).astype(np.float64), posinf=0.0, neginf=0.0)


def _opaque(part: Image.Image) -> Image.Image:
    if part.has_transparency_data:
        part = part.convert("RGBA")
        part = Image.alpha_composite(Image.new("RGBA", part.size, "white"), part)
    return part if part.mode == "RGB" else part.convert("RGB")
