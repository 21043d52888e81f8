"""TIFF: its size, its strips or tiles, and a copy that only has the tags which pixels depend on."""

from __future__ import annotations

import io
import struct

from PIL import TiffImagePlugin

from segp_cl.data.formats.header import Header, damaged, xmp_orientation
from segp_cl.errors import ImageDecodeError

MOST_ENTRIES = 4096
MOST_VALUES = 1 << 18
"""Of one tag. Strips and tiles are listed in tags, and Pillow makes an object of every one."""
_WIDTH, _LENGTH, _BITS, _COMPRESSION, _SAMPLES = 256, 257, 258, 259, 277
_ROWS_PER_STRIP, _TILE_WIDTH, _TILE_LENGTH, _PHOTOMETRIC, _ORIENTATION, _XMP = 278, 322, 323, 262, 274, 700
_RGB, _LEAST_SAMPLE_BYTES = 2, 4
_OF_PIXELS = frozenset(
    {254, 255, 256, 257, 258, 259, 262, 266, 284}  # size, colours and layout
    | {273, 278, 279, 322, 323, 324, 325, 32997}  # strips and tiles
    | {277, 320, 332, 334, 336, 338, 339, 340, 341, 32995}  # samples and palette
    | {292, 293, 301, 317, 318, 319, 321, 347, *range(512, 522), *range(529, 533), 50674}  # compression and YCbCr
)
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}


def read_header(data: bytes) -> Header:
    """Read the first directory, of TIFF or BigTIFF. In the copy that is handed on, other tags have no type.

    Pillow passes over a tag without a type. Otherwise it would turn the image by itself, whole, and would load the
    directories of metadata, in which few bytes can stand for gigabytes of numbers.

    Raises:
        ImageDecodeError: it is damaged, or lists more tags, strips or tiles than any real image.
    """
    order = "<" if data.startswith(b"II") else ">"
    big = data[2:4] in (b"+\0", b"\0+")
    try:
        return _read(data, order, big)
    except struct.error as error:
        raise damaged("TIFF", "a directory beyond its end") from error


def _read(data: bytes, order: str, big: bool) -> Header:
    at = struct.unpack_from(order + "Q" if big else order + "L", data, 8 if big else 4)[0]
    count = struct.unpack_from(order + "Q" if big else order + "H", data, at)[0]
    entry, entry_bytes, inline = (order + "HHQ", 20, 8) if big else (order + "HHL", 12, 4)
    if count > MOST_ENTRIES:
        raise ImageDecodeError(f"the TIFF image has {count} tags; at most {MOST_ENTRIES} are read")
    entries = at + (8 if big else 2)
    clean = bytearray(data[entries : entries + entry_bytes * count])
    values: dict[int, int] = {}
    orientation = None
    for place in range(entries, entries + entry_bytes * count, entry_bytes):
        tag, kind, number = struct.unpack_from(entry, data, place)
        value_at = place + entry_bytes - inline
        size = _SIZES.get(kind, 0)
        outside = number * size > inline
        if outside:
            value_at = struct.unpack_from(order + ("Q" if big else "L"), data, value_at)[0]
        if tag == _XMP:
            orientation = orientation or xmp_orientation(data[value_at : value_at + number * size])
        if tag not in _OF_PIXELS and tag != _ORIENTATION:
            clean[place - entries + 2 : place - entries + 4] = b"\0\0"
            continue
        if number > MOST_VALUES:
            raise ImageDecodeError(f"the TIFF image has {number} values in tag {tag}; at most {MOST_VALUES} are read")
        first = {1: "B", 3: "H", 4: "L", 16: "Q"}.get(kind)
        if first is not None and number:
            # several values: the largest, as for bits per sample
            many = struct.unpack_from(f"{order}{min(number, 8)}{first}", data, value_at)
            values.setdefault(tag, max(many) if tag == _BITS else many[0])
        if tag == _ORIENTATION:
            clean[place - entries + 2 : place - entries + 4] = b"\0\0"
    if _ORIENTATION in values:
        orientation = values[_ORIENTATION] if 1 <= values[_ORIENTATION] <= 8 else 1
    view = memoryview(data)
    copy = b"".join((view[:entries], clean, view[entries + len(clean) :]))
    return _header(copy, values, orientation or 1)


def _header(data: bytes, values: dict[int, int], orientation: int) -> Header:
    width, height = values.get(_WIDTH, 0), values.get(_LENGTH, 0)
    if not width or not height:
        raise damaged("TIFF", f"{width} x {height} pixels")
    bits, samples = values.get(_BITS, 1), values.get(_SAMPLES, 1)
    if _TILE_WIDTH in values and _TILE_LENGTH in values:
        piece = values[_TILE_WIDTH] * values[_TILE_LENGTH]
    else:
        piece = width * min(height, values.get(_ROWS_PER_STRIP, height))
    packed = values.get(_COMPRESSION, 1) != 1
    return Header(
        "TIFF",
        (width, height),
        data,
        _open,
        source_bytes=max(1, -(-min(bits, 32) // 8)) if samples == 1 else 4,
        # libtiff unpacks one strip or tile at a time, for YCbCr to four bytes a pixel
        fixed_bytes=piece * max(_LEAST_SAMPLE_BYTES, -(-bits * samples // 8)) if packed else 0,
        is_rgb=samples == 3 and values.get(_PHOTOMETRIC) == _RGB,
        orientation=orientation,
    )


def _open(data: bytes) -> TiffImagePlugin.TiffImageFile:
    return TiffImagePlugin.TiffImageFile(io.BytesIO(data))
