"""Labelled images that stay where they are: in files, in one array, or as a choice from others."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.accuracy.datasets.types import DatasetMissingError, LabelledImages
from segp_cl.data.decoding import decode_image
from segp_cl.errors import ImageDecodeError


@runtime_checkable
class Identified(Protocol):
    """Images that can say cheaply which they are, without being decoded."""

    def identity(self, index: int) -> bytes:
        """Bytes that differ between different images of a published data set, the same on every machine."""
        ...


def identity_of(images: LabelledImages, index: int) -> bytes:
    """The identity of an image: what `images` says, or its decoded pixels where it says nothing."""
    if isinstance(images, Identified):
        return images.identity(index)
    image = images.open(index)
    return struct.pack("<2q", *image.size) + image.tobytes()


class FileImages:
    """Image files under `root`; `names` are relative to it, with forward slashes."""

    def __init__(self, root: Path, names: Sequence[str], labels: Sequence[int]) -> None:
        _check_lengths(len(names), len(labels))
        self._root, self._names, self.labels = root, tuple(names), tuple(labels)

    def open(self, index: int) -> Image.Image:
        """The image as RGB, at full size, upright.

        Raises:
            ImageDecodeError: the file is gone or is not an image; the message names it.
        """
        path = self._root / self._names[index]
        try:
            return decode_image(path.read_bytes())
        except (OSError, ImageDecodeError) as error:
            raise ImageDecodeError(f"{path}: {error}") from error

    def identity(self, index: int) -> bytes:
        """The file's name under its root, and its size.

        Raises:
            DatasetMissingError: there is no such file.
        """
        path = self._root / self._names[index]
        try:
            size = path.stat().st_size
        except FileNotFoundError as error:
            raise DatasetMissingError(f"{path} is missing, though the data set's lists name it") from error
        return struct.pack("<q", size) + self._names[index].encode()


class ArrayImages:
    """Images published as one array: `pixels` [N, height, width, 3] of 8 bits."""

    def __init__(self, pixels: NDArray[np.uint8], labels: Sequence[int]) -> None:
        _check_lengths(len(pixels), len(labels))
        if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[3] != 3:
            raise ValueError(f"expected 8-bit pixels [N, height, width, 3], got {pixels.dtype} {list(pixels.shape)}")
        self._pixels, self.labels = pixels, tuple(int(label) for label in labels)

    def open(self, index: int) -> Image.Image:
        """The image as RGB; a copy, so that drawing on it does not alter the data set."""
        return Image.fromarray(self._pixels[index].copy())

    def identity(self, index: int) -> bytes:
        """Its bytes."""
        return bytes(self._pixels[index].tobytes())


class SelectedImages:
    """Those of `images` at `indices`, in that order."""

    def __init__(self, images: LabelledImages, indices: Sequence[int]) -> None:
        self._images, self._indices = images, tuple(indices)
        labels = images.labels
        self.labels = tuple(labels[index] for index in self._indices)

    def open(self, index: int) -> Image.Image:
        """The image as RGB, at full size; raises what the images it was selected from raise."""
        return self._images.open(self._indices[index])

    def identity(self, index: int) -> bytes:
        """The identity of the selected image."""
        return identity_of(self._images, self._indices[index])


def _check_lengths(images: int, labels: int) -> None:
    if images != labels:
        raise ValueError(f"every image needs one label: got {images} images and {labels} labels")
