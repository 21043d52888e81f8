"""AVIF and HEIC: size, depth and coded sizes, from the boxes of ISO/IEC 23008-12 (HEIF)."""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Iterator
from dataclasses import dataclass, field

from PIL import AvifImagePlugin, Image

from segp_cl.data.formats import av1
from segp_cl.data.formats.header import Header, damaged
from segp_cl.errors import ImageDecodeError

MOST_BOXES = 4096
HAS_HEIC = importlib.util.find_spec("pillow_heif") is not None
HEIC_IS_MISSING = "HEIC needs keepsight[heic]"
_BRANDS = (b"avif", b"avis", b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1", b"miaf")
_CONTAINERS = {b"meta": 4, b"iprp": 0, b"ipco": 0}  # bytes before their first box


@dataclass
class _Found:
    """What the boxes say.

    Attributes:
        sizes: width and height of every image and tile.
        codecs: `av1C` and `hvcC`.
        samples: values of one pixel; 1.5 where colour has half the resolution.
        deep: a value has more than 8 bits.
        extents: coded data: whether it is inside the boxes, offset and length.
        inline_at: where data inside the boxes begins.
        edits: bytes to be replaced in what the decoder is given.
    """

    sizes: list[tuple[int, int]] = field(default_factory=list)
    codecs: set[bytes] = field(default_factory=set)
    samples: float = 0.0
    alpha: bool = False
    deep: bool = False
    extents: list[tuple[bool, int, int]] = field(default_factory=list)
    inline_at: int = 0
    edits: list[tuple[int, bytes]] = field(default_factory=list)


def is_isobmff(data: bytes) -> bool:
    """Return whether the bytes begin as those of an AVIF or HEIC file."""
    return data[4:8] == b"ftyp" and data[8:12] in _BRANDS


def read_header(data: bytes) -> Header:
    """Read the boxes of the still image. Its EXIF block is hidden from the decoder, and that it may be a film.

    The orientation is a property of the image in these formats (`irot`, `imir`), and EXIF's does not count.

    Raises:
        ImageDecodeError: it is damaged, has no AV1 or HEVC image, or HEIC support is not installed.
    """
    found = _Found()
    if data[8:12] in (b"avis", b"msf1"):
        found.edits.append((8, b"avif" if data[8:12] == b"avis" else b"mif1"))
    _walk(data, 0, len(data), found)
    if not found.codecs:
        raise damaged("AVIF or HEIC", "it has no AV1 or HEVC image")
    name = "AVIF" if b"av1C" in found.codecs else "HEIC"
    if name == "HEIC" and not HAS_HEIC:
        raise ImageDecodeError(f"the image is HEIC, which this installation cannot read; {HEIC_IS_MISSING}")
    size = max(found.sizes, key=lambda size: size[0] * size[1], default=(0, 0))
    if not all(size):
        raise damaged(name, f"{size[0]} x {size[1]} pixels")
    coded = max([size[0] * size[1], *(w * h for w, h in _coded_sizes(data, found))])
    view, done = memoryview(data), 0
    clean: list[bytes | memoryview] = []
    for at, new in sorted(found.edits):
        clean += [view[done:at], new]
        done = at + len(new)
    values = (found.samples + found.alpha) * (2 if found.deep else 1)
    return Header(
        name,
        size,
        b"".join((*clean, view[done:])) if clean else data,
        _open_avif if name == "AVIF" else _open_heic,
        source_bytes=4,
        # planes of the codec and of the image, and interleaved pixels
        fixed_bytes=int(2 * values * coded) + 4 * size[0] * size[1],
        orientation=None,
    )


def _open_avif(data: bytes) -> Image.Image:
    return AvifImagePlugin.AvifImageFile(io.BytesIO(data))


def _open_heic(data: bytes) -> Image.Image:
    from pillow_heif.as_plugin import HeifImageFile

    image: Image.Image = HeifImageFile(io.BytesIO(data))  # type: ignore[no-untyped-call]
    return image


def _boxes(data: bytes, at: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Yield kind, begin of the content, and end of every box."""
    for _ in range(MOST_BOXES):
        size, kind, head = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8], 8
        if size == 1:
            size, head = int.from_bytes(data[at + 8 : at + 16], "big"), 16
        stop = end if size == 0 else at + size
        if not at + head <= stop <= end:
            return  # the decoder says what is missing
        yield kind, at + head, stop
        at = stop
    raise ImageDecodeError(f"the AVIF or HEIC image has more than {MOST_BOXES} boxes at one level")


def _walk(data: bytes, at: int, end: int, found: _Found) -> None:
    for kind, content, stop in _boxes(data, at, end):
        if kind in _CONTAINERS:
            _walk(data, content + _CONTAINERS[kind], stop, found)
        elif kind == b"ispe":
            found.sizes.append((_number(data, content + 4, 4), _number(data, content + 8, 4)))
        elif kind == b"av1C" and stop > content + 2:
            found.codecs.add(kind)
            flags = data[content + 2]
            found.deep |= bool(flags & 0x40)
            found.samples = max(found.samples, 1.5 if flags & 0x0C == 0x0C else 3)
        elif kind == b"hvcC" and stop > content + 17:
            found.codecs.add(kind)
            found.deep |= bool(data[content + 17] & 7)
            found.samples = max(found.samples, 1.5 if data[content + 16] & 3 == 1 else 3)
        elif kind == b"auxC":
            found.alpha = True
        elif kind == b"iloc":
            found.extents += _extents(data[content:stop])
        elif kind == b"idat":
            found.inline_at = content
        elif kind == b"iinf":
            _hide_exif(data, content, stop, found)


def _hide_exif(data: bytes, at: int, end: int, found: _Found) -> None:
    at += 6 if data[at] == 0 else 8
    for kind, content, stop in _boxes(data, at, end):
        place = content + (8 if data[content] == 2 else 10)
        if kind == b"infe" and place + 4 <= stop and data[place : place + 4] == b"Exif":
            found.edits.append((place, b"none"))


def _extents(box: bytes) -> Iterator[tuple[bool, int, int]]:
    """Yield the pieces of coded data that an `iloc` box lists."""
    if len(box) < 8:
        return
    version, sizes = box[0], _number(box, 4, 2)
    offset_size, length_size, base_size = sizes >> 12, sizes >> 8 & 15, sizes >> 4 & 15
    index_size = sizes & 15 if version else 0
    wide = 4 if version == 2 else 2
    at = 6 + wide
    for _ in range(min(_number(box, 6, wide), MOST_BOXES)):
        at += wide
        inside = bool(version and _number(box, at, 2) & 15 == 1)
        at += (2 if version else 0) + 2
        base = _number(box, at, base_size)
        at += base_size
        count = _number(box, at, 2)
        at += 2
        for _ in range(min(count, MOST_BOXES)):
            offset = _number(box, at + index_size, offset_size)
            yield inside, base + offset, _number(box, at + index_size + offset_size, length_size)
            at += index_size + offset_size + length_size
        if at > len(box):
            return


def _coded_sizes(data: bytes, found: _Found) -> Iterator[tuple[int, int]]:
    if b"av1C" not in found.codecs:
        return
    for inside, offset, length in found.extents[:MOST_BOXES]:
        begin = offset + (found.inline_at if inside else 0)
        yield from av1.coded_sizes(data[begin : begin + length] if length else data[begin:])


def _number(data: bytes, at: int, size: int) -> int:
    return int.from_bytes(data[at : at + size], "big")
