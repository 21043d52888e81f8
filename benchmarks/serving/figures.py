"""The arithmetic between windows and figures: medians of ratios within rounds, quantiles, what a summary holds."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from benchmarks.serving.foreign import Window


@dataclass(frozen=True)
class Aim:
    """What a figure is held against: at most, or at least, or more than `bound`."""

    name: str
    words: str
    kind: Literal["<=", ">=", ">", "=="]
    bound: float

    def met(self, value: float | None) -> bool | None:
        """Whether it is; None where nothing was measured."""
        if value is None:
            return None
        return {
            "<=": value <= self.bound,
            ">=": value >= self.bound,
            ">": value > self.bound,
            "==": value == self.bound,
        }[self.kind]


AIMS: Final = (
    Aim("throughput_ratio_vit_b32", "throughput at 16 clients over the best bare loop's, ViT-B-32", ">=", 0.93),
    Aim("throughput_ratio_compact", "the same, `compact`", ">=", 0.70),
    Aim("p50_ratio_vit_b32", "p50 of one client over the bare model's, ViT-B-32", "<=", 1.10),
    Aim("p50_ratio_compact", "the same, `compact`", "<=", 1.5),
    Aim("best_peer_ratio_c1", "throughput over the best other server's, 1 client", ">=", 1.8),
    Aim("best_peer_ratio_c4", "the same, 4 clients", ">=", 1.8),
    Aim("best_peer_ratio_c16", "the same, 16 clients", ">=", 1.8),
    Aim("best_peer_ratio_c64", "the same, 64 clients", ">=", 1.8),
    Aim("cpu_ratio_c1", "CPU a request, the cheapest other server's over ours, 1 client", ">=", 1.8),
    Aim("cpu_ratio_c4", "the same, 4 clients", ">=", 1.8),
    Aim("cpu_ratio_c16", "the same, 16 clients", ">=", 1.8),
    Aim("cpu_ratio_c64", "the same, 64 clients", ">=", 1.8),
    Aim("compact_gain_c16", "throughput at 16 clients over that of commit 2f32a32, `compact`", ">=", 1.6),
    Aim("prepare_s_compact", "s to prepare a version, `compact`", "<=", 1.0),
    Aim("prepare_s_vit_b32", "the same, ViT-B-32", "<=", 3.0),
    Aim("ready_s_compact", "s until `keepsight up` answers, with a worker, `compact`", "<=", 5.0),
    Aim("rest_mib_compact", "MiB that its server holds at rest (0.8 GB)", "<=", 763.0),
    Aim("rest_ratio_compact_50", "the same after 50 versions over before", "<=", 1.1),
    Aim("swap_failed", "requests that failed during the swaps", "==", 0),
    Aim("swap_mixed", "answers that are not one version's own", "==", 0),
    Aim("swap_p99_ratio", "p99 while a swap is under way over p99 in between", "<=", 1.5),
    Aim(
        "memory_ratio_50_5", "memory of the server processes after the last swap over that after the fifth", "<=", 1.05
    ),
    Aim("prepared_commit_ms", "ms from the pointer's move until all serve it, in memory; slower model", "<=", 100.0),
    Aim("cold_commit_s_compact", "s of a promote that loads the version first, `compact`", "<=", 1.0),
    Aim("cold_commit_s_vit_b32", "the same, ViT-B-32", "<=", 3.0),
)
KEYS: Final = tuple(aim.name for aim in AIMS)


def quantile(values: Iterable[float], share: float) -> float | None:
    """The smallest value that at least `share` of all do not exceed; None of nothing."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else None


def least_centred_cosine(ours: NDArray[np.floating], theirs: NDArray[np.floating]) -> float:
    """Row by row the cosine of two sets of vectors, each less its own mean; the least of them."""
    a, b = ours - ours.mean(axis=0), theirs - theirs.mean(axis=0)
    cosines = (a * b).sum(axis=1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))
    return float(cosines.min())


def ratios_by_round(windows: Sequence[Window], above: str, below: str, value: str) -> list[float]:
    """In each round, one side's value over the other's. Rounds in which either has none are left out.

    A noisy window counts only where no round is without one.
    """
    pairs: list[tuple[bool, float]] = []
    for number in sorted({window.round for window in windows}):
        sides = {window.side: window for window in windows if window.round == number}
        if above in sides and below in sides:
            top, bottom = sides[above].values.get(value), sides[below].values.get(value)
            if top is not None and bottom:
                pairs.append((sides[above].noisy or sides[below].noisy, top / bottom))
    quiet = [ratio for noisy, ratio in pairs if not noisy]
    return quiet or [ratio for _, ratio in pairs]


def median_ratio(windows: Sequence[Window], above: str, below: str, value: str) -> float | None:
    """The median of `ratios_by_round`; None where there are none."""
    ratios = ratios_by_round(windows, above, below, value)
    return round(median(ratios), 4) if ratios else None


def median_value(windows: Sequence[Window], side: str, value: str) -> float | None:
    """The median of a side's value over its quiet windows, or over all where none was quiet."""
    of_side = [window for window in windows if window.side == side and window.values.get(value) is not None]
    kept = [window for window in of_side if not window.noisy] or of_side
    return median(window.values[value] for window in kept) if kept else None


def summary(parts: Mapping[str, Mapping[str, Any]], environment: Mapping[str, Any]) -> dict[str, Any]:
    """Everything measured, `KEYS` first (null where not measured), then the other figures and all samples."""
    found: dict[str, Any] = {}
    for part in parts.values():
        found |= part.get("figures", {})
    head = {key: found.get(key) for key in KEYS}
    return {
        **head,
        **{key: value for key, value in found.items() if key not in head},
        "aims": {aim.name: {"kind": aim.kind, "bound": aim.bound, "met": aim.met(head[aim.name])} for aim in AIMS},
        "environment": dict(environment),
        "load": {name: part.get("load") for name, part in parts.items()},
        "missing": {name: part["missing"] for name, part in parts.items() if part.get("missing")},
        "samples": {name: dict(part) for name, part in parts.items()},
    }
