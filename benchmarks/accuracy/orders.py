"""Several orders of the same classes: what each row achieves whatever is taught first, and what many tasks cost."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from pydantic import BaseModel, ConfigDict

from benchmarks.accuracy.benchmark import Listener, Options, run_benchmark
from benchmarks.accuracy.datasets import Dataset
from benchmarks.accuracy.length import Length
from benchmarks.accuracy.plots import WIDTH_INCHES, styles
from benchmarks.accuracy.record import BenchmarkRecord, RowRecord
from benchmarks.accuracy.rows import Row
from benchmarks.accuracy.spread import Spread, percent, with_std
from benchmarks.common.pages import number, table, with_section
from benchmarks.common.plots import png
from benchmarks.common.process import answer_of
from benchmarks.common.record import last_components, save_files
from segp_cl.metrics import Summary
from segp_cl.models.backbone import Backbone

ROWS = (
    "naive", "merge-unaligned", "merge", "segp-text", "segp+merge-text",
    "branches-text", "naive-fused", "merge-fused", "segp", "segp+merge", "branches",
)  # fmt: skip
"""Rows that train, unless others are asked for: by the text path, then by both."""

LENGTH_ROWS = ("naive", "merge-unaligned", "merge", "segp", "segp+merge")
METRICS: Mapping[str, Callable[[Summary], float | None]] = {
    "last_accuracy": lambda summary: summary.last,
    "average_accuracy": lambda summary: summary.average,
    "backward_transfer": lambda summary: summary.backward_transfer,
}
TITLE = "Task orders"


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class OrderRun(_Frozen):
    """One row in one order with one seed. Accuracies are fractions."""

    row: str
    order: int
    seed: int
    last_accuracy: float
    average_accuracy: float
    backward_transfer: float | None
    seconds_per_task: float

    @classmethod
    def of(cls, record: RowRecord, order: int) -> OrderRun:
        found: dict[str, Any] = {name: read(record.summary) for name, read in METRICS.items()}
        return cls(row=record.row, order=order, seed=record.seed, seconds_per_task=fmean(record.seconds), **found)


class LengthRun(_Frozen):
    """One row on the first order cut into so many tasks, with one seed, in a process of its own.

    `seconds_per_task` is of learning, the mean; `last_seconds` that of the last tenth of the tasks.
    `cpu_seconds_per_task`, which another load does not change, is of learning and measuring. `base_mib` is what
    the process held at most before the first task, `peak_mib` at its end. `misaligned`: mean share of entries whose
    signs were opposite when they were averaged; None where nothing was.
    """

    row: str
    tasks: int
    last_accuracy: float
    average_accuracy: float
    backward_transfer: float | None
    seconds_per_task: float
    last_seconds: float
    cpu_seconds_per_task: float
    base_mib: float
    peak_mib: float
    misaligned: float | None


class OrdersRecord(_Frozen):
    """A whole study. `settings` are hyper-parameters laid over the defaults; `orders` permutations of `classes`."""

    dataset: str
    tasks: int
    evaluated_on: str
    model: str
    train_per_class: int | None
    test_per_class: int | None
    settings: dict[str, Any]
    classes: tuple[str, ...]
    orders: tuple[tuple[int, ...], ...]
    runs: tuple[OrderRun, ...]
    lengths: tuple[LengthRun, ...]
    versions: dict[str, str]

    @property
    def name(self) -> str:
        """Of its files: `orders`, with what is not as by default."""
        return "-".join(("orders", *(f"{name}={value}" for name, value in self.settings.items())))


@dataclass(frozen=True)
class OverOrders:
    """One metric of one row: its spread over all orders and seeds, and over orders, each by its mean over seeds."""

    all: Spread
    orders: Spread

    @classmethod
    def of(cls, runs: Sequence[OrderRun], metric: str) -> OverOrders | None:
        """None if the metric is not defined."""
        values: dict[int, list[float]] = {}
        for run in runs:
            value = getattr(run, metric)
            if value is None:
                return None
            values.setdefault(run.order, []).append(value)
        found = [value for order in values.values() for value in order]
        return cls(Spread.of(found), Spread.of([fmean(order) for order in values.values()]))


def class_orders(dataset: Dataset, count: int) -> tuple[tuple[int, ...], ...]:
    """The data set's own order, and others drawn from seeds 1, 2, ..."""
    drawn = (np.random.default_rng(seed).permutation(len(dataset.classes)) for seed in range(1, count))
    return (dataset.class_order, *(tuple(order.tolist()) for order in drawn))


