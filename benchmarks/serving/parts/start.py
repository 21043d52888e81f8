"""What a user meets first: how soon `keepsight up` answers, and what its server holds, fresh and after versions."""

from __future__ import annotations

import time
from statistics import median
from typing import Any

from benchmarks.common.proc import private_mib, resident_mib
from benchmarks.serving.foreign import Window, load_of
from benchmarks.serving.servers import Server, running
from benchmarks.serving.versions import api_pids, move
from benchmarks.serving.workplace import COMPACT, Workplace


def measure(place: Workplace) -> dict[str, Any]:
    """The part's record."""
    plan = place.plan
    store, (_, *later) = place.store(COMPACT, versions=plan.start_versions + 1, name="start")
    launch = place.ours(COMPACT, store, worker=True)
    windows: list[Window] = []
    after: dict[str, float] = {}
    for number in range(1 + plan.starts):  # the first converts the model, and reads all files from the disk
        place.tell(f"start {number} of {plan.starts}")
        read = place.gate.meter()
        begun = time.monotonic()
        with running(launch, place.log("start")) as server:
            ready_s = time.monotonic() - begun
            foreign = read()
            values = {"ready_s": ready_s, **_held(place, server)}
            if number:
                windows.append(Window(COMPACT, number, values, foreign, noisy=foreign > place.gate.limit_cores))
            if number == plan.starts:
                for version in later:
                    place.tell(f"{version} of {len(later)}")
                    move(server, "promote", version)
                after = _held(place, server)
    held = median(window.values["resident_mib"] for window in windows)
    return {
        "figures": {
            "ready_s_compact": round(median(window.values["ready_s"] for window in windows), 2),
            "ready_s_most_compact": round(max(window.values["ready_s"] for window in windows), 2),
            "rest_mib_compact": round(held, 1),
            "rest_private_mib_compact": round(median(window.values["private_mib"] for window in windows), 1),
            "rest_mib_compact_50": round(after["resident_mib"], 1),
            "rest_private_mib_compact_50": round(after["private_mib"], 1),
            "rest_ratio_compact_50": round(after["resident_mib"] / held, 4),
        },
        "versions": len(later),
        "starts": [window.as_record() for window in windows],
        "load": load_of(windows),
    }


def _held(place: Workplace, server: Server) -> dict[str, float]:
    """Memory of the server process at rest."""
    (pid,) = api_pids(server, 1)
    time.sleep(place.plan.rest_s)
    return {"resident_mib": resident_mib(pid), "private_mib": private_mib(pid)}
