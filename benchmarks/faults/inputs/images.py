"""Images that are damaged, that lie about themselves, or that cost far more than they weigh."""

from __future__ import annotations

import io
import random
import struct
import zlib
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any, Final

from PIL import Image

from benchmarks.faults.inputs.bad import Bad, as_form, as_json, classify, http, mutate, text
from benchmarks.faults.pictures import chunk, png_of

Carrier = Callable[[bytes], bytes]
SIDE_OF_50_MEGAPIXELS: Final = 7071

CARRIERS: Final[dict[str, Carrier]] = {
    "a form": classify,
    "JSON": lambda image: as_json("/v1/classify", {"images": [text(image)]}),
    "a body of its own": lambda image: http("POST", "/v1/classify", image, {"Content-Type": "image/jpeg"}),
    "an embedding": lambda image: as_json("/v1/embeddings", {"input": [f"data:image/png;base64,{text(image)}"]}),
    "the inference protocol": lambda image: as_json(
        "/v2/models/keepsight/infer",
        {"inputs": [{"name": "image", "datatype": "BYTES", "shape": [1], "data": [text(image)]}]},
    ),
}


@cache
def whole(mark: bytes) -> dict[str, bytes]:
    """A small picture with a mark in every format that Pillow writes, by name, and some of unusual kinds."""
    Image.init()
    pixels = mark * 24
    grey = Image.frombytes("L", (len(mark), 24), pixels)
    found: dict[str, bytes] = {}
    for name in sorted(Image.SAVE):
        for mode in ("RGB", "L", "P"):
            try:
                found[name] = _saved(grey.convert(mode), name)
                break
            except Exception:  # noqa: S112 - some formats take one mode alone, some are not built in, each in its way
                continue
    found |= {
        "JPEG, CMYK": _saved(grey.convert("CMYK"), "JPEG"),
        "JPEG, progressive": _saved(grey.convert("RGB"), "JPEG", progressive=True),
        "PNG, palette": _saved(grey.convert("P"), "PNG"),
        "PNG, transparent": _saved(grey.convert("RGBA"), "PNG"),
        "PNG, 16 bits": _saved(grey.convert("I;16") if "I;16" in Image.MODES else grey.convert("I"), "PNG"),
        "TIFF, floats": _saved(grey.convert("F"), "TIFF"),
        "TIFF, LZW": _saved(grey.convert("RGB"), "TIFF", compression="tiff_lzw"),
        "GIF, animated": _saved(grey, "GIF", save_all=True, append_images=[grey.point(lambda v: 255 - v)] * 20),
        "WEBP, lossless": _saved(grey.convert("RGBA"), "WEBP", lossless=True),
        "WEBP, animated": _saved(
            grey.convert("RGB"), "WEBP", save_all=True, append_images=[grey.convert("RGB").rotate(90)] * 5
        ),
    }
    return found


def _saved(image: Image.Image, name: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, name, **options)
    return buffer.getvalue()


def webp_of(width: int, height: int) -> bytes:
    """A lossless WebP of one colour in 46 bytes or so, however many pixels it has."""
    # VP8L: signature, 14 bits each of width and height less one, no alpha, version 0; then codes of one symbol each
    bits = _Bits()
    bits.put(width - 1, 14)
    bits.put(height - 1, 14)
    bits.put(0, 4)
    bits.put(0, 3)  # no transform, no colour cache, no meta codes
    for _ in range(5):  # five simple codes, each of one symbol: no bits for a pixel
        bits.put(0b1, 1)
        bits.put(0, 1)
        bits.put(0, 1)
        bits.put(0, 1)
    payload = b"\x2f" + bits.content()
    payload += b"\0" * (len(payload) % 2)
    body = b"WEBPVP8L" + struct.pack("<I", len(payload)) + payload
    return b"RIFF" + struct.pack("<I", len(body)) + body


