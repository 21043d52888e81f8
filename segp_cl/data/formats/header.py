"""What an image file says of itself before it is decoded, and the orientation in its metadata."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from PIL import Image

from segp_cl.errors import ImageDecodeError

_ORIENTATION = 0x0112
_SHORT = 3
_MOST_EXIF_ENTRIES = 1024
_IN_XMP = re.compile(rb"tiff:Orientation(?:=\"|>)([1-8])")


@runtime_checkable  # tests check types while they run
class Croppable(Protocol):
    """Decoded pixels that are taken in parts, as Pillow's images can be."""

    @property
    def mode(self) -> str:
        """Pillow's name for the kind of pixels."""
        ...

    @property
    def size(self) -> tuple[int, int]:
        """Width and height."""
        ...

    def crop(self, box: tuple[int, int, int, int]) -> Image.Image:
        """Return the pixels in `box`: left, top, right, bottom."""
        ...


@dataclass(frozen=True)
class Header:
    """One image, as its header describes it.

    Attributes:
        format: the format's name in messages.
        size: width and height in pixels, as stored.
        data: the file without the metadata that decoding does not need, so that no time or memory goes into it.
        open: makes Pillow's lazy image from `data`.
        source_bytes: memory of one decoded pixel, in bytes.
        fixed_bytes: memory that decoding needs beside the decoded pixels, whatever the scale.
        is_rgb: decoded pixels are opaque 8-bit RGB, so that no second copy is made for the conversion.
        orientation: EXIF's number, 1 to 8; 1 is upright. None: the opened image says it.
        scales: the decoder can leave out detail while it decodes (`Image.draft`).
        open_large: a way that takes less memory, for images that are scaled down in any case, or None.
        large_bytes: memory of one pixel that way, the decoded pixel included.
    """

    format: str
    size: tuple[int, int]
    data: bytes
    open: Callable[[bytes], Image.Image]
    source_bytes: int
    fixed_bytes: int = 0
    is_rgb: bool = False
    orientation: int | None = 1
    scales: bool = False
    open_large: Callable[[bytes], Croppable] | None = None
    large_bytes: int = 0

    @property
    def pixels(self) -> int:
        """Width times height."""
        return self.size[0] * self.size[1]


def damaged(name: str, why: str) -> ImageDecodeError:
    """Return the error of an image that is not what its first bytes promise."""
    return ImageDecodeError(f"the {name} image is truncated or damaged: {why}")


def exif_orientation(block: bytes) -> int | None:
    """Return the orientation in an EXIF block, 1 to 8; None if there is none or the block is damaged."""
    start = 6 if block.startswith(b"Exif\0\0") else 0
    order = {b"II": "little", b"MM": "big"}.get(block[start : start + 2])

    def number(at: int, size: int) -> int:
        return int.from_bytes(block[start + at : start + at + size], order)  # type: ignore[arg-type]

    if order is None:
        return None
    at = number(4, 4)
    for entry in range(at + 2, at + 2 + 12 * min(number(at, 2), _MOST_EXIF_ENTRIES), 12):
        if number(entry, 2) == _ORIENTATION:
            value = number(entry + 8, 2 if number(entry + 2, 2) == _SHORT else 4)
            return value if 1 <= value <= 8 else 1
    return None


def xmp_orientation(xmp: bytes) -> int | None:
    """Return the orientation in an XMP packet, or None."""
    found = _IN_XMP.search(xmp)
    return int(found[1]) if found else None
