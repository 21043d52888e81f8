"""JPEG: its size, how many scans it has, and the memory that they need."""

from __future__ import annotations

import io
import re

from PIL import JpegImagePlugin

from segp_cl.data.formats.header import Header, damaged, exif_orientation, xmp_orientation
from segp_cl.errors import ImageDecodeError

MOST_SCANS = 64
"""Encoders write up to some 20. Every scan goes over the whole image, however few bytes it has."""
MOST_SEGMENTS = 4096
_COEFFICIENT_BLOCK_BYTES = 128
_SCALABLE = {0xC0, 0xC1, 0xC2, 0xC9, 0xCA}  # sequential and progressive, Huffman and arithmetic
_PROGRESSIVE = {0xC2, 0xCA}
_FRAMES = set(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_METADATA = {*range(0xE1, 0xF0), 0xFE} - {0xEE}  # APP0 (JFIF) and APP14 (Adobe) say how colours are stored
_ALONE = {0x01, *range(0xD0, 0xD9)}  # markers without a length
_NEXT_MARKER = re.compile(rb"\xff+([^\x00\xff])")
_NEXT_IN_SCAN = re.compile(rb"\xff+([^\x00\xff\xd0-\xd7])")
_EXIF, _XMP = b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0"


def read_header(data: bytes) -> Header:
    """Read the segments before the first scan, and count the scans if the decoder must keep them all.

    Raises:
        ImageDecodeError: it is damaged, or has more segments or scans than any real image.
    """
    view, at, frame, exif, xmp = memoryview(data), 2, None, None, None
    kept: list[bytes | memoryview] = [b"\xff\xd8"]
    for _ in range(MOST_SEGMENTS):
        kind, begin, end = _segment(data, at)
        body = data[begin + 4 : end]
        if kind == 0xDA:
            break
        if kind in _FRAMES:
            frame = kind, body
        elif kind == 0xE1 and body.startswith(_EXIF):
            exif = exif or body
        elif kind == 0xE1 and body.startswith(_XMP):
            xmp = xmp or body
        if kind not in _METADATA and kind not in _ALONE:
            kept.append(view[begin:end])
        at = end
    else:
        raise ImageDecodeError(f"the JPEG image has more than {MOST_SEGMENTS} segments before its first scan")
    if frame is None or not body:
        raise damaged("JPEG", "no frame before the first scan")
    way, (width, height, sampling) = frame[0], _frame(frame[1])
    # the decoder keeps all coefficients unless one scan brings all components
    keeps = way in _PROGRESSIVE or body[0] < len(sampling)
    if keeps:
        _check_scans(data, begin)
    kept.append(view[begin:])
    orientation = (exif_orientation(exif) if exif else None) or (xmp_orientation(xmp) if xmp else None) or 1
    return Header(
        "JPEG",
        (width, height),
        b"".join(kept),
        _open,
        source_bytes=1 if len(sampling) == 1 else 4,
        fixed_bytes=_coefficient_bytes(width, height, sampling) if keeps else 0,
        is_rgb=len(sampling) == 3,
        orientation=orientation,
        scales=way in _SCALABLE,
    )


def _open(data: bytes) -> JpegImagePlugin.JpegImageFile:
    return JpegImagePlugin.JpegImageFile(io.BytesIO(data))


def _segment(data: bytes, at: int) -> tuple[int, int, int]:
    """Return the next marker from `at` on: its kind, where it begins, and where its segment ends."""
    found = _NEXT_MARKER.search(data, at)
    if found is None:
        raise damaged("JPEG", "it ends before its first scan")
    kind, begin, end = found[1][0], found.end() - 2, found.end()
    if kind == 0xD9:
        raise damaged("JPEG", "it ends before its first scan")
    if kind in _ALONE:
        return kind, begin, end
    length = int.from_bytes(data[end : end + 2], "big")
    if length < 2 or end + length > len(data):
        raise damaged("JPEG", f"a segment of {length} bytes, and {len(data) - end} are left")
    return kind, begin, end + length


def _frame(body: bytes) -> tuple[int, int, list[tuple[int, int]]]:
    """Return width, height and the sampling factors of every component."""
    if len(body) < 6 or len(body) < 6 + 3 * body[5] or not body[5]:
        raise damaged("JPEG", "a frame header that is too short")
    height, width = int.from_bytes(body[1:3], "big"), int.from_bytes(body[3:5], "big")
    sampling = [divmod(body[7 + 3 * index], 16) for index in range(body[5])]
    if not width or not height or not all(h and v for h, v in sampling):
        raise damaged("JPEG", f"a frame of {width} x {height} pixels with sampling {sampling}")
    return width, height, sampling


def _coefficient_bytes(width: int, height: int, sampling: list[tuple[int, int]]) -> int:
    most_h, most_v = max(h for h, _ in sampling), max(v for _, v in sampling)
    across, down = -(-width // (8 * most_h)), -(-height // (8 * most_v))
    return sum(across * h * down * v for h, v in sampling) * _COEFFICIENT_BLOCK_BYTES


def _check_scans(data: bytes, at: int) -> None:
    """Refuse an image of many scans. A small file can have thousands, each as long to decode as a usual image."""
    scans = segments = 0
    while found := _NEXT_IN_SCAN.search(data, at):
        kind, at = found[1][0], found.end()
        scans += kind == 0xDA
        segments += 1
        if kind == 0xD9:
            return
        if scans > MOST_SCANS or segments > MOST_SEGMENTS:
            raise ImageDecodeError(f"the JPEG image has more than {MOST_SCANS} scans, or {MOST_SEGMENTS} segments")
        if kind not in _ALONE:
            at += int.from_bytes(data[at : at + 2], "big")
