"""Mean and spread over seeds of what a row of a benchmark achieved."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.accuracy.record import RowRecord
from benchmarks.common.pages import NOTHING
from segp_cl.metrics import Summary


@dataclass(frozen=True)
class Spread:
    """Mean over seeds and sample standard deviation (ddof = 1), which is 0 for one seed."""

    mean: float
    std: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Of at least one value."""
        return cls(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0)


@dataclass(frozen=True)
class RowSpread:
    """One row over its seeds. Accuracies are fractions; None stands for what is not defined or was not measured."""

    seeds: int
    last_accuracy: Spread
    average_accuracy: Spread
    forgetting: Spread | None
    backward_transfer: Spread | None
    forward_transfer: Spread | None
    global_accuracy: Spread | None
    """After the last task."""
    seconds_per_task: Spread | None

    @classmethod
    def of(cls, records: Sequence[RowRecord]) -> RowSpread:
        """From the records of one row, one per seed, at least one."""
        summaries: list[Summary] = [record.summary for record in records]
        return cls(
            seeds=len(records),
            last_accuracy=Spread.of([summary.last for summary in summaries]),
            average_accuracy=Spread.of([summary.average for summary in summaries]),
            forgetting=_of_known([summary.forgetting for summary in summaries]),
            backward_transfer=_of_known([summary.backward_transfer for summary in summaries]),
            forward_transfer=_of_known([summary.forward_transfer for summary in summaries]),
            global_accuracy=_of_known([(record.global_accuracies or (None,))[-1] for record in records]),
            seconds_per_task=_of_known([statistics.fmean(r.seconds) if r.seconds else None for r in records]),
        )


def _of_known(values: Sequence[float | None]) -> Spread | None:
    known = [value for value in values if value is not None]
    return Spread.of(known) if known else None


def percent(spread: Spread | None, seeds: int) -> str:
    """Mean ± deviation of a fraction in percent, the deviation only where there are several seeds."""
    return with_std(spread and Spread(100 * spread.mean, 100 * spread.std), seeds)


def with_std(spread: Spread | None, seeds: int, *, digits: int = 1) -> str:
    """Mean ± deviation as it is, the deviation only where there are several seeds."""
    if spread is None:
        return NOTHING
    mean = f"{spread.mean:.{digits}f}"
    mean = mean.removeprefix("-") if float(mean) == 0 else mean
    return mean if seeds == 1 else f"{mean} ± {spread.std:.{digits}f}"
