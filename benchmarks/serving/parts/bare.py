"""The server beside the bare model: throughput at 16 clients over a loop without HTTP, p50 of one client likewise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from benchmarks.common.proc import freeze
from benchmarks.serving.bare import ENGINES
from benchmarks.serving.child import Child
from benchmarks.serving.contenders import CLASSIFY
from benchmarks.serving.figures import median_ratio, ratios_by_round
from benchmarks.serving.foreign import Window, interleaved, load_of
from benchmarks.serving.servers import Server, running
from benchmarks.serving.workplace import Workplace, measure_load

LOOPS = tuple(
    {"engine": engine, **settings}
    for engine in ENGINES
    for settings in ({"batch": 16, "decoders": 1}, {"batch": 16, "decoders": 2}, {"batch": 32, "decoders": 2})
)
"""What the bare loop is tried with; it is measured with the best of them, as is the single image."""


def measure(place: Workplace) -> dict[str, Any]:
    """The part's record."""
    folder, described = place.photos()
    figures: dict[str, float | None] = {}
    models: dict[str, Any] = {}
    windows: list[Window] = []
    for model in place.plan.models:
        store, _ = place.store(model, versions=2, name="bare")
        with (
            running(place.ours(model, store), place.log(f"bare-{model}")) as server,
            place.generator(folder) as generator,
            place.bare(model, store, folder) as bare,
        ):
            found, detail = _model(place, model, server, generator, bare)
        windows += found
        figures[f"throughput_ratio_{model}"] = median_ratio(found, "server", "loop", "per_s")
        figures[f"p50_ratio_{model}"] = median_ratio(found, "one client", "single", "p50_ms")
        models[model] = {
            **detail,
            "throughput_ratios": ratios_by_round(found, "server", "loop", "per_s"),
            "p50_ratios": ratios_by_round(found, "one client", "single", "p50_ms"),
            "windows": [window.as_record() for window in found],
        }
    return {"figures": figures, "models": models, "photos": described, "load": load_of(windows)}


def _model(
    place: Workplace, model: str, server: Server, generator: Child, bare: Child
) -> tuple[list[Window], dict[str, Any]]:
    plan = place.plan

    def under_load(clients: int, seconds: float) -> Mapping[str, Any]:
        found = measure_load(generator, server, CLASSIFY, clients=clients, warm_s=plan.warm_s, measure_s=seconds)
        return {**found, "p50_ms": median(found["latencies_ms"])} if found["latencies_ms"] else found

    def alone(**command: Any) -> Mapping[str, Any]:
        freeze(bare.pid, frozen=False)
        try:
            return bare.do(**command)
        finally:
            freeze(bare.pid, frozen=True)

    freeze(server.root, frozen=True)
    best, tried = _best_loop(place, model, alone)
    engine, singles = _best_single(place, model, alone)
    windows: list[Window] = []
    for sides in (
        {
            "server": lambda: under_load(plan.bare_clients, plan.bare_window_s),
            "loop": lambda: alone(op="loop", seconds=plan.bare_window_s, **best),
        },
        {
            "one client": lambda: under_load(1, plan.single_window_s),
            "single": lambda: alone(op="single", seconds=plan.single_window_s, engine=engine),
        },
    ):
        windows += interleaved(
            sides, rounds=plan.bare_rounds, gate=place.gate, on_window=lambda what: place.tell(f"{model}, {what}")
        )
    freeze(bare.pid, frozen=False)  # so that it can end
    return windows, {"loop": best, "loops_tried": tried, "single": engine, "singles_tried": singles}


def _best_single(place: Workplace, model: str, alone: Any) -> tuple[str, dict[str, float]]:
    """The engine with which a single image takes least, and the milliseconds of each."""
    tried: dict[str, float] = {}
    for engine in ENGINES:
        place.tell(f"{model}, single images with {engine}")
        tried[engine] = alone(op="single", seconds=place.plan.calibration_s, engine=engine)["p50_ms"]
    return min(tried, key=lambda engine: tried[engine]), tried


def _best_loop(place: Workplace, model: str, alone: Any) -> tuple[dict[str, Any], Sequence[Mapping[str, Any]]]:
    tried = []
    for settings in LOOPS:
        place.tell(f"{model}, bare loop with {settings}")
        found = alone(op="loop", seconds=place.plan.calibration_s, **settings)
        tried.append({**settings, "per_s": found["per_s"]})
    best = max(tried, key=lambda entry: entry["per_s"])
    return {name: best[name] for name in ("engine", "batch", "decoders")}, tried
