"""The record of a run: the figures, every fault with what came of it, and a page that reads both."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks.common.machine import machine
from benchmarks.common.pages import NOTHING, measured_on, number, table
from benchmarks.common.record import last_components, save_bytes, save_json
from benchmarks.faults.abuse import Abuse, as_record, of_record
from benchmarks.faults.trial import Outcome

SUMMARY, PAGE = "summary.json", "README.md"
AIMS: Final[dict[str, tuple[str, float, str]]] = {
    "faults": ("at least", 60, "faults tried, one at a time"),
    "bad_inputs": ("at least", 5000, "bad inputs sent"),
    "service_ended": ("at most", 0, "times that `keepsight up` ended by itself"),
    "requests_failed": ("at most", 0, "requests of the steady client that had to be answered and were not"),
    "jobs_lost": ("at most", 0, "accepted jobs without a final state, or failed through no fault of theirs"),
    "server_errors": ("at most", 0, "answers that no input and no fault may bring about"),
    "image_bytes_found": ("at most", 0, "files that held bytes of an image when its job had ended"),
    "longest_stall_ms": ("at most", 50, "milliseconds that an event loop stood still under bad inputs"),
    "peak_extra_mib": ("at most", 256, "MiB that a server and its children held above rest under bad inputs"),
    "p99_ratio": ("at most", 3, "99th percentile of the steady client under bad inputs, over its usual"),
}
"""Figure: how it is bound, by what, and what it is."""


def figures(outcomes: Sequence[Outcome], abused: Abuse | None) -> dict[str, float | None]:
    """The figures of `AIMS`; None is what was not measured."""
    tried = [outcome for outcome in outcomes if outcome.skipped is None]
    parts: list[Outcome | Abuse] = [*tried, *([abused] if abused else [])]
    usual, meanwhile = (abused.usual_ms, abused.abused_ms) if abused else (None, None)
    return {
        "faults": len(tried),
        "bad_inputs": sum(abused.inputs.values()) if abused else 0,
        "service_ended": sum(part.service_ended for part in parts),
        "requests_failed": sum(part.requests_failed for part in parts),
        "jobs_lost": sum(part.jobs_lost for part in parts),
        "server_errors": sum(part.server_errors for part in parts),
        "image_bytes_found": sum(part.image_bytes_found for part in parts),
        "longest_stall_ms": abused.longest_stall_ms if abused else None,
        "peak_extra_mib": abused.peak_extra_mib if abused else None,
        "p99_ratio": round(meanwhile / usual, 2) if usual and meanwhile else None,
    }


def met(name: str, value: float | None) -> bool | None:
    """Whether a figure is within its aim; None if it was not measured."""
    how, bound, _ = AIMS[name]
    if value is None:
        return None
    return value >= bound if how == "at least" else value <= bound


def record(
    outcomes: Sequence[Outcome],
    abused: Abuse | None,
    *,
    quick: bool,
    seed: int,
    model: str,
    untried: Sequence[str] = (),
) -> dict[str, Any]:
    """The whole record. `untried` are the faults that a run which was stopped had still before it."""
    return {
        **figures(outcomes, abused),
        "faults_that_did_not_hold": sum(bool(outcome.problems) for outcome in outcomes),
        "untried": list(untried),
        "machine": machine(threads=1),
        "quick": quick,
        "seed": seed,
        "model": model,
        "requests": sum(outcome.requests for outcome in outcomes) + (abused.requests if abused else 0),
        "jobs": sum(outcome.jobs for outcome in outcomes) + (abused.jobs if abused else 0),
        "by_fault": [_without_places(dataclasses.asdict(outcome)) for outcome in outcomes],
        "abuse": _without_places(as_record(abused)) if abused else None,
    }


def added_to(
    kept: Mapping[str, Any], outcomes: Sequence[Outcome], abused: Abuse | None
) -> tuple[list[Outcome], Abuse | None]:
    """What a record holds, with the faults that were tried again in the place of what came of them before."""
    again = {outcome.fault: outcome for outcome in outcomes}
    before = [Outcome(**entry) for entry in kept["by_fault"]]
    merged = [again.pop(outcome.fault, outcome) for outcome in before]
    if abused is None and kept["abuse"]:
        abused = of_record(kept["abuse"])
    return [*merged, *again.values()], abused


def _without_places(value: Any) -> Any:
    """The same without folders of the machine that it was measured on."""
    if isinstance(value, str):
        return last_components(value)
    if isinstance(value, Mapping):
        return {name: _without_places(entry) for name, entry in value.items()}
    return [_without_places(entry) for entry in value] if isinstance(value, list) else value


def save(out: Path, kept: Mapping[str, Any]) -> None:
    """Write the record and its page."""
    save_json(out / SUMMARY, kept)
    save_bytes(out / PAGE, page(kept).encode())


def page(kept: Mapping[str, Any]) -> str:
    """The record in words and tables."""
    answers = {True: "yes", False: "**no**", None: NOTHING}
    rows = [
        (f"`{name}`", what, f"{how} {bound:g}", number(kept[name]), answers[met(name, kept[name])])
        for name, (how, bound, what) in AIMS.items()
    ]
    parts = [
        "# Faults and bad inputs",
        "Faults are brought about one at a time on a running service: `keepsight up` with two servers, its own broker "
        "and a worker. A client asks for a picture's class twenty times a second all the while. Then bad inputs are "
        f"sent, {_bad_input_rate(kept)}. Written by `python -m benchmarks.faults`.",
    ]
    if kept["quick"]:
        parts.append("**A quick run**: some of the faults and of the inputs.")
    if kept["untried"]:
        parts.append(f"The run was stopped. **Not tried**: {', '.join(kept['untried'])}.")
    parts += [
        "## Figures and aims",
        table(("figure", "what", "aim", "measured", "met"), rows),
        "## Faults",
        "Of each: what the steady client asked and how much of it failed, the longest that it waited, the seconds "
        "until all parts were back, and the jobs that the fault met. Requests that were under way in a killed server "
        "may break.",
        table(
            ("fault", "requests", "failed", "slowest, s", "recovered, s", "jobs", "lost", "held"),
            [_fault_row(entry) for entry in kept["by_fault"]],
            left=1,
        ),
    ]
    broken = [entry for entry in kept["by_fault"] if entry["problems"]]
    if broken:
        parts += ["### What did not hold", "\n".join(_told(entry) for entry in broken)]
    if kept["abuse"]:
        parts += _abuse(kept["abuse"])
    parts.append(measured_on(kept["machine"], quick=kept["quick"]))
    return "\n\n".join(parts) + "\n"


def _bad_input_rate(kept: Mapping[str, Any]) -> str:
    abuse = kept["abuse"]
    return f"{sum(abuse['inputs'].values())} in {abuse['seconds']:.0f} s" if abuse else "none in this run"


def _fault_row(entry: Mapping[str, Any]) -> tuple[str, ...]:
    if entry["skipped"]:
        return (entry["fault"], *[NOTHING] * 6, f"skipped: {entry['skipped']}")
    values = (entry["requests"], entry["requests_failed"], entry["slowest_s"], entry["recovered_s"])
    jobs = (entry["jobs"], entry["jobs_lost"])
    return (entry["fault"], *map(number, values), *map(number, jobs), "**no**" if entry["problems"] else "yes")


def _told(entry: Mapping[str, Any]) -> str:
    problems = "; ".join(" ".join(problem.split())[:300] for problem in entry["problems"])
    return f"- {entry['fault']}: {problems}"


def _by_kind(kinds: Mapping[str, float | None]) -> str:
    return ", ".join(f"{kind} {number(value)}" for kind, value in kinds.items())


def _abuse(abuse: Mapping[str, Any]) -> list[str]:
    rows = [
        (kind, number(abuse["inputs"][kind]), ", ".join(f"{status}: {count}" for status, count in counts.items()))
        for kind, counts in abuse["answers"].items()
    ]
    parts = [
        "## Bad inputs",
        "How they were answered, by status. 0: the connection was closed without an answer, or the input was no whole "
        "request and the server waited for the rest.",
        table(("kind", "inputs", "answers"), rows),
        f"The steady client's 99th percentile was {number(abuse['usual_p99_ms'])} ms alone, "
        f"{number(abuse['crowded_p99_ms'])} ms beside as many honest clients as then sent bad inputs, and "
        f"{number(abuse['abused_p99_ms'])} ms beside these: {_by_kind(abuse['abused_p99_ms_by_kind'])}. Afterwards a "
        f"server held {number(abuse['kept_mib'])} MiB more than before.",
        f"An event loop stood still for {number(abuse['longest_stall_ms'])} ms at the longest. Senders, "
        "servers and the steady client share the same cores. Without the time in which the kernel had no core for the "
        f"loop's thread, the longest was {number(abuse.get('longest_hold_ms'))} ms: what the server itself did to it.",
    ]
    told = [*abuse["problems"], *abuse["harm"]]
    return (
        [*parts, "### What did harm", "\n".join(f"- {' '.join(line.split())[:300]}" for line in told)]
        if told
        else parts
    )
