"""One benchmark from a data set to its record: every row, every seed, in the same order on the same images."""

from __future__ import annotations

import itertools
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from benchmarks.accuracy.datasets import Dataset, data_digest
from benchmarks.accuracy.datasets.types import PEER_SEED
from benchmarks.accuracy.evaluate import Evaluator, accuracy_rows, drift, global_accuracy
from benchmarks.accuracy.protocol import Bench, EvaluatedOn, make_bench
from benchmarks.accuracy.record import BenchmarkRecord, Protocol, Retention, RowRecord
from benchmarks.accuracy.rows import NAIVE_GRID, Row, Training, settings_of, training_of
from benchmarks.accuracy.runner import Runner, Trained
from segp_cl.backbone import Backbone
from segp_cl.config import LearnerConfig
from segp_cl.learner import DEFAULT_TEMPLATE
from segp_cl.metrics import last_accuracy
from segp_cl.types import LearnerState, OnProgress

LIBRARIES = ("torch", "torchvision", "open_clip_torch", "timm", "transformers", "numpy", "keepsight")


@dataclass(frozen=True)
class Options:
    """What a benchmark is run with. `settings` are hyper-parameters laid over the defaults for every training."""

    seeds: tuple[int, ...] = (0, 1, 2)
    train_per_class: int | None = None
    test_per_class: int | None = None
    evaluated_on: EvaluatedOn = "test"
    template: str = DEFAULT_TEMPLATE
    settings: Mapping[str, Any] = field(default_factory=dict)
    dtype: torch.dtype = torch.float32


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
    """Run the trainings that the rows need and put the record together. Finished tasks are taken from `work`."""
    listener = listener or Listener()
    trainings = {name: training_of(name) for name in dict.fromkeys(row.training for row in rows.values())}
    tuning = sum(dataset.tasks for t in trainings.values() if t.tuned for _ in _grid())
    each = sum(1 if t.together else dataset.tasks for t in trainings.values())
    listener.plan(len(options.seeds) * each + tuning)
    tuned = _tune(dataset, backbone, work, options, listener) if tuning else {}
    elsewhere = _Elsewhere(retention, backbone, options) if retention else None
    records: list[RowRecord] = []
    bench = _bench(dataset, backbone, options, options.seeds[0])
    for seed in options.seeds:
        bench = _bench(dataset, backbone, options, seed)
        runner = _runner(bench, dataset, backbone, work, options, seed)
        done = {}
        for name, training in trainings.items():
            listener.begin(f"{name}, seed {seed}")
            config = settings_of(training, options.settings, tuned)
            trained = runner.run(
                training,
                config,
                seed,
                on_task=lambda number, _: listener.task_done() if number else None,
                on_progress=listener.on_progress,
            )
            done[name] = (trained, elsewhere.after(trained.final) if elsewhere else None)
        records += [_row(name, row, *done[row.training], bench, backbone, seed) for name, row in rows.items()]
    order = list(rows)
    records.sort(key=lambda record: (order.index(record.row), record.seed))
    return BenchmarkRecord(
        protocol=_protocol(dataset, bench, backbone, options), rows=tuple(records), versions=library_versions()
    )


def library_versions() -> dict[str, str]:
    """Of Python, the libraries that decide results, and the processor."""
    return {
        "python": platform.python_version(),
        **{name: version(name) for name in LIBRARIES},
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else f"cpu, {platform.machine()}",
    }


def measure_last(
    dataset: Dataset,
    backbone: Backbone,
    training: Training,
    config: LearnerConfig,
    row: Row,
    work: Path,
    options: Options,
    seed: int,
    *,
    name: str,
    on_task: Callable[[], None],
    on_progress: OnProgress | None = None,
) -> RowRecord:
    """One row of one training, for tuning and sweeps."""
    bench = _bench(dataset, backbone, options, seed)
    trained = _runner(bench, dataset, backbone, work, options, seed).run(
        training, config, seed, on_task=lambda number, _: on_task() if number else None, on_progress=on_progress
    )
    return _row(name, row, trained, None, bench, backbone, seed)


def _grid() -> list[dict[str, float]]:
    return [dict(zip(NAIVE_GRID, values, strict=True)) for values in itertools.product(*NAIVE_GRID.values())]


