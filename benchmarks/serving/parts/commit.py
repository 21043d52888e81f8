"""What a move of the pointer takes, without load: to a version in memory, and to one that must be loaded first."""

from __future__ import annotations

from statistics import median
from typing import Any

from benchmarks.serving.foreign import Window, load_of
from benchmarks.serving.servers import Server, running
from benchmarks.serving.versions import api_pids, move
from benchmarks.serving.workplace import Workplace


def measure(place: Workplace) -> dict[str, Any]:
    """The part's record."""
    plan = place.plan
    figures: dict[str, float | None] = {}
    models: dict[str, Any] = {}
    windows: list[Window] = []
    medians: list[float | None] = []
    for model in plan.models:
        store, ids = place.store(model, versions=plan.cold_versions, name="commit")
        launch = place.ours(model, store, api_processes=plan.api_processes)
        with running(launch, place.log(f"commit-{model}")) as server:
            api_pids(server, plan.api_processes)  # all of them are there
            cold = [
                _moved(place, server, "promote", version, f"{model}, cold, {i} of {len(ids) - 1}")
                for i, version in enumerate(ids[1:], start=1)
            ]
            warm = [
                _moved(
                    place,
                    server,
                    "rollback" if i % 2 == 0 else "promote",
                    ids[-2] if i % 2 == 0 else ids[-1],
                    f"{model}, warm, {i + 1} of {2 * plan.prepared_moves}",
                )
                for i in range(2 * plan.prepared_moves)
            ]
        windows += [*cold, *warm]
        figures |= of_model(model, cold, warm)
        medians.append(figures[f"prepared_commit_ms_{model}"])
        models[model] = {"cold": [w.as_record() for w in cold], "warm": [w.as_record() for w in warm]}
    known = [value for value in medians if value is not None]
    # the slower model's: the aim is for any version that is in memory
    figures["prepared_commit_ms"] = max(known) if known and len(known) == len(medians) else None
    missing = {} if known else {"prepared_commit_ms": "the server does not say commit_s in its answers"}
    return {
        "figures": figures,
        "missing": missing,
        "api_processes": plan.api_processes,
        "models": models,
        "load": load_of(windows),
    }


def _moved(place: Workplace, server: Server, kind: str, to: str, what: str) -> Window:
    # a move cannot be repeated alone: going there again would find the version in memory
    place.tell(what)
    read = place.gate.meter()
    values = move(server, kind, to).as_record()
    foreign = read()
    return Window(kind, 1, values, foreign, noisy=foreign > place.gate.limit_cores)


def of_model(model: str, cold: list[Window], warm: list[Window]) -> dict[str, float | None]:
    """One model's figures. Rollbacks alone count for the commit; calls whole are given beside it."""
    back = [window for window in warm if window.side == "rollback"]
    commits = [1000 * window.values["commit_s"] for window in back if window.values["commit_s"] is not None]
    return {
        f"cold_commit_s_{model}": round(median(window.values["wall_s"] for window in cold), 4),
        f"cold_commit_s_most_{model}": round(max(window.values["wall_s"] for window in cold), 4),
        f"prepared_commit_ms_{model}": round(median(commits), 2) if commits else None,
        f"prepared_commit_ms_most_{model}": round(max(commits), 2) if commits else None,
        f"prepared_call_ms_{model}": round(1000 * median(window.values["wall_s"] for window in back), 2),
    }
