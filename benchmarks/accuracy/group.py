"""Running a benchmark in several processes, as torchrun starts them: joining their group, and leaving it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import timedelta

import torch
import torch.distributed as dist

PATIENCE = timedelta(hours=4)  # the others wait while the first process measures


def join(device: str, environment: Mapping[str, str] = os.environ) -> str:
    """Join the group that torchrun describes in `environment`, if it does, and return this process's own device.

    Of several GPUs a process takes the one of its local rank; on the CPU all share the machine.
    """
    if int(environment.get("WORLD_SIZE", "1")) < 2:
        return device
    if device != "cuda":
        dist.init_process_group("gloo", timeout=PATIENCE)
        return device
    own = torch.device("cuda", int(environment["LOCAL_RANK"]))
    torch.cuda.set_device(own)
    dist.init_process_group("nccl", timeout=PATIENCE, device_id=own)
    return str(own)


def leave() -> None:
    """Leave the group, if there is one. Not after an error: the others are still in it, and torchrun ends them."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()
