"""How much was answered in a window, where answers come in bursts."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import Final

_BURST: Final = 0.75
"""Answers closer together than this share of the mean distance are one burst."""


def evenly(times: Sequence[float], begin: float, end: float) -> float:
    """Answers between `begin` and `end`, each burst spread evenly over the time since the burst before it.

    A server that answers sixteen requests at once every second has worked on them all that second. Counting arrivals
    alone would give a window of six seconds sixteen answers more or fewer, as it happens to begin. `times` must reach
    beyond `end`; what lies before the first burst and behind the last counts as nothing.
    """
    ordered = sorted(times)
    if len(ordered) < 2:
        return float(sum(begin < time <= end for time in ordered))
    near = _BURST * (ordered[-1] - ordered[0]) / (len(ordered) - 1)
    ends: list[float] = []
    counts: list[int] = []
    for number, time in enumerate(ordered, start=1):
        if ends and time - ordered[number - 2] <= near:
            ends[-1], counts[-1] = time, number
        else:
            ends.append(time)
            counts.append(number)
    return _at(ends, counts, end) - _at(ends, counts, begin)


def _at(ends: Sequence[float], counts: Sequence[int], time: float) -> float:
    """How many were answered until `time`, on straight lines between the bursts' ends."""
    after = bisect_right(ends, time)
    if after == 0:
        return 0.0
    if after == len(ends):
        return float(counts[-1])
    share = (time - ends[after - 1]) / (ends[after] - ends[after - 1])
    return counts[after - 1] + share * (counts[after] - counts[after - 1])
