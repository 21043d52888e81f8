"""Whose answer is this? Scores are compared with those that each version gave when nothing else was going on."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, Literal

from benchmarks.serving.figures import quantile
from benchmarks.serving.generator import photos_of

TOLERANCE: Final = 1e-3
"""Of a cosine. A fused score, which is text + β visual, may be off by so much relative to its size."""
GRACE_S: Final = 0.1
"""A swap's window ends so many seconds after the answer to the call."""

Scores = Mapping[str, Mapping[str, float]]
"""By label, then by kind of score."""
Quiet = Mapping[str, Sequence[Scores]]
"""By version, then by photo."""
_KINDS: Final = ("text_score", "visual_score", "fused_score")


def scores_of(result: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """One image's scores by label, from its part of a classify answer."""
    return {p["label"]: {kind: p[kind] for kind in _KINDS} for p in result["predictions"]}


def agrees(found: Scores, recorded: Scores) -> bool:
    """Whether every score is the recorded one within `TOLERANCE`."""
    return bool(found) and all(
        label in recorded
        and abs(value - recorded[label][kind]) <= TOLERANCE * (max(1.0, abs(value)) if kind == "fused_score" else 1.0)
        for label, scores in found.items()
        for kind, value in scores.items()
    )


def least_difference(one: Sequence[Scores], other: Sequence[Scores]) -> float:
    """Over photos, the least of the largest difference of visual scores: how surely two versions are told apart."""
    return min(
        max(abs(a[label]["visual_score"] - b[label]["visual_score"]) for label in a)
        for a, b in zip(one, other, strict=True)
    )


def judged(body: str, place: int, quiet: Quiet, photos: int) -> Literal["own", "mixed"]:
    """`own` if all images of the answer have the scores of the version that it names; otherwise `mixed`."""
    answer = json.loads(body)
    recorded = quiet.get(answer["model_version"])
    expected = photos_of(place, photos)
    if recorded is None or len(answer["results"]) != len(expected):
        return "mixed"
    pairs = zip(answer["results"], expected, strict=True)
    return "own" if all(agrees(scores_of(result), recorded[photo]) for result, photo in pairs) else "mixed"


def judge(log: Iterable[Mapping[str, Any]], quiet: Quiet, photos: int) -> dict[str, Any]:
    """What became of all requests: how many failed, how many are not one version's own, how many of each version."""
    failed, mixed, total = 0, 0, 0
    first: dict[str, str] = {}
    by_version: dict[str, int] = {}
    for entry in log:
        total += 1
        if entry["status"] != 200:
            failed += 1
            first.setdefault("failed", f"{entry['status']}: {entry['body'][:300]}")
            continue
        if judged(entry["body"], entry["place"], quiet, photos) == "mixed":
            mixed += 1
            first.setdefault("mixed", entry["body"][:600])
        version = json.loads(entry["body"])["model_version"]
        by_version[version] = by_version.get(version, 0) + 1
    return {"requests": total, "failed": failed, "mixed": mixed, "by_version": by_version, "first": first}


def split_by_swaps(
    log: Iterable[Mapping[str, Any]], swaps: Sequence[tuple[float, float]]
) -> tuple[list[float], list[float]]:
    """Latencies in ms of requests that a swap's window touches, and of those that none does.

    A window lasts from the call to `GRACE_S` after its end. A request that begins before it and ends in it, or the
    other way round, counts as touched: what a swap delays must not be counted as steady.
    """
    touched: list[float] = []
    steady: list[float] = []
    for entry in log:
        inside = any(entry["begin"] < end + GRACE_S and entry["end"] > begin for begin, end in swaps)
        (touched if inside else steady).append(1000 * (entry["end"] - entry["begin"]))
    return touched, steady


def p99_ratio(touched: Sequence[float], steady: Sequence[float]) -> float | None:
    """p99 of the first over p99 of the second; None where one has no requests."""
    above, below = quantile(touched, 0.99), quantile(steady, 0.99)
    return round(above / below, 4) if above is not None and below else None
