"""The arithmetic between samples and figures: what is dropped, ratios, shares, straight lines, exponents."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import Final, Generic, Protocol, TypeVar

from benchmarks.common.load import FOREIGN_LIMIT_CORES
from benchmarks.cost.jobs import BASE_SIDE, StepSample

KEPT_SHARE: Final = 0.5
NOISE_RULE: Final = (
    f"A sample is dropped if other processes kept more than {FOREIGN_LIMIT_CORES} of a core busy while it was taken "
    "(/proc/stat, less the process's own time). If less than half of a series is left, its quieter half is kept and "
    "the series is marked noisy."
)


class Timed(Protocol):
    """A sample with the load under which it was taken."""

    @property
    def seconds(self) -> float: ...
    @property
    def foreign_cores(self) -> float | None: ...


T = TypeVar("T", bound=Timed)


@dataclass(frozen=True)
class Quiet(Generic[T]):
    """The samples of a series that count, in their order. `noisy`: not enough were quiet, the quietest stand in."""

    kept: tuple[T, ...]
    noisy: bool

    @property
    def seconds(self) -> float:
        """The median."""
        return median(sample.seconds for sample in self.kept)


def quiet(samples: Sequence[T], *, limit: float = FOREIGN_LIMIT_CORES, share: float = KEPT_SHARE) -> Quiet[T]:
    """`NOISE_RULE`, with at least `share` of the series kept, and at least one. Unknown load counts as none.

    Raises:
        ValueError: there are no samples.
    """
    if not samples:
        raise ValueError("a series without samples has no figure")
    loads = [sample.foreign_cores or 0.0 for sample in samples]
    kept = [i for i, load in enumerate(loads) if load <= limit]
    needed = max(1, math.ceil(share * len(samples)))
    noisy = len(kept) < needed
    if noisy:
        kept = sorted(sorted(range(len(samples)), key=loads.__getitem__)[:needed])
    return Quiet(tuple(samples[i] for i in kept), noisy)


def line_at(points: Mapping[int, float], at: int) -> float:
    """The value at `at` of the least-squares line through `points`; the value itself if it was measured.

    Raises:
        ValueError: `at` was not measured and one point makes no line.
    """
    if at in points:
        return points[at]
    slope, intercept = _line([(float(x), y) for x, y in points.items()])
    return slope * at + intercept


def exponent(points: Sequence[tuple[float, float]]) -> float:
    """The slope of log y over log x: y grows as x to this power."""
    return _line([(math.log(x), math.log(y)) for x, y in points])[0]


def _line(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    if len({x for x, _ in points}) < 2:
        raise ValueError("a line needs two points")
    mean_x, mean_y = fmean(x for x, _ in points), fmean(y for _, y in points)
    slope = sum((x - mean_x) * (y - mean_y) for x, y in points) / sum((x - mean_x) ** 2 for x, _ in points)
    return slope, mean_y - slope * mean_x


def phase_share(phases: Mapping[str, float], total_s: float, *, train_factor: float = 1.0) -> float:
    """DPGD's part of an update: the seconds of `anchors` in the total, as if training were `train_factor` as long."""
    return phases["anchors"] / (total_s + (train_factor - 1) * phases["train"])


def step_seconds(by_batch: Mapping[int, Sequence[StepSample]], side: str, *, at: int) -> float:
    """One side's time for a step at batch size `at`: medians of the quiet samples, on a line where it was too big.

    Raises:
        ValueError: the side was not measured.
    """
    return line_at({batch: quiet(_of(samples, side)).seconds for batch, samples in by_batch.items()}, at)


def step_ratio(by_batch: Mapping[int, Sequence[StepSample]], side: str, *, at: int) -> float | None:
    """A step of `side` over a step of naive LoRA at batch size `at`; None where one of the two was not measured."""
    try:
        return step_seconds(by_batch, side, at=at) / step_seconds(by_batch, BASE_SIDE, at=at)
    except ValueError:
        return None


def ratios_by_round(by_batch: Mapping[int, Sequence[StepSample]], side: str, *, at: int) -> list[float]:
    """The same ratio from each round alone: how far it scatters. Rounds that are not complete are left out."""
    rounds = sorted({sample.round for samples in by_batch.values() for sample in samples})
    found = (
        step_ratio({b: [s for s in all_ if s.round == r] for b, all_ in by_batch.items()}, side, at=at) for r in rounds
    )
    return [ratio for ratio in found if ratio is not None]


def _of(samples: Sequence[StepSample], side: str) -> list[StepSample]:
    return [sample for sample in samples if sample.side == side]
