"""The inputs of the first adapted layer: the layers before it do not change during an update, so they run once."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from segp_cl.data.row_file import RowFile
from segp_cl.pixels import as_unit_pixels
from segp_cl.types import ImageSource


class StemInputs:
    """The frozen stem's activations for a stream of images, computed once per image.

    Activations are stored in an unnamed file, never in memory; its space is freed when this object is deleted or its
    process dies. Without a stem (`stem` is None) batches are the pixels, and there is no file.

    Args:
        images: the stream.
        stem: pixels in [0, 1] to activations, batch by batch.
        device: where batches are returned.
        folder: where to put the file; the system's folder for temporary files if None.
    """

    def __init__(
        self,
        images: ImageSource,
        stem: Callable[[Tensor], Tensor] | None,
        *,
        device: torch.device,
        folder: Path | None = None,
    ) -> None:
        self._images, self._stem, self._device = images, stem, device
        self._kept = None if stem is None else RowFile(len(images.labels), folder=folder)

    @property
    def labels(self) -> Sequence[int]:
        """Position in `Task.classes` of every image."""
        return self._images.labels

    def batch(self, indices: Sequence[int]) -> Float[Tensor, "batch ..."]:
        """Return the activations of the images at `indices`, in that order, on the device."""
        if self._kept is None:
            return as_unit_pixels(self._images.pixels(indices).to(self._device))
        missing = [index for index in dict.fromkeys(indices) if index not in self._kept]
        fresh = self._pass(missing, self._kept) if missing else {}
        rows = [fresh[index] if index in fresh else self._kept.read(index) for index in indices]
        stacked = torch.stack(rows).to(self._device)
        return stacked.contiguous(memory_format=torch.channels_last) if stacked.dim() == 4 else stacked

    @torch.no_grad()
    def _pass(self, indices: Sequence[int], kept: RowFile) -> dict[int, Tensor]:
        assert self._stem is not None
        activations = self._stem(as_unit_pixels(self._images.pixels(indices).to(self._device)))
        rows = dict(zip(indices, activations.float().cpu().contiguous(), strict=True))
        for index, row in rows.items():
            with contextlib.suppress(OSError):  # a row that a full disk does not store is computed again
                kept.write(index, row)
        return rows
