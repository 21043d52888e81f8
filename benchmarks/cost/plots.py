"""The plots as PNG bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.common import plots
from benchmarks.common.load import FOREIGN_LIMIT_CORES
from benchmarks.cost.figures import quiet
from benchmarks.cost.jobs import BASE_SIDE, StepSample

SIDE_NAMES = {BASE_SIDE: "naive LoRA", "segp": "SeGP-CL", "segp_full_cost": "SeGP-CL,\nfull cost"}
_SIDE_COLORS = {BASE_SIDE: plots.VERMILION, "segp": plots.OURS, "segp_full_cost": plots.SKY}
_PHASE_STYLES = {
    "stem": ("#999999", (0, (1, 1))),
    "anchors": (plots.PINK, "--"),
    "teacher": ("#8C6BB1", (0, (3, 1, 1, 1))),
    "train": (plots.GREEN, "-."),
    "prototypes": (plots.ORANGE, ":"),
    "align": (plots.SKY, (0, (5, 1))),
}
PHASES = tuple(_PHASE_STYLES)


def steps_plot(samples: Mapping[str, Mapping[str, Sequence[Mapping[str, Any]]]], titles: Mapping[str, str]) -> bytes:
    """Every step that was timed, over naive LoRA's median, at the largest batch; hollow: taken under load."""
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    panels = figure.subplots(1, len(samples), squeeze=False)[0]
    for axes, (label, by_batch) in zip(panels, samples.items(), strict=True):
        batch = max(by_batch, key=int)
        _scatter(axes, [StepSample.model_validate(sample) for sample in by_batch[batch]])
        axes.set_title(f"{titles.get(label, label)}, batch {batch}")
        axes.set_ylim(bottom=0)
        axes.grid(axis="y", alpha=0.3)
    panels[0].set_ylabel("step time / naive LoRA's median")
    return plots.png(figure)


def _scatter(axes: Axes, samples: Sequence[StepSample]) -> None:
    series = {side: [s for s in samples if s.side == side] for side in dict.fromkeys(s.side for s in samples)}
    unit = quiet(series[BASE_SIDE]).seconds if BASE_SIDE in series else 1.0
    for place, (side, taken) in enumerate(series.items()):
        color = _SIDE_COLORS.get(side, plots.OTHER)
        for number, sample in enumerate(taken):
            shift = 0.5 * (number / max(1, len(taken) - 1) - 0.5)
            calm = (sample.foreign_cores or 0.0) <= FOREIGN_LIMIT_CORES
            axes.plot(place + shift, sample.seconds / unit, "o", mfc=color if calm else "none", mec=color, ms=5)
        axes.hlines(quiet(taken).seconds / unit, place - 0.35, place + 0.35, color=color)
    axes.set_xticks(range(len(series)), [SIDE_NAMES.get(side, side) for side in series])
    axes.set_xlim(-0.6, len(series) - 0.4)


def growth_plot(points: Sequence[Mapping[str, Any]], axis: str, title: str, x_label: str) -> bytes:
    """Time with its phases, and peak memory, of an update against `axis`; both on logarithmic axes."""
    found = [point for point in points if "seconds" in point]
    x = [point[axis] for point in found]
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    figure.suptitle(title)
    time_axes, memory_axes = figure.subplots(1, 2)
    time_axes.plot(x, [point["seconds"] for point in found], "o-", color=plots.OURS, lw=2.4, label="whole update")
    for phase, (color, dash) in _PHASE_STYLES.items():
        seconds = [point["phases"].get(phase, 0.0) for point in found]
        if any(seconds):
            time_axes.plot(x, seconds, linestyle=dash, color=color, marker=".", label=phase)
    time_axes.set_ylabel("wall seconds")
    time_axes.legend(framealpha=0.9)
    memory_axes.plot(x, [point["peak_mib"] for point in found], "o-", color=plots.OURS, lw=2.4, label="peak")
    memory_axes.plot(x, [point["before_mib"] for point in found], ":", color=plots.GREY, marker=".", label="before it")
    memory_axes.set_ylabel("peak memory of the process, MiB")
    memory_axes.legend(framealpha=0.9)
    for axes in (time_axes, memory_axes):
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlabel(x_label)
        axes.grid(which="both", alpha=0.2)
    low, high = memory_axes.get_ylim()
    memory_axes.set_ylim(low / 2, high * 2)  # a flat line is to look flat
    return plots.png(figure)
