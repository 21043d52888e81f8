"""The record on disk is `summary.json` alone: finished parts are read from it, new ones are added as they finish."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.common.machine import machine
from benchmarks.common.record import load_json, save_bytes
from benchmarks.serving.figures import summary
from benchmarks.serving.plan import Part, Plan

SUMMARY = "summary.json"
Parts = dict[str, dict[str, Any]]


def finished(out: Path, plan: Plan) -> Parts:
    """The parts that were finished with this very plan; others, and those that failed, are to be measured again."""
    samples: Parts = load_json(out / SUMMARY).get("samples", {})
    wanted = plan.model_dump(mode="json")
    return {name: part for name, part in samples.items() if part["plan"] == wanted and not part.get("failed")}


def keep(out: Path, part: Part, measured: Mapping[str, Any], plan: Plan, *, seconds: float) -> dict[str, Any]:
    """Put a part beside those that are recorded already, with the conditions it was measured under; the summary.

    Parts of another plan stay: each says what it was measured with.
    """
    parts: Parts = load_json(out / SUMMARY).get("samples", {})
    environment = machine(plan.threads)
    conditions = {"plan": plan.model_dump(mode="json"), "environment": environment, "seconds": round(seconds)}
    before = parts.get(str(part))
    if before is None or before.get("failed") or not measured.get("failed"):  # a failure does not erase what was found
        parts[str(part)] = {**measured, **conditions}
    found = summary(parts, environment)
    save_bytes(out / SUMMARY, as_text(found).encode())
    return found


def as_text(found: Mapping[str, Any]) -> str:
    """JSON with a line for each figure and for each part's samples: thousands of numbers are no lines of their own."""
    lines = []
    for key, value in found.items():
        if key == "samples":
            inner = ",\n".join(f"  {json.dumps(name)}: {_json(part)}" for name, part in value.items())
            lines.append(f' "samples": {{\n{inner}\n }}')
        else:
            lines.append(f" {json.dumps(key)}: {_json(value)}")
    return "{\n" + ",\n".join(lines) + "\n}\n"


def _json(value: Any) -> str:
    return json.dumps(value, allow_nan=False)
