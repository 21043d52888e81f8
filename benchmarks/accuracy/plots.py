"""The plots of a benchmark as PNG bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from benchmarks.accuracy.record import BenchmarkRecord, Drift, RowRecord
from benchmarks.accuracy.spread import RowSpread, Spread
from benchmarks.common import plots
from segp_cl.metrics import seen_accuracy

WIDTH_INCHES = 10.0
"""1100 pixels at `DPI`."""

MAIN_ROWS = ("segp", "naive", "prototypes")
"""The rows whose matrices are drawn, where the record has them."""


@dataclass(frozen=True)
class Style:
    """How a row looks in every plot."""

    color: str
    dash: str = "-"
    marker: str = "o"
    width: float = 1.5


# the shared colours and Tol's; all blues are kept for segp and its variants
_KNOWN = {
    "zero-shot": Style(plots.GREY, ":", "x"),
    "prototypes": Style(plots.GREEN, "-", "s"),
    "naive": Style(plots.VERMILION, "-", "v"),
    "naive-tuned": Style(plots.ORANGE, "-", "^"),
    "acgd": Style(plots.PINK, "-", "D"),
    "acgd+tsgr": Style("#882255", "-", "P"),
    "joint": Style(plots.BLACK, "--", "*"),
    "segp": Style(plots.OURS, "-", "o", 2.8),
    "ladder": Style("#2171B5", "--", "h"),
    "segp-paper": Style("#6BAED6", ":", "X"),
    "segp-text": Style(plots.OURS_LIGHTER, "-.", "<"),
    "segp-visual": Style(plots.SKY, "-", ">"),
    "segp-visual-stale": Style("#9ECAE1", ":", "d"),
}
_OTHERS = ("#999933", "#661100", "#B8A400", "#AA4499", "#44AA77", "#6E4B3A")
_OTHER_SEGPS = ("#3B6FB6", "#7FB2E5", "#1F4E79", "#5AA0C8")
_DASHES = ("-.", "--", ":", "-")
_MARKERS = ("p", "H", "8", "X")


def styles(rows: Sequence[str]) -> dict[str, Style]:
    """One style per row: fixed for the rows of the paper's table, by order of appearance for all others."""
    chosen: dict[str, Style] = {}
    others = [row for row in rows if row not in _KNOWN]
    for palette, family in (
        (_OTHER_SEGPS, [row for row in others if row.startswith("segp")]),
        (_OTHERS, [row for row in others if not row.startswith("segp")]),
    ):
        for index, row in enumerate(family):
            lap = index // len(palette)
            dash, marker = _DASHES[lap % len(_DASHES)], _MARKERS[(index + lap) % len(_MARKERS)]
            chosen[row] = Style(palette[index % len(palette)], dash, marker)
    return {row: _KNOWN.get(row) or chosen[row] for row in rows}


def accuracy_plot(record: BenchmarkRecord) -> bytes:
    """Accuracy over all classes seen so far after each task: a line per row, a band of one std over seeds."""
    figure = Figure(figsize=(WIDTH_INCHES, 5.6), layout="constrained")
    axes = figure.add_subplot()
    look = styles(record.row_names())
    finals: dict[str, float] = {}
    for row in record.row_names():
        spreads = _seen(record.of(row))
        mean = 100 * np.array([spread.mean for spread in spreads])
        std = 100 * np.array([spread.std for spread in spreads])
        tasks, style, above = np.arange(1, len(mean) + 1), look[row], 2.0 if row.startswith("segp") else 1.0
        axes.fill_between(tasks, mean - std, mean + std, color=style.color, alpha=0.10, linewidth=0, zorder=above)
        axes.plot(
            tasks,
            mean,
            style.dash,
            color=style.color,
            marker=style.marker,
            markersize=5,
            linewidth=style.width,
            label=row,
            zorder=above + 2,
        )
        finals[row] = float(mean[-1])
    axes.set_xticks(_task_ticks(record.protocol.tasks))
    axes.set_xlabel("tasks learned")
    axes.set_ylabel("accuracy over all seen classes (%)")
    axes.grid(color="#dddddd", linewidth=0.6)
    _plain(axes)
    # in the order in which the lines end, so that the eye can go straight across
    best_first = sorted(finals, key=lambda row: -finals[row])
    lines = {str(line.get_label()): line for line in axes.get_lines()}
    figure.legend(
        [lines[row] for row in best_first],
        [f"{row}  {finals[row]:.1f}" for row in best_first],
        loc="outside right upper",
        title="after the last task (%)",
        frameon=False,
        handlelength=3.2,
        fontsize=9,
    )
    return plots.png(figure)