class _Bits:
    def __init__(self) -> None:
        self._value = 0
        self._count = 0

    def put(self, value: int, bits: int) -> None:
        self._value |= value << self._count
        self._count += bits

    def content(self) -> bytes:
        return self._value.to_bytes((self._count + 7) // 8, "little")


def forged() -> dict[str, bytes]:
    """Images that are made by hand."""
    side = SIDE_OF_50_MEGAPIXELS
    rows = zlib.compress(b"\0" * 40_000_000, 9)
    many_texts = chunk(b"zTXt", b"a\0\0" + zlib.compress(b"x" * 1_000_000, 9)) * 200
    signature, rest = b"\x89PNG\r\n\x1a\n", png_of(8, 8, zlib.compress(b"\0" * 72))[8:]
    header_end = 8 + 25
    small = png_of(8, 8, zlib.compress(b"\0" * 72))
    jpeg = _saved(Image.new("RGB", (64, 64), (200, 30, 30)), "JPEG")
    return {
        "nothing": b"",
        "one byte": b"\xff",
        "text": b"this is no image at all",
        "HTML": b"<!doctype html><script>alert(1)</script>",
        "SVG": b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>',
        "a PNG of 2^31 pixels a side": png_of(2**31 - 1, 2**31 - 1, b""),
        "a PNG of no pixels": png_of(0, 0, zlib.compress(b"")),
        "a PNG of 50 megapixels without data": png_of(side, side, zlib.compress(b"")),
        "a PNG of 40 megapixels of zeros": png_of(8000, 5000, rows),
        "a PNG that says 8 pixels and holds 40 million": png_of(8, 8, rows),
        "a PNG with 200 MB of texts": small[:header_end] + many_texts + small[header_end:],
        "a PNG with a chunk of 2^31 bytes": signature + struct.pack(">I", 2**31 - 1) + b"IDAT" + rest,
        "a PNG with a wrong colour": png_of(8, 8, zlib.compress(b"\0" * 72), kind=7),
        "a WebP of 50 megapixels": webp_of(side, side),
        "a WebP of 16383 pixels a side": webp_of(16383, 16383),
        "a JPEG of 65500 pixels a side": _jpeg_size(jpeg, 65500, 65500),
        "a JPEG of 100 megapixels without data": _jpeg_size(jpeg, 11585, 8640),
        "a JPEG of no lines": _jpeg_size(jpeg, 64, 0),
        "a JPEG with 500 scans": jpeg[:-2] + jpeg[jpeg.index(b"\xff\xda") : -2] * 500 + b"\xff\xd9",
        "a JPEG with 4 MB of comments": jpeg[:2] + (b"\xff\xfe\xff\xff" + b"c" * 65533) * 64 + jpeg[2:],
        "a GIF of 65535 pixels a side": b"GIF89a" + b"\xff" * 4 + b"\x80\0\0" + b"\0" * 6 + b",\0\0\0\0"
        + b"\xff" * 4 + b"\0\x02\x02\x4c\x01\0;",
        "a BMP of 2^31 pixels a side": b"BM" + struct.pack("<IHHIIiiHHIIiiII", 54, 0, 0, 54, 40, 2**31 - 1, 2**31 - 1,
        1, 24, 0, 0, 0, 0, 0, 0),
        "a BMP of 50 megapixels of runs": _bmp_runs(side, side),
        "a TIFF whose directories go round": b"II*\0\x08\0\0\0\x01\0\0\1\3\0\1\0\0\0\1\0\0\0\x08\0\0\0",
        "a TIFF with 65535 entries": b"II*\0\x08\0\0\0\xff\xff" + b"\0\1\4\0\1\0\0\0\xff\xff\xff\xff" * 65535,
        "an ICO of a PNG of 2^31 pixels a side": b"\0\0\1\0\1\0\0\0\0\0\1\0\x20\0" + struct.pack("<II", 100,
        22) + png_of(2**31 - 1, 9, b""),
        "an AVIF that is cut off": b"\0\0\0\x1cftypavif\0\0\0\0avifmif1miaf",
        "a HEIC that is cut off": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic\0\0\xff\xffmeta",
        "a PDF": b"%PDF-1.7\n1 0 obj<<>>endobj",
        "an EPS": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 100000 100000\n{1 1 scale} loop",
        "a zip": b"PK\x05\x06" + b"\0" * 18,
    }  # fmt: skip


def _jpeg_size(jpeg: bytes, width: int, height: int) -> bytes:
    at = jpeg.index(b"\xff\xc0") + 5
    return jpeg[:at] + struct.pack(">HH", height, width) + jpeg[at + 4 :]


def _bmp_runs(width: int, height: int) -> bytes:
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, 0, 0, 0, 256, 0)
    return b"BM" + struct.pack("<IHHI", 2000, 0, 0, 54 + 1024) + header + b"\0" * 1024 + b"\xff\x01" * 100 + b"\0\1"


def bad_images(seed: int, mark: bytes) -> Iterator[Bad]:
    """First every forged image in every carrier, and many in one request; then mutations without end."""
    made = forged()
    for what, image in made.items():
        for name, carrier in CARRIERS.items():
            yield Bad("image", f"{what}, in {name}", carrier(image))
    bomb = made["a WebP of 50 megapixels"]
    yield Bad("image", "64 WebP files of 50 megapixels", classify(*[bomb] * 64))
    yield Bad(
        "image", "64 WebP files of 50 megapixels, in JSON", as_json("/v1/classify", {"images": [text(bomb)] * 64})
    )
    yield Bad("image", "64 WebP files of 50 megapixels, as embeddings",
              as_json("/v1/embeddings", {"input": [f"data:image/webp;base64,{text(bomb)}"] * 64}))  # fmt: skip
    yield Bad("image", "64 PNG files of 40 megapixels", classify(*[made["a PNG of 40 megapixels of zeros"]] * 64))
    yield Bad("image", "5000 images", classify(*[made["nothing"]] * 5000))
    yield Bad("image", "images in a field of another name", as_form("/v1/classify", {}, [("pictures", "a", bomb)]))
    draw = random.Random(seed)
    bases = whole(mark)
    names = sorted(bases)
    while True:
        name, way = draw.choice(names), draw.choice(sorted(CARRIERS))
        what, image = mutate(draw, bases[name])
        yield Bad("image", f"{name}: {what}, in {way}", CARRIERS[way](image))