def run_orders(
    dataset: Dataset,
    backbone: Backbone,
    rows: Mapping[str, Row],
    work: Path,
    options: Options,
    *,
    count: int,
    listener: Listener | None = None,
) -> OrdersRecord:
    """Run the rows in `count` orders, with every seed in each. Finished tasks are taken from `work`.

    Raises:
        InvalidSettingError: the options name a hyper-parameter that there is not, or a value that cannot be.
        DatasetError: a class has no training image, or a task no image to measure on.
    """
    orders = class_orders(dataset, count)
    records: list[BenchmarkRecord] = []
    for order in orders:
        cut = replace(dataset, class_order=order)
        records.append(run_benchmark(cut, backbone, rows, work, options, listener=listener))
    return OrdersRecord(
        dataset=dataset.name,
        tasks=dataset.tasks,
        evaluated_on=options.evaluated_on,
        model=last_components(backbone.spec.name),
        train_per_class=options.train_per_class,
        test_per_class=options.test_per_class,
        settings=dict(options.settings),
        classes=dataset.classes,
        orders=orders,
        runs=tuple(OrderRun.of(row, place) for place, record in enumerate(records) for row in record.rows),
        lengths=(),
        versions=records[-1].versions,
    )


def measure_apart(length: Length) -> LengthRun:
    """Measure one row on so many tasks in a process of its own.

    Raises:
        ProcessError: it ends with an error.
    """
    told = length.model_copy(update={"data": length.data.resolve()}).model_dump_json()
    return LengthRun.model_validate(answer_of("benchmarks.accuracy.length", told, environment={}))


def summary_of(record: OrdersRecord) -> dict[str, object]:
    """By row and metric, in the form of `summary.json`: `mean` and `std` over all orders and seeds.

    `std_over_orders` is the deviation of the orders' means, and `seeds` how many seeds each order had.
    """
    rows: dict[str, object] = {}
    for row, runs in _by_row(record).items():
        spreads = {metric: OverOrders.of(runs, metric) for metric in METRICS}
        rows[row] = {
            **{
                metric: spread and {**asdict(spread.all), "std_over_orders": spread.orders.std}
                for metric, spread in spreads.items()
            },
            "seeds": len({run.seed for run in runs}),
        }
    return rows


def write_orders(record: OrdersRecord, folder: Path) -> str:
    """Write the study and its plot into `folder`, put its section into the page there, and return its table.

    The files are `orders.json` and `orders.png`; settings that are not the defaults are part of their names.
    """
    content = {**record.model_dump(mode="json", exclude={"runs", "lengths", "versions"}), "rows": summary_of(record)}
    content |= record.model_dump(mode="json", include={"lengths", "runs", "versions"})
    text = json.dumps(content, indent=1, allow_nan=False) + "\n"
    save_files(folder, {f"{record.name}.json": text.encode(), f"{record.name}.png": png(_plot(record))})
    page = folder / "README.md"
    before = page.read_text() if page.exists() else f"# {record.dataset}\n"
    save_files(folder, {page.name: with_orders(before, folder).encode()})
    return orders_table(record)


def with_orders(page: str, folder: Path) -> str:
    """A page with the section of all studies of orders that are in `folder`, in place of the one it has."""
    studies = [_read(file) for file in sorted(folder.glob("orders*.json"))]
    return with_section(page, TITLE, "\n\n".join(part for study in studies for part in _section(study)))


def _read(file: Path) -> OrdersRecord:
    stored = json.loads(file.read_text(encoding="utf-8"))
    return OrdersRecord.model_validate({name: value for name, value in stored.items() if name != "rows"})


