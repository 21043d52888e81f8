"""One hyper-parameter, several values: what Last and Forgetting do on the validation slice."""

from __future__ import annotations

import json
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
from benchmarks.accuracy.spread import Spread, percent
from benchmarks.accuracy.study import Study
from benchmarks.common.plots import BLACK, BLUE, ORANGE, png
from benchmarks.common.record import save_bytes
from segp_cl.models.backbone import Backbone

PATHS: tuple[AnsweringPath, ...] = get_args(AnsweringPath)


class SweepPoint(BaseModel):
    """What one value gave, by path: fractions, over seeds. `seconds`: of learning all tasks, their mean."""

    model_config = ConfigDict(frozen=True)

    value: Any
    last: Mapping[str, Spread]
    average: Mapping[str, Spread]
    forgetting: Mapping[str, Spread]
    seconds: float


class Sweep(BaseModel):
    """A whole sweep. `config`: every hyper-parameter but the swept one, as it was for all values."""

    model_config = ConfigDict(frozen=True)

    dataset: str
    tasks: int
    training: str
    parameter: str
    seeds: int
    train_per_class: int | None
    test_per_class: int | None
    evaluated_on: str
    config: Mapping[str, Any]
    points: tuple[SweepPoint, ...]

    @property
    def overrides(self) -> Mapping[str, Any]:
        """What of `config` is not the default of this training, as of today."""
        usual = settings_of(training_of(self.training), {}, None).model_dump(mode="json")
        return {name: value for name, value in self.config.items() if usual.get(name) != value}

    @property
    def name(self) -> str:
        """Of its files when they are written; defaults may change afterwards."""
        return "-".join((self.training, self.parameter, *(f"{name}={value}" for name, value in self.overrides.items())))


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
                found[path].append(study.record(row, Row(name, path), trained, seed))
    return Sweep(
        dataset=dataset.name,
        tasks=dataset.tasks,
        training=name,
        parameter=parameter,
        seeds=len(options.seeds),
        train_per_class=options.train_per_class,
        test_per_class=options.test_per_class,
        evaluated_on=options.evaluated_on,
        config={key: held for key, held in configs[0].model_dump(mode="json").items() if key != parameter},
        points=tuple(_point(value, found) for value, found in zip(values, records, strict=True)),
    )


def _point(value: Any, records: Mapping[AnsweringPath, Sequence[RowRecord]]) -> SweepPoint:
    summaries = {path: [record.summary for record in found] for path, found in records.items()}
    return SweepPoint(
        value=value,
        last={path: Spread.of([s.last for s in found]) for path, found in summaries.items()},
        average={path: Spread.of([s.average for s in found]) for path, found in summaries.items()},
        forgetting={path: Spread.of([s.forgetting or 0.0 for s in found]) for path, found in summaries.items()},
        seconds=fmean(sum(record.seconds) for record in records["text"]),
    )


def write_sweep(result: Sweep, folder: Path) -> str:
    """Write record and plot into `folder`, draw the page of all sweeps there anew, and return this one's table.

    Files are named `<training>-<parameter>[-<hyper-parameter>=<value>...]`, with what is not as by default.
    """
    save_bytes(folder / f"{result.name}.json", (result.model_dump_json(indent=1) + "\n").encode())
    save_bytes(folder / f"{result.name}.png", png(_plot(result)))
    found = {file.stem: Sweep.model_validate_json(file.read_text()) for file in sorted(folder.glob("*.json"))}
    save_bytes(folder / "README.md", page(found).encode())
    return table(result)


def page(sweeps: Mapping[str, Sweep]) -> str:
    """`README.md`: of each sweep, by the name of its files, what was held fixed, the table and the plot."""
    parts = [
        f"# {next(iter(sweeps.values())).dataset}: sweeps",
        "One hyper-parameter each, all else equal; Last / Forgetting in percent by path, mean ± sample standard "
        "deviation over seeds.",
    ]
    for name, result in sweeps.items():
        parts += [f"## {name}", _sentence(result), table(result), f"![{name}]({name}.png)"]
    return "\n\n".join(parts) + "\n"


def _sentence(result: Sweep) -> str:
    train, test = (
        "all" if count is None else f"at most {count}" for count in (result.train_per_class, result.test_per_class)
    )
    settings = ", ".join(f"`{name}={value}`" for name, value in result.overrides.items())
    source = "the validation slice" if result.evaluated_on == "validation" else "the test split"
    return (
        f"`{result.parameter}` of the training `{result.training}`: {result.tasks} tasks, {train} training images a "
        f"class, {test} a class measured on, from {source}; seeds: {result.seeds}"
        f"{f'; other than by default {settings}' if settings else ''}."
    )


def table(result: Sweep) -> str:
    """Markdown, percent: Last / Forgetting by path."""
    lines = [
        f"| {result.parameter} | text | visual | fused | seconds |",
        "|---|---|---|---|---|",
    ]
    for point in result.points:
        cells = [
            f"{percent(point.last[path], result.seeds)} / {percent(point.forgetting[path], result.seeds)}"
            for path in PATHS
        ]
        lines.append(f"| {json.dumps(point.value)} | {' | '.join(cells)} | {point.seconds:.0f} |")
    return "\n".join(lines)


def _plot(result: Sweep) -> Figure:
    figure = Figure(figsize=(8, 3.4), layout="constrained")
    for axes, metric in zip(figure.subplots(1, 2), ("last", "forgetting"), strict=True):
        for path, colour in zip(PATHS, (BLUE, ORANGE, BLACK), strict=True):
            found: list[Spread] = [getattr(point, metric)[path] for point in result.points]
            axes.errorbar(
                range(len(found)),
                [100 * spread.mean for spread in found],
                yerr=[100 * spread.std for spread in found] if result.seeds > 1 else None,
                marker="o",
                capsize=3,
                color=colour,
                label=path,
            )
        axes.set_xticks(range(len(result.points)), [json.dumps(point.value) for point in result.points])
        axes.set_xlabel(result.parameter)
        axes.set_ylabel("Last, %" if metric == "last" else "Forgetting, points")
        axes.grid(alpha=0.3)
    figure.axes[0].legend()
    figure.suptitle(
        f"{result.dataset}, {result.training}, {result.tasks} tasks, {result.evaluated_on}, {result.seeds} seed(s)"
    )
    return figure
