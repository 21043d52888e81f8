"""Labelled images that are read on demand."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from jaxtyping import UInt8
from torch import Tensor

from segp_cl.data.decoding import MAX_IMAGE_PIXELS, read_pixels
from segp_cl.data.preprocessing import Preprocessing
from segp_cl.data.row_file import RowFile
from segp_cl.errors import ImageDecodeError

logger = logging.getLogger(__name__)


class TensorImages:
    """Labelled images in memory: `pixels` [N, 3, size, size] of 8 bits, one label each."""

    def __init__(self, pixels: UInt8[Tensor, "images 3 height width"], labels: Sequence[int]) -> None:
        _check_lengths(len(pixels), len(labels))
        self._pixels, self._labels = pixels, tuple(labels)

    @property
    def labels(self) -> Sequence[int]:
        """Position in `Task.classes` of every image."""
        return self._labels

    def pixels(self, indices: Sequence[int]) -> UInt8[Tensor, "batch 3 height width"]:
        """Return the images at `indices`, in that order."""
        return self._pixels[list(indices)]


class FolderImages:
    """Labelled image files, decoded on demand by `threads` threads.

    Only the requested batch is held in memory. With `cache`, pixels are stored after their first read in an unnamed
    file in that folder, so that later epochs do not decode again and no image remains on disk. If the cache cannot be
    written (a full disk), images are decoded again.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        labels: Sequence[int],
        preprocessing: Preprocessing,
        *,
        threads: int = 2,
        cache: Path | None = None,
        max_pixels: int = MAX_IMAGE_PIXELS,
    ) -> None:
        _check_lengths(len(paths), len(labels))
        self._paths, self._labels = tuple(paths), tuple(labels)
        self._preprocessing, self._threads, self._max_pixels = preprocessing, threads, max_pixels
        self._cache = None if cache is None else RowFile(len(paths), folder=cache)

    @property
    def labels(self) -> Sequence[int]:
        """Position in `Task.classes` of every image."""
        return self._labels

    def pixels(self, indices: Sequence[int]) -> UInt8[Tensor, "batch 3 height width"]:
        """Return the images at `indices`, in that order, decoded, resized and cropped.

        Raises:
            ImageDecodeError: a file is missing or is not an image; the message names it.
        """
        size = self._preprocessing.size
        with torch.inference_mode(False):  # a thread does not inherit the mode, and could not write into such a tensor
            batch = torch.empty((len(indices), 3, size, size), dtype=torch.uint8)

        def fill(position: int) -> None:
            batch[position] = self._read(indices[position])

        cached = self._cache is not None and all(index in self._cache for index in indices)
        if self._threads <= 1 or len(indices) <= 1 or cached:
            for position in range(len(indices)):
                fill(position)
        else:
            with ThreadPoolExecutor(self._threads) as pool:
                for _ in pool.map(fill, range(len(indices))):
                    pass
        return batch

    def _read(self, index: int) -> UInt8[Tensor, "3 size size"]:
        if self._cache is not None and index in self._cache:
            return self._cache.read(index)
        path = self._paths[index]
        try:
            pixels = read_pixels(path.read_bytes(), self._preprocessing, max_pixels=self._max_pixels)
        except (OSError, ImageDecodeError) as error:
            raise ImageDecodeError(f"{path.name}: {error}") from error
        if self._cache is not None:
            try:
                self._cache.write(index, pixels)
            except OSError as error:
                logger.warning("the pixel cache cannot be written (%s); images are decoded again instead", error)
        return pixels


def _check_lengths(images: int, labels: int) -> None:
    if images != labels:
        raise ValueError(f"expected one label for every image, got {images} images and {labels} labels")
