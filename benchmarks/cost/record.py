"""The record on disk: parts are measured one by one and merged into what is there already."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Final

from benchmarks.common.record import Record


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
