"""One benchmark from a data set to its record: every row, every seed, in the same order on the same images."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.accuracy.datasets import Dataset
from benchmarks.accuracy.evaluate import Evaluator, global_accuracy
from benchmarks.accuracy.protocol import make_bench
from benchmarks.accuracy.record import BenchmarkRecord, Retention, RowRecord
from benchmarks.accuracy.rows import NAIVE_GRID, Row, Training, settings_of, training_of
from benchmarks.accuracy.study import Options, Study
from benchmarks.common.machine import library_versions
from segp_cl.metrics import last_accuracy
from segp_cl.models.backbone import Backbone
from segp_cl.types import LearnerState, OnProgress

__all__ = ["Listener", "Options", "run_benchmark", "tasks_of"]


class Listener:
    """Is told what happens. Does nothing by itself."""

    def plan(self, units: int) -> None:
        """So many tasks are to be learned in all."""

    def begin(self, what: str) -> None:
        """A training begins."""

    def task_done(self) -> None:
        """One of the planned tasks is learned and measured."""

    on_progress: OnProgress | None = None


def run_benchmark(
    dataset: Dataset,
    backbone: Backbone,
    rows: Mapping[str, Row],
    work: Path,
    options: Options,
    *,
    retention: Dataset | None = None,
    listener: Listener | None = None,
) -> BenchmarkRecord:
    """Run the trainings that the rows need and put the record together. Finished tasks are taken from `work`.

    Raises:
        InvalidSettingError: the options name a hyper-parameter that there is not, or a value that cannot be.
        DatasetError: a class has no training image, or a task no image to measure on.
    """
    listener = listener or Listener()
    study = Study(dataset, backbone, work, options)
    trainings = {name: training_of(name) for name in dict.fromkeys(row.training for row in rows.values())}
    for training in trainings.values():
        study.config(training)  # refuses settings now, not when their training comes
    # checked before anything is learned, too
    elsewhere = _Elsewhere(retention, backbone, options) if retention else None
    tuning = any(training.tuned for training in trainings.values())
    each = sum(tasks_of(training, dataset) for training in trainings.values())
    listener.plan(len(options.seeds) * each + tuning * len(_grid()) * dataset.tasks)
    tuned = _tune(study, listener) if tuning else {}
    records: list[RowRecord] = []
    for seed in options.seeds:
        done = {}
        for name, training in trainings.items():
            listener.begin(f"{name}, seed {seed}")
            trained = study.train(
                training,
                study.config(training, tuned),
                seed,
                on_task=listener.task_done,
                on_progress=listener.on_progress,
            )
            done[name] = (trained, elsewhere.after(trained.final) if elsewhere else None)
        for name, row in rows.items():
            trained, retained = done[row.training]
            records.append(study.record(name, row, trained, seed, retained))
    order = list(rows)
    records.sort(key=lambda record: (order.index(record.row), record.seed))
    return BenchmarkRecord(
        protocol=study.protocol(study.bench(options.seeds[-1])),
        rows=tuple(records),
        versions=library_versions(backbone.device),
    )


def tasks_of(training: Training, dataset: Dataset) -> int:
    """How many tasks a training learns."""
    return 1 if training.together else dataset.tasks


def _grid() -> list[dict[str, float]]:
    return [dict(zip(NAIVE_GRID, values, strict=True)) for values in itertools.product(*NAIVE_GRID.values())]


def _tune(study: Study, listener: Listener) -> dict[str, float | int]:
    """The rate and the epochs at which naive LoRA's Last is best on the validation slice, with the first seed."""
    name, seed, validation = "naive-tuned", study.options.seeds[0], study.on_validation()
    training, row = training_of(name), Row(name, "text")
    rate = study.backbone.resolve(study.config(training)).learning_rate
    assert rate is not None, "resolved"
    best: tuple[float, dict[str, float | int]] | None = None
    for point in _grid():
        chosen = {"learning_rate": rate * point["learning_rate_factor"], "epochs": int(point["epochs"])}
        listener.begin(f"tuning naive: rate {chosen['learning_rate']:g}, {chosen['epochs']} epochs")
        trained = validation.train(
            training,
            validation.config(training, chosen),
            seed,
            on_task=listener.task_done,
            on_progress=listener.on_progress,
        )
        last = last_accuracy(validation.record(name, row, trained, seed).matrix)
        if best is None or last > best[0]:
            best = (last, chosen)
    assert best is not None, "the grid has points"
    return best[1]


class _Elsewhere:
    """Zero-shot accuracy on another data set, on all its images, before and after."""

    def __init__(self, dataset: Dataset, backbone: Backbone, options: Options) -> None:
        bench = make_bench(
            dataset,
            backbone.preprocessing,
            seed=options.seeds[0],
            evaluated_on=options.evaluated_on,
            template=options.template,
        )
        self._dataset = dataset.name
        self._labels = torch.tensor(bench.evaluation_labels)
        self._evaluator = Evaluator(backbone, bench, settings_of(Training(), options.settings, None))
        self._before: float | None = None

    def after(self, state: LearnerState) -> Retention:
        """Of a state that knows none of the data set's classes, so that all are asked for as labels."""
        empty = replace(
            state, classes=(), prototypes=state.prototypes[:0], text_features=state.text_features[:0], sums=None
        )
        if self._before is None:
            self._before = self._accuracy(replace(empty, lora=None))
        after = self._before if state.lora is None else self._accuracy(empty)
        return Retention(dataset=self._dataset, images=len(self._labels), before=self._before, after=after)

    def _accuracy(self, state: LearnerState) -> float:
        return global_accuracy(self._evaluator.scores(state), self._labels)
