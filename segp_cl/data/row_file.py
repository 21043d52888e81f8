"""Rows of equal shape on disk, in an unnamed file."""

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
    """Tensors of equal shape and type, by position, stored on disk and not in memory.

    The file's space is freed when this object is deleted or its process dies; no other process can open it.

    Args:
        rows: the largest number of rows.
        folder: where the file is; the system's folder for temporary files if None.
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
        """Store a row; all must have the same shape and type.

        Raises:
            OSError: the row could not be written completely (a full disk). It is not stored then.
        """
        self._like = torch.empty_like(row, device="meta")
        length = row.nbytes
        self._written[index] = False
        if os.pwrite(self._file, row.contiguous().numpy().data, index * length) != length:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._written[index] = True

    def read(self, index: int) -> Tensor:
        """Return the row last written at `index`; there must be one."""
        stored = bytearray(os.pread(self._file, self._like.nbytes, index * self._like.nbytes))
        return torch.frombuffer(stored, dtype=self._like.dtype).view(self._like.shape)