def matrix_plot(record: BenchmarkRecord) -> bytes:
    """R as a heat map for the main rows, mean over seeds; entries above the diagonal are pale and hatched."""
    names = record.row_names()
    rows = [row for row in MAIN_ROWS if row in names] or list(names[:3])
    means = {row: 100 * np.mean([r.accuracies for r in record.of(row)], axis=0) for row in rows}
    lowest = min(float(mean.min()) for mean in means.values())
    scale = Normalize(vmin=max(0.0, 10 * np.floor(min(lowest, 90.0) / 10)), vmax=100.0)
    width = min(WIDTH_INCHES, 3.1 * len(rows) + 0.9)
    figure = Figure(figsize=(width, 3.9 if len(rows) > 1 else 4.2), layout="constrained")
    panels = figure.subplots(1, len(rows), squeeze=False)[0]
    for axes, (row, mean) in zip(panels, means.items(), strict=True):
        image = axes.imshow(mean, cmap="viridis", norm=scale)
        _mark_matrix(axes, mean, scale)
        axes.set_title(row, fontsize=11)
        axes.set_xlabel("tested on task")
    panels[0].set_ylabel("after learning task")
    figure.colorbar(image, ax=list(panels), label="accuracy (%)", shrink=0.8, pad=0.015)
    figure.supxlabel("hatched: task not yet taught, its labels asked for by their text", fontsize=9, color="#555555")
    return plots.png(figure)


def ladder_plot(record: BenchmarkRecord) -> bytes:
    """Last and Forgetting as bars, a line per row in the order of the table, with error bars of one std."""
    rows = record.row_names()
    look = styles(rows)
    spreads = [RowSpread.of(record.of(row)) for row in rows]
    figure = Figure(figsize=(WIDTH_INCHES, 1.2 + 0.3 * len(rows)), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    colors = [look[row].color for row in rows]
    _bars(left, [spread.last_accuracy for spread in spreads], colors)
    _bars(right, [spread.forgetting for spread in spreads], colors)
    left.set_title("Last (%): higher is better", fontsize=10)
    right.set_title("Forgetting (points): lower is better", fontsize=10)
    left.set_yticks(range(len(rows)), list(rows))
    left.set_ylim(len(rows) - 0.4, -0.6)
    return plots.png(figure)


def drift_plot(record: BenchmarkRecord) -> bytes | None:
    """Densities of the divergence near to and far from the boundary, a panel per row; None where no row has drift."""
    drifts = {row: [r.drift for r in record.of(row) if r.drift is not None] for row in record.row_names()}
    drifts = {row: found for row, found in drifts.items() if found}
    if not drifts:
        return None
    columns = min(4, len(drifts))
    lines = -(-len(drifts) // columns)
    size = (min(WIDTH_INCHES, 1.2 + 3.2 * columns), 0.9 + 2.1 * lines)
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False).flat
    for axes, (row, found) in zip(panels, drifts.items(), strict=False):
        _drift_panel(axes, found)
        axes.set_title(row, fontsize=10)
    # sharex: to the highest bin that any row has an image in
    figure.axes[0].set_xlim(0, 1.04 * max(_highest(drift) for found in drifts.values() for drift in found))
    for index, axes in enumerate(figure.axes):
        axes.set_visible(index < len(drifts))
        if index + columns >= len(drifts):  # the lowest panel of its column
            axes.tick_params(labelbottom=True)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=4, frameon=False, fontsize=9)
    figure.supxlabel("Jensen-Shannon divergence before / after an update (nats)", fontsize=10)
    figure.supylabel("density (log scale)", fontsize=10)
    return plots.png(figure)


def _seen(records: Sequence[RowRecord]) -> list[Spread]:
    matrices = [record.matrix for record in records]
    return [Spread.of([seen_accuracy(m, after=task) for m in matrices]) for task in range(matrices[0].tasks)]


