"""The images that `classify` and `embeddings` take."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path

from keepsight.client.errors import UploadError

NamedImage = tuple[str, bytes]
"""A file name, as the answer will repeat it, and the file's bytes."""

Image = bytes | Path | NamedImage
"""The bytes of an image file, its path, or a name and the bytes."""


def sendable(name: str) -> str:
    """Return a file's name as Unicode text: what is not UTF-8 on the disk becomes question marks."""
    return name.encode("utf-8", "replace").decode("utf-8")


def named_image(image: Image) -> NamedImage:
    """Return an image's name and bytes. A file keeps its name without the folder; bytes alone are named `image`.

    Raises:
        OSError: the file cannot be read.
    """
    if isinstance(image, Path):
        return sendable(image.name), image.read_bytes()
    return ("image", image) if isinstance(image, bytes) else image


def named_images(images: Sequence[Image]) -> list[NamedImage]:
    """Return the names and bytes of images.

    Raises:
        UploadError: there are none.
        TypeError: one image was given in place of a list.
        OSError: a file cannot be read.
    """
    if isinstance(images, str | bytes | bytearray | Path):
        raise TypeError(f"expected a list of images, got one of type {type(images).__name__}")
    if not images:
        raise UploadError("no image was given")
    return [named_image(image) for image in images]


def embedding_input(item: str | Image) -> str:
    """Return a text unchanged, or an image as a data URI; the service detects its format from the bytes.

    Raises:
        OSError: the file cannot be read.
    """
    if isinstance(item, str):
        return item
    return "data:image/*;base64," + base64.b64encode(named_image(item)[1]).decode("ascii")


def embedding_inputs(inputs: str | Sequence[str | Image]) -> list[str]:
    """Return the inputs in the route's format. A single string is one text, not its letters.

    Raises:
        UploadError: there are none.
        TypeError: one image was given in place of a list.
        OSError: a file cannot be read.
    """
    if isinstance(inputs, bytes | bytearray | Path):
        raise TypeError(f"expected a text or a list of texts and images, got one of type {type(inputs).__name__}")
    if not inputs:
        raise UploadError("no text or image was given")
    return [inputs] if isinstance(inputs, str) else [embedding_input(item) for item in inputs]
