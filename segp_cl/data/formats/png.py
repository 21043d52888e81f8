"""PNG: its size and kind of pixels; only the chunks that pixels are made of are handed on."""

from __future__ import annotations

import io
import zlib

from PIL import PngImagePlugin

from segp_cl.data.formats.header import Header, damaged, exif_orientation, xmp_orientation
from segp_cl.errors import ImageDecodeError

MAGIC = b"\x89PNG\r\n\x1a\n"
MOST_CHUNKS = 1 << 16
_OF_PIXELS = {b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"}
_TEXTS = {b"tEXt", b"zTXt", b"iTXt"}
_RAW_EXIF, _XMP = b"Raw profile type exif\0", b"XML:com.adobe.xmp\0"
_MOST_RAW_EXIF = 1 << 18
_GREY, _RGB, _PALETTE = 0, 2, 3


def read_header(data: bytes) -> Header:
    """Walk the chunks. Texts, colour profiles and further frames are left out: unpacking them is where bombs are.

    Raises:
        ImageDecodeError: it is damaged, or has more chunks than any real image.
    """
    if data[12:16] != b"IHDR" or len(data) < 33:
        raise damaged("PNG", "no header chunk")
    width, height = int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")
    depth, kind = data[24], data[25]
    if not width or not height:
        raise damaged("PNG", f"{width} x {height} pixels")
    view, at, begin, orientation, transparent = memoryview(data), 8, 8, None, False
    kept: list[bytes | memoryview] = [MAGIC]
    for _ in range(MOST_CHUNKS):
        name, end = data[at + 4 : at + 8], at + 12 + int.from_bytes(data[at : at + 4], "big")
        if len(name) < 4 or end > len(data) or name == b"IEND":
            break  # the decoder says what is missing
        transparent |= name == b"tRNS"
        if name not in _OF_PIXELS:
            kept.append(view[begin:at])
            begin = end
            orientation = orientation or _orientation(name, data, at + 8, end - 4)
        at = end
    else:
        raise ImageDecodeError(f"the PNG image has more than {MOST_CHUNKS} chunks")
    kept.append(view[begin:])
    one_value = kind in (_GREY, _PALETTE)
    return Header(
        "PNG",
        (width, height),
        b"".join(kept) if len(kept) > 2 else data,
        _open,
        source_bytes=(2 if depth == 16 else 1) if one_value else 4,
        is_rgb=kind == _RGB and not transparent,
        orientation=orientation or 1,
    )


def _open(data: bytes) -> PngImagePlugin.PngImageFile:
    return PngImagePlugin.PngImageFile(io.BytesIO(data))


def _orientation(name: bytes, data: bytes, begin: int, end: int) -> int | None:
    if name == b"eXIf":
        return exif_orientation(data[begin:end])
    if name not in _TEXTS:
        return None
    if data.startswith(_RAW_EXIF, begin):
        return _raw_orientation(name, data[begin + len(_RAW_EXIF) : end])
    if name == b"iTXt" and data.startswith(_XMP, begin):
        return xmp_orientation(data[begin:end])
    return None


def _raw_orientation(name: bytes, text: bytes) -> int | None:
    """Read the hexadecimal EXIF block that ImageMagick writes into a text."""
    if name == b"zTXt":
        try:
            text = zlib.decompressobj().decompress(text[1:], _MOST_RAW_EXIF)
        except zlib.error:
            return None
    try:
        block = bytes.fromhex("".join(text[:_MOST_RAW_EXIF].decode("latin-1").split("\n")[3:]))
    except ValueError:
        return None
    return exif_orientation(block)
