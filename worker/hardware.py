"""Where an update runs, in which arithmetic, and what memory it took."""

from __future__ import annotations

import resource
import sys

import torch

from segp_cl.errors import ModelLoadError


def choose_device(wanted: str) -> str:
    """`cpu`, `cuda` or one of several (`cuda:1`); `auto` is cuda where there is one.

    Raises:
        ModelLoadError: cuda is wanted and not there.
    """
    if wanted == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if wanted.startswith("cuda") and not torch.cuda.is_available():
        raise ModelLoadError(f"KEEPSIGHT_DEVICE is {wanted}, but torch sees no CUDA device; set it to cpu or auto")
    return wanted


def choose_dtype(wanted: str, device: str) -> torch.dtype:
    """The arithmetic of an update; `auto` is bfloat16 on cuda and float32 on the CPU."""
    if wanted == "auto":
        wanted = "bfloat16" if device.startswith("cuda") else "float32"
    return torch.bfloat16 if wanted == "bfloat16" else torch.float32


def peak_rss_bytes() -> int:
    """The most memory that this process has held so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
