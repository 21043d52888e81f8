"""The record on disk: parts are measured one by one and merged into what is there already."""

from __future__ import annotations

import json
import os
import platform
import tempfile
from collections.abc import Mapping
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

import torch

Record = dict[str, Any]

_CPUINFO: Final = Path("/proc/cpuinfo")
_MEMINFO: Final = Path("/proc/meminfo")


class Part(StrEnum):
    """One of the three questions."""

    STEPS = "steps"
    DPGD = "dpgd"
    GROWTH = "growth"


_PREFIXES: Final = {Part.STEPS: "step", Part.DPGD: "dpgd", Part.GROWTH: "growth"}


def merge_part(summary: Mapping[str, Any], part: Part, figures: Mapping[str, Any], conditions: Record) -> Record:
    """`summary` with all figures of `part` replaced; those of the other parts stay as they are.

    A part's keys begin with its own word (`step`, `dpgd`, `growth`). `conditions` (machine, sizes) go to
    `conditions[part]`, since parts may have been measured on different days.

    Raises:
        ValueError: a figure's key would belong to another part.
    """
    prefix = _PREFIXES[part]
    strange = [key for key in figures if not key.startswith(prefix)]
    if strange:
        raise ValueError(f"the key {strange[0]!r} does not begin with {prefix!r}, so it is not {part}'s")
    kept = {key: value for key, value in summary.items() if not key.startswith(prefix)}
    return {**kept, **figures, "conditions": {**summary.get("conditions", {}), str(part): conditions}}


def load_json(path: Path) -> Record:
    """The record at `path`; an empty one if there is none."""
    if not path.exists():
        return {}
    record: Record = json.loads(path.read_text(encoding="utf-8"))
    return record


def save_json(path: Path, record: Mapping[str, Any]) -> None:
    """Write `record`, whole or not at all."""
    save_bytes(path, (json.dumps(record, indent=1, allow_nan=False) + "\n").encode())


def save_bytes(path: Path, content: bytes) -> None:
    """Write `content`, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise


def machine(threads: int) -> Record:
    """What the figures were measured on; no names, no paths."""
    return {
        "processor": _field(_CPUINFO, "model name") or platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "memory_gib": round(memory_mib("MemTotal") / 1024, 1),
        "threads": threads,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "date": datetime.now(UTC).date().isoformat(),
    }


def memory_mib(field: str) -> float:
    """A field of /proc/meminfo in MiB; 0 where there is no such file."""
    value = _field(_MEMINFO, field)
    return float(value.split()[0]) / 1024 if value else 0.0


def _field(path: Path, name: str) -> str | None:
    if not path.exists():
        return None
    lines = (line.partition(":") for line in path.read_text().splitlines())
    return next((value.strip() for key, _, value in lines if key.strip() == name), None)
