"""Fifty swaps under load: nothing may fail, no answer may mix versions, and neither latency nor memory may grow."""

from __future__ import annotations

import json
import time
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.common.proc import memory_mib
from benchmarks.serving.answers import judge, least_difference, p99_ratio, scores_of, split_by_swaps
from benchmarks.serving.child import Child
from benchmarks.serving.figures import quantile
from benchmarks.serving.foreign import foreign_meter, load_summary
from benchmarks.serving.plan import CLASSES
from benchmarks.serving.servers import Server, ServerError, running
from benchmarks.serving.versions import Move, api_pids, move
from benchmarks.serving.wire import Shape
from benchmarks.serving.workplace import COMPACT, Workplace

_SURELY_DIFFERENT = 0.01
_MEMORY_LOOKS = 3


def measure(place: Workplace) -> dict[str, Any]:
    """The part's record; memory is taken in the same run."""
    plan = place.plan
    folder, described = place.photos()
    store, (first, second) = place.store(COMPACT, versions=2, name="swaps")
    launch = place.ours(COMPACT, store, api_processes=plan.api_processes)
    with running(launch, place.log("swaps")) as server, place.generator(folder) as generator:
        pids = api_pids(server, plan.api_processes)
        quiet = {}
        for version in (second, first):
            place.tell(f"what {version} answers when nothing else is going on")
            move(server, "promote", version)
            quiet[version] = _quiet_scores(generator, server, version, plan.swap_photos)
        difference = least_difference(quiet[first], quiet[second])
        if difference < _SURELY_DIFFERENT:
            raise ServerError(f"the two versions' scores differ by {difference} only, so they cannot be told apart")
        out = place.work / "swaps.jsonl"
        steps, failures = _swapped(place, server, generator, pids, (first, second), out)
    log = [json.loads(line) for line in out.read_text().splitlines()]
    verdict = judge(log, quiet, plan.swap_photos)
    windows = [(step["begin"], step["end"]) for step in steps]
    touched, steady = split_by_swaps(log, windows)
    loads = [step["foreign"] for step in steps]
    early = next((s["memory_mib"] for s in steps if s["number"] == plan.early_swaps), None)
    last = steps[-1]["memory_mib"] if steps else None
    commits = [1000 * step["commit_s"] for step in steps if step.get("commit_s") is not None]
    return {
        "figures": {
            "swap_failed": verdict["failed"] + len(failures),
            "swap_mixed": verdict["mixed"],
            "swap_p99_ratio": p99_ratio(touched, steady),
            "swap_p99_ms": quantile(touched, 0.99),
            "steady_p99_ms": quantile(steady, 0.99),
            "swap_p50_ms": quantile(touched, 0.5),
            "steady_p50_ms": quantile(steady, 0.5),
            "swap_call_s": median(s["end"] - s["begin"] for s in steps) if steps else None,
            "commit_ms_under_load": median(commits) if commits else None,
            "memory_ratio_50_5": round(last / early, 4) if last and early else None,
        },
        "api_processes": plan.api_processes,
        "verdict": verdict,
        "admin_failures": failures,
        "versions_differ_by": difference,
        "swaps": steps,
        "memory_counted_as": memory_counted(steps),
        "latencies_ms": {"swap": [round(x, 1) for x in touched], "steady": [round(x, 1) for x in steady]},
        "timeline": _timeline(log),
        "photos": described,
        "load": load_summary(loads),  # one run, of which no piece can be repeated alone
    }


def memory_counted(steps: list[dict[str, Any]]) -> str | None:
    """PSS or RSS."""
    return steps[0]["memory_kind"] if steps else None


def _quiet_scores(generator: Child, server: Server, version: str, photos: int) -> list[dict[str, dict[str, float]]]:
    shape = Shape(path=f"/v1/classify?top_k={CLASSES}", style="multipart")
    found = []
    for answer in generator.do(op="ask", port=server.port, shape=shape.model_dump(), photos=photos)["answers"]:
        parsed = json.loads(answer["body"])
        if answer["status"] != 200 or parsed["model_version"] != version:
            raise ServerError(f"expected an answer of {version}, got {answer['status']}: {answer['body'][:300]}")
        found.append(scores_of(parsed["results"][0]))
    return found


def _swapped(
    place: Workplace, server: Server, generator: Child, pids: list[int], versions: tuple[str, str], out: Path
) -> tuple[list[dict[str, Any]], list[str]]:
    """Every swap with its times, load and memory afterwards; and what went wrong with calls."""
    plan = place.plan
    shape = Shape(path="/v1/classify", style="multipart")
    generator.do(
        op="soak",
        port=server.port,
        shape=shape.model_dump(),
        photos=plan.swap_photos,
        clients=plan.swap_clients,
        out=str(out),
    )
    steps: list[dict[str, Any]] = []
    failures: list[str] = []
    time.sleep(plan.warm_s + plan.steady_s)
    for number in range(1, plan.swaps + 1):
        place.tell(f"swap {number} of {plan.swaps}")
        foreign = foreign_meter()
        begin = time.monotonic()
        kind, to = ("promote", versions[1]) if number % 2 else ("rollback", versions[0])
        done: Move | None = None
        try:
            done = move(server, kind, to)
        except ServerError as error:
            failures.append(str(error))
        looks = []
        for _ in range(_MEMORY_LOOKS):
            time.sleep(plan.steady_s / _MEMORY_LOOKS)
            looks.append(memory_mib(pids))
        steps.append(
            {
                "number": number,
                "kind": kind,
                "begin": begin,
                "end": done.all_serving if done else time.monotonic(),
                "answered": done.answered if done else None,
                "prepare_s": done.prepare_s if done else None,
                "commit_s": done.commit_s if done else None,
                "memory_mib": median(mib for mib, _ in looks),
                "memory_kind": looks[0][1],
                "foreign": foreign(),
            }
        )
    generator.do(op="stop")
    return steps, failures


def _timeline(log: list[dict[str, Any]]) -> list[list[float]]:
    """[begin, ms, place of the version among those seen] of every answered request, for the plot."""
    order: dict[str, int] = {}
    found = []
    for entry in log:
        if entry["status"] == 200:
            version = json.loads(entry["body"])["model_version"]
            ms = 1000 * (entry["end"] - entry["begin"])
            found.append([round(entry["begin"], 3), round(ms, 1), order.setdefault(version, len(order))])
    return found
