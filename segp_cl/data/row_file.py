"""Rows of equal shape on disk, in a file without a name."""

from __future__ import annotations

import errno
import os
import tempfile
import weakref
from pathlib import Path

import numpy as np
import torch
from torch import Tensor


class RowFile:
    """Tensors of equal shape and type, by position. Nothing of them is held in memory.

    The file's space is freed when this object goes or its process dies; no other process can open it.

    Args:
        rows: how many there may be.
        folder: where the file lies; the system's folder for temporary files if None.
    """

    def __init__(self, rows: int, *, folder: Path | None = None) -> None:
        with tempfile.TemporaryFile(dir=folder) as file:
            self._file = os.dup(file.fileno())
        weakref.finalize(self, os.close, self._file)
        self._written = np.zeros(rows, dtype=bool)
        self._like = torch.empty(0)

    def __contains__(self, index: int) -> bool:
        return bool(self._written[index])

    def write(self, index: int, row: Tensor) -> None:
        """Keep a row; all must be alike.

        Raises:
            OSError: it could not be written whole (a full disk). It is not kept then.
        """
        self._like = torch.empty_like(row, device="meta")
        length = row.nbytes
        self._written[index] = False
        if os.pwrite(self._file, row.contiguous().numpy().data, index * length) != length:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._written[index] = True

    def read(self, index: int) -> Tensor:
        """The row that was written last at `index`; it must be in there."""
        stored = bytearray(os.pread(self._file, self._like.nbytes, index * self._like.nbytes))
        return torch.frombuffer(stored, dtype=self._like.dtype).view(self._like.shape)
