"""Learning all tasks of a benchmark, one training and seed at a time; an interrupted run goes on where it was."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.accuracy.evaluate import Evaluator, TaskScores
from benchmarks.accuracy.protocol import Bench
from benchmarks.accuracy.rows import Training
from benchmarks.common.record import load_json, save_json
from model_store.store import Store
from model_store.types import Provenance, VersionId
from segp_cl.config import LearnerConfig
from segp_cl.learn.branches import merge_branches
from segp_cl.learn.distributed import Ranks
from segp_cl.learn.learner import initial_state, learn_task
from segp_cl.models.backbone import Backbone
from segp_cl.runtime.classifier import Classifier
from segp_cl.runtime.golden import record
from segp_cl.types import ImageSource, Learned, LearnerState, OnProgress, Task

DECODED_AT_ONCE = 256


@dataclass(frozen=True)
class Trained:
    """What a training left behind: the scores after each task, the seconds each took, the settings that were used.

    `misaligned` is, for each task, the share of entries whose signs were opposite to those they were averaged with.
    """

    scores: tuple[TaskScores, ...]
    seconds: tuple[float, ...]
    settings: Mapping[str, object]
    final: LearnerState
    misaligned: tuple[float | None, ...] = ()


@dataclass(frozen=True)
class Runner:
    """Trains on one benchmark with one base model.

    `identity` is what besides the configuration decides the outcome (data, model, library versions): a folder made
    under another identity is not gone on with. `evaluator_for` may hand out one evaluator to several trainings; without
    it every run makes its own.
    """

    bench: Bench
    backbone: Backbone
    work: Path
    identity: Mapping[str, object]
    dtype: torch.dtype = torch.float32
    evaluator_for: Callable[[LearnerConfig], Evaluator] | None = None

    def run(
        self,
        training: Training,
        config: LearnerConfig,
        seed: int,
        *,
        on_task: Callable[[], None] = lambda: None,
        on_progress: OnProgress | None = None,
    ) -> Trained:
        """Learn every task, measuring after each; tasks that an earlier run finished are read, not learned again.

        Of several processes (`segp_cl.learn.distributed`) the first one measures and writes; `work` is shared by all.

        Args:
            training: together, frozen or task by task.
            config: hyper-parameters.
            seed: of everything random; task t uses a stream of its own, so going on gives what a single run gives.
            on_task: called after every task, those that an earlier run finished too.
            on_progress: passed to `learn_task`.
        """
        tasks = self._tasks(training)
        folder = self.work / self.name(training, config, seed)
        folder.mkdir(parents=True, exist_ok=True)
        done: list[Done] = []
        while len(done) < len(tasks) and (found := Done.read(folder, len(done) + 1)):
            done.append(found)
            on_task()
        ranks = Ranks.current()
        ranks.wait()  # nothing is written before all have seen what is done
        store = Store(folder / "store")
        version = done[-1].version if done else None
        state = store.open(version) if version else initial_state(self.backbone)
        for number, task in enumerate(tasks[len(done) :], start=len(done) + 1):
            seconds, misaligned = 0.0, None
            settings: Mapping[str, object] = config.model_dump()
            if not training.frozen:
                decode(task.images)
                begun = time.monotonic()
                second = training.branches and number % 2 == 1 and number > 1
                fork = self._before(store, done) if second else state
                learned = learn_task(
                    fork,
                    task,
                    config=config,
                    generator=torch.Generator().manual_seed(task_seed(seed, number)),
                    backbone=self.backbone,
                    on_progress=on_progress,
                    dtype=self.dtype,
                )
                seconds = time.monotonic() - begun
                settings, misaligned = learned.report.settings, learned.report.misaligned
                if second:
                    learned = self._merged(fork, state, learned.state, config, seed)
                    seconds = time.monotonic() - begun
                state = learned.state
            if ranks.first:
                if not training.frozen:
                    version = store.publish(state, parent=None, provenance=Provenance(reason=task.name)).version_id
                # an untouched model's scores do not change from task to task
                scores = done[-1].scores if training.frozen and done else self.evaluator(config).scores(state)
                done.append(Done(scores, seconds, settings, version, misaligned))
                done[-1].write(folder, number)
            ranks.wait()
            if not ranks.first:
                finished = Done.read(folder, number)
                assert finished is not None, "the first process has written it down"
                done.append(finished)
                state = store.open(finished.version) if finished.version else state
            on_task()
        return Trained(
            tuple(d.scores for d in done),
            tuple(d.seconds for d in done),
            done[-1].settings,
            state,
            tuple(d.misaligned for d in done),
        )

    def evaluator(self, config: LearnerConfig) -> Evaluator:
        """The evaluator for states that trainings with `config` leave."""
        return self.evaluator_for(config) if self.evaluator_for else Evaluator(self.backbone, self.bench, config)

    def _before(self, store: Store, done: Sequence[Done]) -> LearnerState:
        """The state that the last task was learned on."""
        version = done[-2].version
        assert version is not None, "every trained state is stored"
        return store.open(version)

    def _merged(
        self, fork: LearnerState, ours: LearnerState, theirs: LearnerState, config: LearnerConfig, seed: int
    ) -> Learned:
        # as the worker does: no image of any task is there
        golden = record(Classifier(self.backbone, ours), self.backbone.preprocessing.size)
        return merge_branches(
            fork,
            ours,
            theirs,
            backbone=self.backbone,
            config=config,
            generator=torch.Generator().manual_seed(seed),
            norm=golden.raw.norm(dim=-1).mean(),
        )

    def _tasks(self, training: Training) -> tuple[Task, ...]:
        return (self.bench.joint(),) if training.together else self.bench.tasks

    def name(self, training: Training, config: LearnerConfig, seed: int) -> str:
        """The folder under `work` for one training and seed."""
        # a rate that was tuned to the model's own value is the same training as one that was left open
        rate = self.backbone.resolve(config).learning_rate
        what = {
            "config": {**config.model_dump(), "learning_rate": rate},
            "together": training.together,
            "frozen": training.frozen,
            "identity": self.identity,
        }
        if training.head:
            what |= {"head": training.head, "first_session": training.first_session}
        if training.branches:
            what["branches"] = True
        digest = hashlib.sha256(json.dumps(what, sort_keys=True, default=str).encode()).hexdigest()
        return f"{digest[:16]}-{seed}"


@dataclass(frozen=True)
class Done:
    """A finished task on disk: `task-NNN.npz` holds its scores, `task-NNN.json`, written last, the rest."""

    scores: TaskScores
    seconds: float
    settings: Mapping[str, object]
    version: VersionId | None
    misaligned: float | None = None

    @classmethod
    def read(cls, folder: Path, number: int) -> Done | None:
        marker = folder / f"task-{number:03d}.json"
        stored = load_json(marker)
        if not stored:
            return None
        scores = TaskScores.load(marker.with_suffix(".npz"))
        return cls(scores, stored["seconds"], stored["settings"], stored["version"], stored["misaligned"])

    def write(self, folder: Path, number: int) -> None:
        marker = folder / f"task-{number:03d}.json"
        self.scores.save(marker.with_suffix(".npz"))
        rest = {"version": self.version, "seconds": self.seconds, "misaligned": self.misaligned}
        save_json(marker, {**rest, "settings": dict(self.settings)})


def decode(images: ImageSource) -> None:
    """Read every image once, so that the seconds are those of learning, whichever training comes first."""
    count = len(images.labels)
    for start in range(0, count, DECODED_AT_ONCE):
        images.pixels(range(start, min(start + DECODED_AT_ONCE, count)))


def task_seed(seed: int, number: int) -> int:
    """The seed of everything random in task `number`, counted from 1."""
    return seed * 1_000 + number
