"""What it takes to prepare a version: read, compiled with its weights, compared, warmed; in time and in memory."""

from __future__ import annotations

import json
from statistics import median
from typing import Any

from benchmarks.common.process import answer_of
from benchmarks.serving.foreign import Window, load_of
from benchmarks.serving.workplace import OFFLINE, Workplace


def measure(place: Workplace) -> dict[str, Any]:
    """The part's record."""
    figures: dict[str, float | None] = {}
    models: dict[str, Any] = {}
    windows: list[Window] = []
    for model in place.plan.models:
        store, _ = place.store(model, versions=place.plan.prepared_versions, name="prepare")
        known, pretrained = place.spec(model)
        order = {
            "model": known,
            "pretrained": pretrained,
            "store": str(store),
            "threads": place.plan.threads,
            "cache": str(place.cache),
        }
        place.tell(f"{model}, {place.plan.prepared_versions} versions")
        read = place.gate.meter()
        found = answer_of("benchmarks.serving.prepare", json.dumps(order), environment=OFFLINE)
        foreign = read()
        windows.append(Window(model, 1, found, foreign, noisy=foreign > place.gate.limit_cores))
        later = found["versions"][1:]  # the first also compiles the base model's tower where versions share it
        figures[f"prepare_s_{model}"] = round(median(each["seconds"] for each in later), 4)
        figures[f"prepare_s_most_{model}"] = round(max(each["seconds"] for each in found["versions"]), 4)
        figures[f"prepare_mib_{model}"] = round(median(each["mib"] for each in later), 1)
        figures[f"open_engine_s_{model}"] = round(found["open_engine_s"], 4)
        figures[f"convert_s_{model}"] = round(found["convert_s"], 4)
        models[model] = found
    return {"figures": figures, "models": models, "load": load_of(windows)}
