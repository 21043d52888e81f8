"""What the trainings of one data set, base model and set of options share: prepared images, frozen stems, identity."""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch

import segp_cl
from benchmarks.accuracy import closed_form, evaluate, heads, protocol
from benchmarks.accuracy.closed_form import TaskFeatures, run_head
from benchmarks.accuracy.datasets import Dataset, data_digest
from benchmarks.accuracy.datasets.types import PEER_SEED
from benchmarks.accuracy.evaluate import Evaluator, accuracy_rows, drift, frozen_stages, global_accuracy
from benchmarks.accuracy.protocol import Bench, EvaluatedOn, PreparedImages, make_bench
from benchmarks.accuracy.record import Protocol, Retention, RowRecord
from benchmarks.accuracy.rows import Row, Training, settings_of
from benchmarks.accuracy.runner import Runner, Trained
from benchmarks.common.machine import library_versions
from segp_cl.config import LearnerConfig
from segp_cl.models.backbone import Backbone
from segp_cl.prompts import DEFAULT_TEMPLATE
from segp_cl.types import OnProgress, Task


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


@dataclass
class _Shared:
    """What does not depend on where it is measured. `tasks` by the seed that drew the images; None: no drawing."""

    digest: str
    tasks: dict[int | None, tuple[Task, ...]] = field(default_factory=dict)


class Study:
    """A data set, a base model and options. Images are decoded once, however many trainings read them.

    Finished tasks are kept in `work`. Training images are kept for one seed at a time: ask seed by seed.
    """

    def __init__(
        self, dataset: Dataset, backbone: Backbone, work: Path, options: Options, *, shared: _Shared | None = None
    ) -> None:
        self.dataset, self.backbone, self.work, self.options = dataset, backbone, work, options
        self._shared = shared or _Shared(data_digest(dataset))
        self._evaluation: tuple[PreparedImages, ...] | None = None
        self._evaluators: dict[int, Evaluator] = {}
        self._features: TaskFeatures | None = None

    def on_validation(self) -> Study:
        """The same, measured on the validation slice; training images are shared."""
        options = replace(self.options, evaluated_on="validation")
        return Study(self.dataset, self.backbone, self.work, options, shared=self._shared)

    def config(self, training: Training, tuned: Mapping[str, Any] | None = None) -> LearnerConfig:
        """The configuration of a training.

        Raises:
            InvalidSettingError: the options name a hyper-parameter that there is not, or a value that cannot be.
        """
        return settings_of(training, self.options.settings, tuned)

    def bench(self, seed: int) -> Bench:
        """The tasks with the training images that `seed` draws."""
        made = make_bench(
            self.dataset,
            self.backbone.preprocessing,
            seed=seed,
            train_per_class=self.options.train_per_class,
            test_per_class=self.options.test_per_class,
            evaluated_on=self.options.evaluated_on,
            template=self.options.template,
        )
        drawn = None if self.options.train_per_class is None else seed
        if drawn not in self._shared.tasks:
            self._shared.tasks = {drawn: made.tasks}
        if self._evaluation is None:
            self._evaluation = made.evaluation
        return replace(made, tasks=self._shared.tasks[drawn], evaluation=self._evaluation)

    def train(
        self,
        training: Training,
        config: LearnerConfig,
        seed: int,
        *,
        on_task: Callable[[], None] = lambda: None,
        on_progress: OnProgress | None = None,
    ) -> Trained:
        """Learn and measure every task, or read what an earlier run finished; `on_task` is called after each."""
        bench = self.bench(seed)
        if training.frozen:  # then no seed matters: all read the first one's
            seed = self.options.seeds[0]
        identity = {
            "protocol": self.protocol(bench).model_dump(),
            "seed": seed,
            "versions": library_versions(self.backbone.device),
            "code": code_digest(),
            "dtype": str(self.options.dtype),
        }
        runner = Runner(
            bench,
            self.backbone,
            self.work,
            identity,
            self.options.dtype,
            evaluator_for=lambda config: self._evaluator(bench, config),
        )
        if not training.head:
            return runner.run(training, config, seed, on_task=on_task, on_progress=on_progress)
        if self._features is None or self._features.bench.tasks is not bench.tasks:
            self._features = TaskFeatures(self.backbone, bench)
        return run_head(
            runner,
            training,
            config,
            seed,
            features=self._features,
            digest=heads_digest(),
            on_task=on_task,
            on_progress=on_progress,
        )

    def record(self, name: str, row: Row, trained: Trained, seed: int, retention: Retention | None = None) -> RowRecord:
        """What a row says of a training."""
        bench = self.bench(seed)
        labels, images = torch.tensor(bench.evaluation_labels), bench.task_sizes
        classes = [len(task.classes) for task in bench.tasks]
        if len(trained.scores) == 1:  # all tasks were learned as one
            images, classes = [sum(images)], [sum(classes)]
        matrix = accuracy_rows(trained.scores, labels, images, classes, row.path)
        moved = drift(trained.scores, labels, images, classes, logit_scale=self.backbone.logit_scale)
        return RowRecord(
            row=name,
            seed=seed,
            accuracies=tuple(tuple(line) for line in matrix),
            test_images=tuple(images),
            global_accuracies=tuple(global_accuracy(scored, labels) for scored in trained.scores),
            seconds=trained.seconds,
            settings=dict(trained.settings),
            fusion_weights=tuple(scored.fusion_weight for scored in trained.scores) if row.path == "fused" else (),
            drift=moved if row.path == "text" else None,
            retention=retention,
        )

    def protocol(self, bench: Bench) -> Protocol:
        """What all rows have in common."""
        spec = self.backbone.spec
        return Protocol(
            dataset=self.dataset.name,
            tasks=self.dataset.tasks,
            classes=tuple(c.name for c in bench.classes),
            class_order=self.dataset.class_order,
            class_order_seed=PEER_SEED,
            train_images=sum(len(task.images.labels) for task in bench.tasks),
            test_images=sum(bench.task_sizes),
            train_per_class=self.options.train_per_class,
            test_per_class=self.options.test_per_class,
            template=self.options.template,
            model=spec.name,
            pretrained=None if spec.pretrained is None else Path(spec.pretrained).name,
            weights_digest=self.backbone.weights_digest,
            data_digest=self._shared.digest,
            evaluated_on=self.options.evaluated_on,
        )

    def _evaluator(self, bench: Bench, config: LearnerConfig) -> Evaluator:
        stages = frozen_stages(self.backbone, config)
        if stages not in self._evaluators:
            self._evaluators[stages] = Evaluator(self.backbone, bench, config)
        return self._evaluators[stages]


@cache
def code_digest() -> str:
    """SHA-256 over the method and what measures it; comments, docstrings and formatting do not count."""
    measuring = [Path(module.__file__ or "") for module in (evaluate, protocol)]
    return _digest([*sorted(Path(segp_cl.__path__[0]).rglob("*.py")), *measuring])


@cache
def heads_digest() -> str:
    """The same over what closed-form heads are solved with."""
    return _digest([*sorted(Path(heads.__path__[0]).rglob("*.py")), Path(closed_form.__file__)])


def _digest(files: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for path in files:
        digest.update(ast.dump(_without_docstrings(ast.parse(path.read_bytes()))).encode())
    return digest.hexdigest()


def _without_docstrings(module: ast.Module) -> ast.Module:
    for node in ast.walk(module):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            node.body = [
                statement
                for statement in node.body
                if not (isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant))
            ]
    return module
