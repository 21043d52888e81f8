"""BMP: its size, its depth, and whether it is run-length encoded."""

from __future__ import annotations

import io
import struct

from PIL import BmpImagePlugin

from segp_cl.data.formats.header import Header, damaged
from segp_cl.errors import ImageDecodeError

MOST_RUN_LENGTH_BYTES = 2 << 20
"""Pillow decodes run lengths in Python, at about a microsecond a byte."""
_RUN_LENGTHS = (1, 2)
_BITFIELDS = 3


def read_header(data: bytes) -> Header:
    """Read the header, of any of its versions.

    Raises:
        ImageDecodeError: it is damaged, or run-length encoded and too long to be decoded in time.
    """
    if len(data) < 30:
        raise damaged("BMP", "no header")
    if int.from_bytes(data[14:18], "little") == 12:
        width, height, _, bits = struct.unpack_from("<4H", data, 18)
        method = 0
    else:
        width, height, _, bits = struct.unpack_from("<IiHH", data, 18)
        method = int.from_bytes(data[30:34], "little")
    if not width or not height:
        raise damaged("BMP", f"{width} x {height} pixels")
    runs = method in _RUN_LENGTHS
    if runs and len(data) > MOST_RUN_LENGTH_BYTES:
        raise ImageDecodeError(
            f"the BMP image is run-length encoded and has {len(data)} bytes; at most {MOST_RUN_LENGTH_BYTES} are read"
        )
    size = width, abs(height)
    return Header(
        "BMP",
        size,
        data,
        _open,
        source_bytes=1 if bits <= 8 else 4,
        fixed_bytes=2 * size[0] * size[1] if runs else 0,
        is_rgb=bits in (16, 24) or (bits == 32 and method != _BITFIELDS),
    )


def _open(data: bytes) -> BmpImagePlugin.BmpImageFile:
    return BmpImagePlugin.BmpImageFile(io.BytesIO(data))
