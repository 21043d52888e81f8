"""The image formats that are read: how each is recognised, and what its header says (docs/adr/0021)."""

from __future__ import annotations

from collections.abc import Callable

from segp_cl.data.formats import bmp, gif, isobmff, jpeg, png, tiff, webp
from segp_cl.data.formats.header import Croppable, Header, exif_orientation
from segp_cl.errors import ImageDecodeError

NAMES = ("JPEG", "PNG", "GIF", "WEBP", "AVIF", "BMP", "TIFF") + (("HEIC",) if isobmff.HAS_HEIC else ())
"""What is read here; HEIC only where pillow-heif is installed."""

_READERS: tuple[tuple[tuple[bytes, ...], Callable[[bytes], Header]], ...] = (
    ((b"\xff\xd8\xff",), jpeg.read_header),
    ((png.MAGIC,), png.read_header),
    ((b"GIF87a", b"GIF89a"), gif.read_header),
    ((b"RIFF",), webp.read_header),
    ((b"BM",), bmp.read_header),
    ((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"), tiff.read_header),
)

__all__ = ["NAMES", "Croppable", "Header", "exif_orientation", "read_header"]


def read_header(data: bytes) -> Header:
    """Return what an image's header says. The format is taken from the bytes, never from a name; nothing is decoded.

    Raises:
        ImageDecodeError: not an image of these formats, or one that is damaged or built to be slow.
    """
    for magics, reader in _READERS:
        if data.startswith(magics):
            return reader(data)
    if isobmff.is_isobmff(data):
        return isobmff.read_header(data)
    known = f"{', '.join(NAMES[:-1])} or {NAMES[-1]}"
    what = "no bytes at all" if not data else f"bytes that are none of {known}"
    raise ImageDecodeError(f"expected an image, got {what}")
