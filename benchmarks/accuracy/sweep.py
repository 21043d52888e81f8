"""One hyper-parameter, several values: what Last and Forgetting do on the validation slice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any, get_args

from matplotlib.figure import Figure
from pydantic import BaseModel, ConfigDict

from benchmarks.accuracy.benchmark import Listener, Options, tasks_of
from benchmarks.accuracy.datasets import Dataset
from benchmarks.accuracy.record import RowRecord
from benchmarks.accuracy.rows import Path as AnsweringPath
from benchmarks.accuracy.rows import Row, choose_rows, settings_of, training_of
from benchmarks.accuracy.study import Study
from segp_cl.backbone import Backbone

PATHS: tuple[AnsweringPath, ...] = get_args(AnsweringPath)


class SweepPoint(BaseModel):
    """What one value gave, by path: means over seeds, fractions. `seconds`: of learning all tasks."""

    model_config = ConfigDict(frozen=True)

    value: Any
    last: Mapping[str, float]
    average: Mapping[str, float]
    forgetting: Mapping[str, float]
    seconds: float


class Sweep(BaseModel):
    """A whole sweep: `docs/results/<dataset>/sweeps/<parameter>.json`."""

    model_config = ConfigDict(frozen=True)

    dataset: str
    tasks: int
    training: str
    parameter: str
    seeds: int
    train_per_class: int | None
    test_per_class: int | None
    evaluated_on: str
    settings: Mapping[str, Any]
    points: tuple[SweepPoint, ...]


def sweep(
    dataset: Dataset,
    backbone: Backbone,
    row: str,
    parameter: str,
    values: Sequence[Any],
    work: Path,
    options: Options,
    *,
    listener: Listener | None = None,
) -> Sweep:
    """Run the training of `row` with every value of `parameter`, all else equal.

    Raises:
        UnknownRowError: there is no such row.
        InvalidSettingError: there is no such hyper-parameter, or it cannot have such a value.
    """
    listener = listener or Listener()
    name = choose_rows([row])[row].training
    training = training_of(name)
    configs = [
        # over the training's own settings, which may name the same hyper-parameter
        settings_of(replace(training, settings={**training.settings, parameter: value}), options.settings, None)
        for value in values
    ]
    listener.plan(len(values) * len(options.seeds) * tasks_of(training, dataset))
    study = Study(dataset, backbone, work, options)
    records: list[dict[AnsweringPath, list[RowRecord]]] = [{path: [] for path in PATHS} for _ in values]
    for seed in options.seeds:
        for value, config, found in zip(values, configs, records, strict=True):
            listener.begin(f"{parameter} = {value}, seed {seed}")
            trained = study.train(training, config, seed, on_task=listener.task_done, on_progress=listener.on_progress)
            for path in PATHS:
                found[path].append(study.record(row, Row(name, path, ""), trained, seed))
    return Sweep(
        dataset=dataset.name,
        tasks=dataset.tasks,
        training=name,
        parameter=parameter,
        seeds=len(options.seeds),
        train_per_class=options.train_per_class,
        test_per_class=options.test_per_class,
        evaluated_on=options.evaluated_on,
        settings=dict(options.settings),
        points=tuple(_point(value, found) for value, found in zip(values, records, strict=True)),
    )


def _point(value: Any, records: Mapping[AnsweringPath, Sequence[RowRecord]]) -> SweepPoint:
    summaries = {path: [record.summary for record in found] for path, found in records.items()}
    return SweepPoint(
        value=value,
        last={path: fmean(s.last for s in found) for path, found in summaries.items()},
        average={path: fmean(s.average for s in found) for path, found in summaries.items()},
        forgetting={path: fmean(s.forgetting or 0.0 for s in found) for path, found in summaries.items()},
        seconds=fmean(sum(record.seconds) for record in records["text"]),
    )


def write_sweep(result: Sweep, folder: Path) -> str:
    """Write record and plot into `folder`, and return the table."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{result.parameter}.json").write_text(result.model_dump_json(indent=1) + "\n")
    _plot(result).savefig(folder / f"{result.parameter}.png", dpi=110, metadata={"Software": None})
    return table(result)


def table(result: Sweep) -> str:
    """Markdown, percent: Last / Forgetting by path."""
    lines = [
        f"| {result.parameter} | text | visual | fused | seconds |",
        "|---|---|---|---|---|",
    ]
    for point in result.points:
        cells = [f"{100 * point.last[path]:.1f} / {100 * point.forgetting[path]:.1f}" for path in PATHS]
        lines.append(f"| {point.value} | {' | '.join(cells)} | {point.seconds:.0f} |")
    return "\n".join(lines)


def _plot(result: Sweep) -> Figure:
    figure = Figure(figsize=(8, 3.4), layout="constrained")
    for axes, metric in zip(figure.subplots(1, 2), ("last", "forgetting"), strict=True):
        for path, colour in zip(PATHS, ("#0072b2", "#e69f00", "#000000"), strict=True):
            heights = [100 * getattr(point, metric)[path] for point in result.points]
            axes.plot(range(len(heights)), heights, marker="o", color=colour, label=path)
        axes.set_xticks(range(len(result.points)), [str(point.value) for point in result.points])
        axes.set_xlabel(result.parameter)
        axes.set_ylabel("Last, %" if metric == "last" else "Forgetting, points")
        axes.grid(alpha=0.3)
    figure.axes[0].legend()
    figure.suptitle(f"{result.dataset}, {result.tasks} tasks, {result.evaluated_on}, {result.seeds} seed(s)")
    return figure