def _tune(
    dataset: Dataset, backbone: Backbone, work: Path, options: Options, listener: Listener
) -> dict[str, float | int]:
    """The rate and the epochs at which naive LoRA's Last is best on the validation slice, with the first seed."""
    training, row = training_of("naive-tuned"), Row("naive-tuned", "text", "")
    rate = backbone.resolve(LearnerConfig(**options.settings)).learning_rate
    assert rate is not None, "resolved"
    best: tuple[float, dict[str, float | int]] | None = None
    for point in _grid():
        chosen = {"learning_rate": rate * point["learning_rate_factor"], "epochs": int(point["epochs"])}
        listener.begin(f"tuning naive: rate {chosen['learning_rate']:g}, {chosen['epochs']} epochs")
        record = measure_last(
            dataset,
            backbone,
            training,
            settings_of(training, options.settings, chosen),
            row,
            work,
            replace(options, evaluated_on="validation"),
            options.seeds[0],
            name="naive-tuned",
            on_task=listener.task_done,
            on_progress=listener.on_progress,
        )
        last = last_accuracy(record.matrix)
        if best is None or last > best[0]:
            best = (last, chosen)
    assert best is not None, "the grid has points"
    return best[1]


def _bench(dataset: Dataset, backbone: Backbone, options: Options, seed: int) -> Bench:
    return make_bench(
        dataset,
        backbone.preprocessing,
        seed=seed,
        train_per_class=options.train_per_class,
        test_per_class=options.test_per_class,
        evaluated_on=options.evaluated_on,
        template=options.template,
    )


def _runner(bench: Bench, dataset: Dataset, backbone: Backbone, work: Path, options: Options, seed: int) -> Runner:
    identity = {
        "protocol": _protocol(dataset, bench, backbone, options).model_dump(),
        "seed": seed,
        "versions": library_versions(),
        "dtype": str(options.dtype),
    }
    return Runner(bench, backbone, work, identity, options.dtype)


def _row(
    name: str, row: Row, trained: Trained, retention: Retention | None, bench: Bench, backbone: Backbone, seed: int
) -> RowRecord:
    labels, images = torch.tensor(bench.evaluation_labels), bench.task_sizes
    classes = [len(task.classes) for task in bench.tasks]
    together = len(trained.scores) == 1
    if together:
        images, classes = [sum(images)], [sum(classes)]
    matrix = accuracy_rows(trained.scores, labels, images, classes, row.path, row.fusion_weight)
    return RowRecord(
        row=name,
        seed=seed,
        accuracies=tuple(tuple(line) for line in matrix),
        test_images=tuple(images),
        global_accuracies=tuple(global_accuracy(scored, labels) for scored in trained.scores),
        seconds=trained.seconds,
        settings=dict(trained.settings),
        fusion_weights=tuple(
            scored.fusion_weight if row.fusion_weight is None else row.fusion_weight for scored in trained.scores
        )
        if row.path == "fused"
        else (),
        drift=drift(trained.scores, labels, images, classes, logit_scale=backbone.logit_scale)
        if row.path == "text"
        else None,
        retention=retention,
    )


def _protocol(dataset: Dataset, bench: Bench, backbone: Backbone, options: Options) -> Protocol:
    return Protocol(
        dataset=dataset.name,
        tasks=dataset.tasks,
        classes=tuple(c.name for c in bench.classes),
        class_order=dataset.class_order,
        class_order_seed=PEER_SEED,
        train_images=sum(len(task.images.labels) for task in bench.tasks),
        test_images=sum(bench.task_sizes),
        train_per_class=options.train_per_class,
        test_per_class=options.test_per_class,
        template=options.template,
        model=backbone.spec.name,
        pretrained=None if backbone.spec.pretrained is None else Path(backbone.spec.pretrained).name,
        weights_digest=backbone.weights_digest,
        data_digest=data_digest(dataset),
        evaluated_on=options.evaluated_on,
    )


class _Elsewhere:
    """Zero-shot accuracy on another data set, before and after."""

    def __init__(self, dataset: Dataset, backbone: Backbone, options: Options) -> None:
        self._backbone = backbone
        self._bench = _bench(dataset, backbone, options, options.seeds[0])
        self._labels = torch.tensor(self._bench.evaluation_labels)
        self._evaluator = Evaluator(backbone, self._bench, LearnerConfig(**options.settings))
        self._before: float | None = None

    def after(self, state: LearnerState) -> Retention:
        empty = replace(state, classes=(), prototypes=state.prototypes[:0], text_features=state.text_features[:0])
        if self._before is None:
            self._before = self._accuracy(replace(empty, lora=None))
        return Retention(dataset=self._bench.dataset, before=self._before, after=self._accuracy(empty))

    def _accuracy(self, state: LearnerState) -> float:
        return global_accuracy(self._evaluator.scores(state), self._labels)


def plan_of(rows: Mapping[str, Row]) -> Sequence[str]:
    """The trainings that some rows need, in order."""
    return tuple(dict.fromkeys(row.training for row in rows.values()))
