"""Images as the first adapted layer sees them: what lies before it never changes during an update, so it runs once."""

from __future__ import annotations

import os
import tempfile
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from segp_cl.images import as_unit_pixels
from segp_cl.types import ImageSource


class StemInputs:
    """A stream of images behind a frozen stem, which each of them passes once.

    Activations are kept in a file without a name, never in memory: its space is freed when this object goes or its
    process dies. Without a stem (`stem` is None) batches are the pixels, and no file is made.

    Args:
        images: the stream.
        stem: pixels in [0, 1] to activations, batch by batch.
        device: where batches are wanted.
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
        self._kept = np.zeros(len(images.labels), dtype=bool)
        self._shape: tuple[int, ...] = ()
        self._file: int | None = None
        if stem is not None:
            with tempfile.TemporaryFile(dir=folder) as file:
                self._file = os.dup(file.fileno())
            weakref.finalize(self, os.close, self._file)

    @property
    def labels(self) -> Sequence[int]:
        """Position in `Task.classes` of every image."""
        return self._images.labels

    def batch(self, indices: Sequence[int]) -> Float[Tensor, "batch ..."]:
        """The inputs of the images at `indices`, in that order, on the device."""
        if self._stem is None:
            return as_unit_pixels(self._images.pixels(indices).to(self._device))
        missing = [index for index in dict.fromkeys(indices) if not self._kept[index]]
        fresh = self._pass(missing) if missing else {}
        rows = [fresh[index] if index in fresh else self._read(index) for index in indices]
        stacked = torch.stack(rows).to(self._device)
        return stacked.contiguous(memory_format=torch.channels_last) if stacked.dim() == 4 else stacked

    @torch.no_grad()
    def _pass(self, indices: Sequence[int]) -> dict[int, Tensor]:
        assert self._stem is not None
        activations = self._stem(as_unit_pixels(self._images.pixels(indices).to(self._device)))
        activations = activations.float().cpu().contiguous()
        self._shape = tuple(activations.shape[1:])
        rows = dict(zip(indices, activations, strict=True))
        for index, row in rows.items():
            self._write(index, row)
        return rows

    def _write(self, index: int, row: Tensor) -> None:
        assert self._file is not None
        length = row.numel() * row.element_size()
        try:
            # set only when the whole row is there: what a full disk cuts short is computed again
            self._kept[index] = os.pwrite(self._file, row.numpy().data, index * length) == length
        except OSError:
            self._kept[index] = False

    def _read(self, index: int) -> Tensor:
        assert self._file is not None
        length = 4 * int(np.prod(self._shape))
        stored = bytearray(os.pread(self._file, length, index * length))
        return torch.frombuffer(stored, dtype=torch.float32).view(self._shape)