def _mark_matrix(axes: Axes, mean: NDArray[np.float64], scale: Normalize) -> None:
    tasks = len(mean)
    for after, tested in np.ndindex(tasks, tasks):
        untaught = tested > after
        if untaught:
            corner = (tested - 0.5, after - 0.5)
            axes.add_patch(Rectangle(corner, 1, 1, facecolor="white", alpha=0.68, linewidth=0))
            axes.add_patch(
                Rectangle(corner, 1, 1, fill=False, hatch="////", hatch_linewidth=0.6, edgecolor="#a0a0a0", linewidth=0)
            )
        if tasks <= 10:
            value = mean[after, tested]
            color = "#444444" if untaught else ("white" if scale(value) < 0.55 else "black")
            axes.text(tested, after, f"{value:.0f}", ha="center", va="center", fontsize=7, color=color)
    ticks = [tick - 1 for tick in _task_ticks(tasks)]
    axes.set_xticks(ticks, [str(tick + 1) for tick in ticks], fontsize=8)
    axes.set_yticks(ticks, [str(tick + 1) for tick in ticks], fontsize=8)


def _bars(axes: Axes, spreads: Sequence[Spread | None], colors: Sequence[str]) -> None:
    widest = max((100 * (s.mean + s.std) for s in spreads if s is not None), default=1.0) or 1.0
    for place, (spread, color) in enumerate(zip(spreads, colors, strict=True)):
        if spread is None:
            axes.text(0, place, " not defined", va="center", fontsize=8, color="#777777")
            continue
        mean, std = 100 * spread.mean, 100 * spread.std
        axes.barh(place, mean, height=0.7, color=color)
        if std > 0:
            axes.errorbar(mean, place, xerr=std, color="#d0d0d0", linewidth=3.0, capsize=0)
            axes.errorbar(mean, place, xerr=std, color="#222222", linewidth=1.0, capsize=3)
        axes.text(mean + std + 0.015 * widest, place, f"{mean:.1f}", va="center", fontsize=8)
    axes.set_xlim(0, 1.12 * widest)
    axes.grid(axis="x", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    _plain(axes)


def _drift_panel(axes: Axes, drifts: Sequence[Drift]) -> None:
    edges = np.unique(np.concatenate([drift.edges for drift in drifts]))
    sides: Mapping[str, tuple[str, str, list[tuple[int, ...]], float]] = {
        "near": (plots.VERMILION, "-", [d.near for d in drifts], float(np.mean([d.near_mean for d in drifts]))),
        "far": (plots.BLUE, "--", [d.far for d in drifts], float(np.mean([d.far_mean for d in drifts]))),
    }
    for height, (side, (color, dash, counts, mean)) in enumerate(sides.items()):
        pooled = sum(_rebinned(d.edges, c, edges) for d, c in zip(drifts, counts, strict=True))
        total = float(np.sum(pooled))
        if total > 0:
            density = pooled / (total * np.diff(edges))
            axes.stairs(
                np.where(density > 0, density, np.nan), edges, color=color, linestyle=dash, linewidth=1.6, label=side
            )
        axes.axvline(mean, color=color, linestyle=":", linewidth=1.0, label=f"mean of {side}")
        spot = (0.97, 0.9 - 0.12 * height)
        axes.text(*spot, f"{side} {mean:.4f}", color=color, fontsize=8, ha="right", transform=axes.transAxes)
    axes.set_yscale("log")
    axes.grid(color="#eeeeee", linewidth=0.6)
    _plain(axes)


def _highest(drift: Drift) -> float:
    filled = [end for end, *counts in zip(drift.edges[1:], drift.near, drift.far, strict=True) if any(counts)]
    return max(filled, default=drift.edges[-1])


def _rebinned(edges: Sequence[float], counts: Sequence[int], onto: NDArray[np.float64]) -> NDArray[np.float64]:
    """Counts over finer edges, taken as uniform within a bin, so that seeds with different edges can be pooled."""
    return np.diff(np.interp(onto, edges, np.concatenate([[0], np.cumsum(counts)])))


def _task_ticks(tasks: int) -> list[int]:
    return list(range(1, tasks + 1, 1 if tasks <= 20 else tasks // 10))


def _plain(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
