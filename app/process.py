"""What a serving process asks of the C library and of PyTorch's threads. To be called before PyTorch is loaded."""

from __future__ import annotations

import contextlib
import ctypes
import os
from typing import Final

# names in malloc.h
_TRIM_THRESHOLD: Final = -1
_MMAP_THRESHOLD: Final = -3
_KEPT_BYTES: Final = 1 << 30


def prepare_process() -> None:
    """Let threads that wait for each other sleep, and keep freed memory for the next pass.

    Waiting: the worker may need the same cores. Memory: glibc would give a pass's activations back to the kernel when
    they are freed, and the next pass would have them zeroed and mapped again, page by page. Where the C library is
    another one, or an operator has set GLIBC_TUNABLES, memory is left as it is.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if "glibc.malloc." in os.environ.get("GLIBC_TUNABLES", ""):
        return
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        for threshold in (_TRIM_THRESHOLD, _MMAP_THRESHOLD):
            mallopt(threshold, _KEPT_BYTES)
