"""The plots as PNG bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.common.plots import GREEN, GREY, ORANGE, OTHER, OURS, OURS_LIGHTER, PINK, VERMILION, png

_COLORS = {
    "keepsight classify": OURS,
    "keepsight embeddings": OURS_LIGHTER,
    "litserve": VERMILION,
    "bentoml": GREEN,
    "infinity": PINK,
}
_VERSIONS = (OURS, ORANGE, GREEN)


def plots(samples: Mapping[str, Mapping[str, Any]]) -> dict[str, bytes]:
    """Every plot that the measured parts allow, by file name."""
    drawn: dict[str, bytes] = {}
    if samples.get("peers", {}).get("table"):
        drawn["throughput.png"] = throughput_plot(samples["peers"]["table"])
    swaps = samples.get("swaps", {})
    if swaps.get("swaps"):
        drawn["latency.png"] = latency_plot(swaps["latencies_ms"])
        drawn["memory.png"] = memory_plot(swaps["swaps"], swaps.get("memory_counted_as") or "memory")
        drawn["timeline.png"] = timeline_plot(swaps["timeline"], swaps["swaps"])
    return drawn


def throughput_plot(table: Mapping[str, Mapping[str, Mapping[str, float | None]]]) -> bytes:
    """Requests per second and CPU milliseconds a request by clients, ours and the others'."""
    figure = Figure(figsize=(10, 4.4), layout="constrained")
    rate, cost = figure.subplots(1, 2)
    clients = sorted(table, key=int)
    for name in dict.fromkeys(name for row in table.values() for name in row):
        color = _COLORS.get(name, OTHER)
        for axes, value in ((rate, "per_s"), (cost, "cpu_ms")):
            points = [(int(c), table[c][name][value]) for c in clients if table[c].get(name, {}).get(value) is not None]
            style = "o-" if name.startswith("keepsight") else "s--"
            axes.plot([x for x, _ in points], [y for _, y in points], style, color=color, label=name)
    for axes, label in ((rate, "requests per second"), (cost, "CPU ms a request, whole server")):
        axes.set_xscale("log", base=2)
        axes.set_xticks([int(c) for c in clients], clients)
        axes.set_xlabel("clients")
        axes.set_ylabel(label)
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
    rate.legend(framealpha=0.9)
    figure.suptitle("ViT-B-32, one image a request")
    return png(figure)


def latency_plot(latencies: Mapping[str, Sequence[float]]) -> bytes:
    """The share of requests that took at most so long: while a swap was under way, and in between."""
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    for name, label, color in (("steady", "in between", OURS), ("swap", "during a swap", VERMILION)):
        values = sorted(latencies[name])
        if values:
            axes.step(
                values, [(i + 1) / len(values) for i in range(len(values))], where="post", color=color, label=label
            )
    axes.axhline(0.99, color=GREY, lw=0.8, ls=":")
    axes.set_xlabel("ms")
    axes.set_ylabel("share of requests")
    axes.set_xlim(left=0)
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    axes.set_title("Latency under load")
    return png(figure)


def memory_plot(swaps: Sequence[Mapping[str, Any]], counted: str) -> bytes:
    """Memory of all server processes after each swap."""
    figure = Figure(figsize=(7, 3.6), layout="constrained")
    axes = figure.subplots()
    axes.plot([swap["number"] for swap in swaps], [swap["memory_mib"] for swap in swaps], "o-", color=OURS, ms=3)
    axes.set_xlabel("swaps")
    axes.set_ylabel(f"MiB, all server processes ({counted})")
    axes.set_ylim(0, 1.25 * max(swap["memory_mib"] for swap in swaps))  # a flat line is to look flat
    axes.grid(alpha=0.3)
    axes.set_title("Memory")
    return png(figure)


def timeline_plot(timeline: Sequence[Sequence[float]], swaps: Sequence[Mapping[str, Any]]) -> bytes:
    """Every request by when it began and how long it took, in the colour of the version that answered."""
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    whole, close = figure.subplots(1, 2, width_ratios=[2, 1])
    start = min((point[0] for point in timeline), default=0.0)
    middle = swaps[len(swaps) // 2]
    for axes in (whole, close):
        _timeline(axes, timeline, swaps, start)
    close.set_xlim(middle["begin"] - start - 0.6, middle["end"] - start + 0.6)
    close.set_title("one swap")
    whole.set_title("all requests; grey: from an admin call to its end")
    whole.set_ylabel("ms")
    return png(figure)


def _timeline(
    axes: Axes, timeline: Sequence[Sequence[float]], swaps: Sequence[Mapping[str, Any]], start: float
) -> None:
    for swap in swaps:
        axes.axvspan(swap["begin"] - start, swap["end"] - start, color="#cccccc", lw=0)
    for version, color in enumerate(_VERSIONS):
        points = [point for point in timeline if point[2] == version]
        axes.plot([p[0] - start for p in points], [p[1] for p in points], ".", color=color, ms=2)
    axes.set_xlabel("s")
    axes.set_ylim(bottom=0)
