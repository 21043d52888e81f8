"""WebP: its size, whether it moves, and how it is decoded in less memory than Pillow takes."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, WebPImagePlugin

from segp_cl.data.formats.header import Croppable, Header, damaged, exif_orientation, xmp_orientation
from segp_cl.errors import ImageDecodeError

MOST_CHUNKS = 1 << 16
_ANIMATED, _ALPHA = 0x02, 0x10
_CANVAS_BYTES = 12
"""Memory of one pixel that Pillow needs beside the image: two canvases of libwebp's and a copy of one."""


def read_header(data: bytes) -> Header:
    """Read the size and walk the chunks.

    Raises:
        ImageDecodeError: it is damaged, or has more chunks than any real image.
    """
    if data[8:12] != b"WEBP" or len(data) < 30:
        raise damaged("WEBP", "no header")
    size = WebPImagePlugin._get_size(data[:30])
    if size is None or not all(size):
        raise damaged("WEBP", "no size in its first chunk")
    extended = data[12:16] == b"VP8X"
    flags = data[20] if extended else 0
    lossless, orientation = _walk(data)
    has_alpha = bool(flags & _ALPHA) or lossless
    # libwebp unpacks a lossless image, and the alpha of a lossy one, whole before it writes pixels
    large_bytes = 8 if lossless else 4 + 3 * has_alpha
    return Header(
        "WEBP",
        size,
        data,
        _open,
        source_bytes=4,
        fixed_bytes=_CANVAS_BYTES * size[0] * size[1],
        is_rgb=not has_alpha,
        orientation=orientation or 1,
        open_large=None if flags & _ANIMATED else _open_large,
        large_bytes=large_bytes,
    )


def _open(data: bytes) -> WebPImagePlugin.WebPImageFile:
    return WebPImagePlugin.WebPImageFile(io.BytesIO(data))


class _Pixels:
    """Decoded pixels [height, width, channels], taken in parts."""

    def __init__(self, pixels: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> None:
        self._pixels = pixels
        self.size = (pixels.shape[1], pixels.shape[0])
        self.mode = "RGBA" if pixels.shape[2] == 4 else "RGB"

    def crop(self, box: tuple[int, int, int, int]) -> Image.Image:
        left, top, right, bottom = box
        return Image.fromarray(np.ascontiguousarray(self._pixels[top:bottom, left:right]))


def _open_large(data: bytes) -> Croppable:
    """Decode with torchvision, which asks libwebp for the pixels once, where Pillow plays an animation of one frame."""
    import torch
    import torchvision.io  # registers the operator; its own function warns that a later release may lack it

    if not hasattr(torch.ops.image, "decode_webp"):
        raise ImageDecodeError("one this large needs a torchvision that decodes WebP")
    encoded = torch.frombuffer(bytearray(data), dtype=torch.uint8)
    pixels = torch.ops.image.decode_webp(encoded, torchvision.io.ImageReadMode.UNCHANGED.value)
    return _Pixels(pixels.permute(1, 2, 0).numpy())


def _walk(data: bytes) -> tuple[bool, int | None]:
    """Return whether the first frame is lossless, and the orientation."""
    lossless, found, at = False, False, 12
    exif = xmp = None
    for _ in range(MOST_CHUNKS):
        name = data[at : at + 4]
        if len(name) < 4:
            break
        end = at + 8 + int.from_bytes(data[at + 4 : at + 8], "little")
        if name == b"ANMF" and not found:
            found, lossless = True, data[at + 24 : at + 28] == b"VP8L"
        elif name in (b"VP8 ", b"VP8L") and not found:
            found, lossless = True, name == b"VP8L"
        elif name == b"EXIF":
            exif = exif_orientation(data[at + 8 : end])
        elif name == b"XMP ":
            xmp = xmp_orientation(data[at + 8 : end])
        at = end + end % 2
    else:
        raise ImageDecodeError(f"the WEBP image has more than {MOST_CHUNKS} chunks")
    return lossless, exif or xmp
