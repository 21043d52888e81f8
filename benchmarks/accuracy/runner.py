"""Learning all tasks of a benchmark, one training and seed at a time; an interrupted run goes on where it was."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.accuracy.evaluate import Evaluator, TaskScores
from benchmarks.accuracy.protocol import Bench
from benchmarks.accuracy.rows import Training
from model_store.store import Store
from model_store.types import Provenance
from segp_cl.backbone import Backbone
from segp_cl.config import LearnerConfig
from segp_cl.learner import initial_state, learn_task
from segp_cl.types import LearnerState, OnProgress, Task


@dataclass(frozen=True)
class Trained:
    """What a training left behind: the scores after each task, the seconds each took, the settings that were used."""

    scores: tuple[TaskScores, ...]
    seconds: tuple[float, ...]
    settings: Mapping[str, object]
    final: LearnerState


@dataclass(frozen=True)
class Runner:
    """Trains on one benchmark with one base model.

    `identity` is what besides the configuration decides the outcome (data, model, library versions): a folder made
    under another identity is not gone on with.
    """

    bench: Bench
    backbone: Backbone
    work: Path
    identity: Mapping[str, object]
    dtype: torch.dtype = torch.float32

    def run(
        self,
        training: Training,
        config: LearnerConfig,
        seed: int,
        *,
        on_task: Callable[[int, int], None] = lambda done, tasks: None,
        on_progress: OnProgress | None = None,
    ) -> Trained:
        """Learn every task, measuring after each; tasks that an earlier run finished are read, not learned again.

        Args:
            training: together, frozen or task by task.
            config: hyper-parameters.
            seed: of everything random; task t uses a stream of its own, so going on gives what a single run gives.
            on_task: called with (tasks done, tasks in all) at the start and after every task.
            on_progress: passed to `learn_task`.
        """
        tasks = self._tasks(training)
        folder = self.work / self._name(training, config, seed)
        folder.mkdir(parents=True, exist_ok=True)
        evaluator: Evaluator | None = None
        store = Store(folder / "store")
        state = initial_state(self.backbone)
        scores: list[TaskScores] = []
        seconds: list[float] = []
        settings: Mapping[str, object] = config.model_dump()
        on_task(0, len(tasks))
        for number, task in enumerate(tasks, start=1):
            marker = folder / f"task-{number:03d}.json"
            file = marker.with_suffix(".npz")
            if marker.exists():
                done = json.loads(marker.read_text())
                state = store.open(done["version"]) if done["version"] else state
                scores.append(TaskScores.load(file))
                settings = done["settings"]
                seconds.append(done["seconds"])
                on_task(number, len(tasks))
                continue
            begun = time.monotonic()
            version = None
            if not training.frozen:
                learned = learn_task(
                    state,
                    task,
                    config=config,
                    generator=torch.Generator().manual_seed(_seed(seed, number)),
                    backbone=self.backbone,
                    on_progress=on_progress,
                    dtype=self.dtype,
                )
                state, settings = learned.state, learned.report.settings
                version = store.publish(state, parent=None, provenance=Provenance(reason=task.name)).version_id
            spent = time.monotonic() - begun
            evaluator = evaluator or Evaluator(self.backbone, self.bench, config)
            scored = evaluator.scores(state)
            scored.save(file)
            _write(marker, {"version": version, "seconds": spent, "settings": dict(settings)})
            scores.append(scored)
            seconds.append(spent)
            on_task(number, len(tasks))
        return Trained(tuple(scores), tuple(seconds), settings, state)

    def forget(self, training: Training, config: LearnerConfig, seed: int) -> None:
        """Remove what a run left behind."""
        shutil.rmtree(self.work / self._name(training, config, seed), ignore_errors=True)

    def _tasks(self, training: Training) -> tuple[Task, ...]:
        return (self.bench.joint(),) if training.together else self.bench.tasks

    def _name(self, training: Training, config: LearnerConfig, seed: int) -> str:
        what = {
            "config": config.model_dump(),
            "together": training.together,
            "frozen": training.frozen,
            "identity": self.identity,
        }
        digest = hashlib.sha256(json.dumps(what, sort_keys=True, default=str).encode()).hexdigest()
        return f"{digest[:16]}-{seed}"


def _seed(seed: int, number: int) -> int:
    return seed * 1_000 + number


def _write(path: Path, value: dict[str, Any]) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(value))
    os.replace(temporary, path)