def _section(record: OrdersRecord) -> list[str]:
    name = record.name
    settings = ", ".join(f"`{name}={value}`" for name, value in record.settings.items())
    train, test = (
        "all" if count is None else f"at most {count}" for count in (record.train_per_class, record.test_per_class)
    )
    parts = [
        f"### {settings or 'By default'}",
        f"{record.tasks} tasks, in as many orders of the classes and with as many seeds in each as the table says; "
        f"{train} training images a class, {test} a class measured on, from {record.evaluated_on}. Percent, mean ± "
        "sample standard deviation over all orders and seeds; in brackets the deviation of the orders' means alone.",
        orders_table(record),
        f"![{name}]({name}.png)",
    ]
    if record.lengths:
        parts += [
            "The first order, one seed, cut into more tasks, a process for each row. Seconds are of learning, CPU "
            "seconds of measuring too. Memory is the most that the process held before the first task and at the end. "
            "Misaligned: entries whose sign was opposite when averaged.",
            lengths_table(record),
        ]
    return parts


def orders_table(record: OrdersRecord) -> str:
    """Markdown: a line for each row, mean ± deviation over all orders and seeds, and that over orders."""
    lines = []
    for row, runs in _by_row(record).items():
        orders, seeds = len({run.order for run in runs}), len({run.seed for run in runs})
        cells = []
        for metric in METRICS:
            spread = OverOrders.of(runs, metric)
            cell = percent(spread.all if spread else None, len(runs))
            cells.append(f"{cell} ({100 * spread.orders.std:.1f})" if spread and orders > 1 else cell)
        seconds = with_std(Spread.of([run.seconds_per_task for run in runs]), len(runs))
        lines.append([row, str(orders), str(seeds), *cells, seconds])
    return table(["Row", "Orders", "Seeds", "Last", "Avg", "BWT", "s per task"], lines, left=1, padded=True)


def lengths_table(record: OrdersRecord) -> str:
    """Markdown: a line for each row and number of tasks."""
    lines = [
        [
            run.row,
            str(run.tasks),
            *(number(None if v is None else 100 * v, 1) for v in (run.last_accuracy, run.average_accuracy)),
            number(None if run.backward_transfer is None else 100 * run.backward_transfer, 1),
            number(run.seconds_per_task, 2),
            number(run.last_seconds, 2),
            number(run.cpu_seconds_per_task, 2),
            number(run.base_mib, 0),
            number(run.peak_mib, 0),
            number(None if run.misaligned is None else 100 * run.misaligned, 1),
        ]
        for run in record.lengths
    ]
    head = [
        "Training",
        "Tasks",
        "Last",
        "Avg",
        "BWT",
        "s per task",
        "in the last tenth",
        "CPU s per task",
        "MiB before",
        "MiB peak",
    ]
    return table([*head, "Misaligned"], lines, left=1, padded=True)


def _by_row(record: OrdersRecord) -> dict[str, list[OrderRun]]:
    rows: dict[str, list[OrderRun]] = {}
    for run in record.runs:
        rows.setdefault(run.row, []).append(run)
    return rows


def _plot(record: OrdersRecord) -> Figure:
    """A panel for each metric: a point for each order (mean over seeds), a bar for the mean, one line per row."""
    rows = _by_row(record)
    look = styles(list(rows))
    figure = Figure(figsize=(WIDTH_INCHES, 1.4 + 0.34 * len(rows)), layout="constrained")
    panels = figure.subplots(1, len(METRICS), sharey=True)
    for axes, (metric, title) in zip(panels, zip(METRICS, ("Last", "Avg", "BWT"), strict=True), strict=True):
        for place, (row, runs) in enumerate(rows.items()):
            spread = OverOrders.of(runs, metric)
            if spread is None:
                continue
            axes.barh(place, 100 * spread.all.mean, height=0.66, color=look[row].color, alpha=0.45)
            means = [
                100 * fmean(getattr(run, metric) for run in runs if run.order == order)
                for order in sorted({run.order for run in runs})
            ]
            axes.plot(means, [place] * len(means), "o", color=look[row].color, markersize=5)
        axes.set_title(f"{title} (%)", fontsize=10)
        axes.grid(axis="x", color="#dddddd", linewidth=0.6)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_yticks(range(len(rows)), list(rows))
    panels[0].invert_yaxis()
    figure.supxlabel("bar: mean over orders and seeds; points: orders", fontsize=9, color="#555555")
    return figure
