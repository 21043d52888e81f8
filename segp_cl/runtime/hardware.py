"""Chooses the device that a model runs on and the arithmetic of an update."""

from __future__ import annotations

import torch

from segp_cl.errors import KeepsightError


class DeviceNotFoundError(KeepsightError):
    """PyTorch does not find the requested GPU."""


def choose_device(wanted: str) -> str:
    """Return `cpu`, `cuda` or one of several (`cuda:1`) as wanted; `auto` is `cuda` if there is a GPU, else `cpu`.

    Raises:
        DeviceNotFoundError: there is no such GPU.
    """
    if wanted == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if wanted != "cpu":
        number = int(wanted.partition(":")[2] or 0)
        found = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if number >= found:
            raise DeviceNotFoundError(
                f"the device {wanted} was requested, but PyTorch finds {found or 'no'} GPU{'s' * (found > 1)} here; "
                "use cpu or auto (KEEPSIGHT_DEVICE)"
            )
    return wanted


def choose_dtype(wanted: str, device: str) -> torch.dtype:
    """Return the arithmetic of an update; `auto` is bfloat16 on a GPU and float32 on the CPU."""
    if wanted == "auto":
        wanted = "bfloat16" if device.startswith("cuda") else "float32"
    return torch.bfloat16 if wanted == "bfloat16" else torch.float32
