"""Images as `classify` and `embeddings` take them."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path

NamedImage = tuple[str, bytes]
"""A file name, as the answer will repeat it, and the file's bytes."""

Image = bytes | Path | NamedImage
"""The bytes of an image file, the file, or both a name and bytes."""


def named_image(image: Image) -> NamedImage:
    """An image with its bytes in memory. A file is named by its last part, bytes alone by `image`.

    Raises:
        OSError: the file cannot be read.
    """
    if isinstance(image, Path):
        return image.name, image.read_bytes()
    return ("image", image) if isinstance(image, bytes) else image


def named_images(images: Sequence[Image]) -> list[NamedImage]:
    """Images with their bytes in memory.

    Raises:
        OSError: a file cannot be read.
    """
    return [named_image(image) for image in images]


def embedding_input(item: str | Image) -> str:
    """A text as it stands, an image as a data URI; the service looks at the bytes to find out what image it is.

    Raises:
        OSError: the file cannot be read.
    """
    if isinstance(item, str):
        return item
    return "data:image/*;base64," + base64.b64encode(named_image(item)[1]).decode("ascii")


def embedding_inputs(inputs: str | Sequence[str | Image]) -> list[str]:
    """What to embed, as the route takes it. A string alone is one text, not its letters.

    Raises:
        OSError: a file cannot be read.
    """
    return [inputs] if isinstance(inputs, str) else [embedding_input(item) for item in inputs]
