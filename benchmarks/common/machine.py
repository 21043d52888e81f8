"""What a measurement was made on: processor, memory, threads and libraries; no names, no paths."""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Final

import torch

from benchmarks.common.record import Record

LIBRARIES: Final = ("torch", "torchvision", "open_clip_torch", "timm", "transformers", "numpy", "keepsight")
"""Those that decide results."""


def machine(threads: int) -> Record:
    """The machine as a record of cost or speed holds it."""
    return {
        "processor": proc_field(Path("/proc/cpuinfo"), "model name") or platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "memory_gib": round(memory_mib("MemTotal") / 1024, 1),
        "threads": threads,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "date": datetime.now(UTC).date().isoformat(),
    }


def library_versions(device: torch.device) -> dict[str, str]:
    """Of Python, `LIBRARIES`, and the processor that `device` is."""
    return {
        "python": platform.python_version(),
        **{name: version(name) for name in LIBRARIES},
        "device": device_name(device),
    }


def device_name(device: torch.device) -> str:
    """The GPU's name, or the kind of CPU."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu, {platform.machine()}"


def memory_mib(field: str) -> float:
    """A field of /proc/meminfo in MiB; 0 where there is no such file."""
    value = proc_field(Path("/proc/meminfo"), field)
    return float(value.split()[0]) / 1024 if value else 0.0


def proc_field(path: Path, name: str) -> str | None:
    """The first value called `name` in a file of lines `name: value`; None if there is none, or no such file."""
    if not path.exists():
        return None
    lines = (line.partition(":") for line in path.read_text().splitlines())
    return next((value.strip() for key, _, value in lines if key.strip() == name), None)
