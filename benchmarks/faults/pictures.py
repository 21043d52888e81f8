"""Small pictures that carry a mark, so that whatever is left of one anywhere can be found.

The mark is the first row of pixels. Files are not compressed, so it is in the encoded bytes as it is in the decoded
ones; a later row is noise of its own, so no two pictures are the same.
"""

from __future__ import annotations

import io
import random
import struct
import zipfile
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Final

SIDE: Final = 32
"""Pixels of a side: the mark has one byte for each pixel of a row."""


@dataclass(frozen=True)
class Mark:
    """What every picture of a run has in its first row: `SIDE` grey levels that occur nowhere else."""

    row: bytes

    @cached_property
    def needles(self) -> tuple[bytes, ...]:
        """The byte strings to look for: in files and in planes of pixels, and in pixels of three channels."""
        return self.row, bytes(level for level in self.row for _ in range(3))


class Pictures:
    """Grey PNG files with one mark. The same seed gives the same files."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self.mark = Mark(self._random.randbytes(SIDE))

    def png(self, level: int = 128) -> bytes:
        """A picture whose pixels, but for the mark, lie around a grey `level` in [32, 223]."""
        noise = (bytes(level + self._random.randrange(-32, 32) for _ in range(SIDE)) for _ in range(SIDE - 1))
        return grey_png([self.mark.row, *noise])

    def archive(self, classes: Iterable[str], *, images: int = 6) -> bytes:
        """A zip with a folder for each class, nothing in it compressed."""
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
            for number, name in enumerate(classes):
                for index in range(images):
                    archive.writestr(f"{name}/{index}.png", self.png(64 + 37 * number % 128))
        return buffer.getvalue()


def grey_png(rows: list[bytes], *, level: int = 0) -> bytes:
    """A PNG of 8-bit grey rows that are not filtered; `level` is zlib's, and 0 stores them as they are."""
    width, height = len(rows[0]), len(rows)
    return png_of(width, height, zlib.compress(b"".join(b"\0" + row for row in rows), level))


def png_of(width: int, height: int, data: bytes, *, kind: int = 0) -> bytes:
    """A PNG file that says of itself what it is told to: `data` is the content of its only IDAT, `kind` its colour."""
    header = struct.pack(">IIBBBBB", width, height, 8, kind, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def chunk(name: bytes, content: bytes) -> bytes:
    """A PNG chunk with its length and checksum."""
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
