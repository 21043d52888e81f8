"""Closed-form heads as trainings of the benchmark: one pass over each task's images, then a head from sums."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from benchmarks.accuracy.evaluate import TaskScores
from benchmarks.accuracy.heads.incremental import Incremental, Labelled
from benchmarks.accuracy.heads.kinds import HEADS
from benchmarks.accuracy.protocol import Bench
from benchmarks.accuracy.rows import Training
from benchmarks.accuracy.runner import Done, Runner, Trained, decode, task_seed
from segp_cl.config import LearnerConfig
from segp_cl.data.held_out import drawn_from, hold_out
from segp_cl.data.stem import StemInputs
from segp_cl.learn.distributed import Ranks
from segp_cl.learn.learner import FEWEST_IMAGES_TO_HOLD_OUT, initial_state
from segp_cl.models.backbone import Backbone
from segp_cl.types import LearnerState, OnProgress, Progress

BATCH = 64


class TaskFeatures:
    """Features of every task's training images by one model, whose passes are made once and kept in unnamed files."""

    def __init__(self, model: Backbone, bench: Bench) -> None:
        self.bench, self._model = bench, model
        self._inputs = [StemInputs(task.images, self._pass, device=model.device) for task in bench.tasks]
        self._seconds = [0.0] * len(bench.tasks)
        self._texts: Tensor | None = None

    def of(self, number: int, on_progress: OnProgress | None = None) -> tuple[Labelled, float]:
        """Features of the task at `number`, from 0, and the seconds that the pass took when it was made.

        Labels are positions among all classes of the data set.
        """
        inputs, count = self._inputs[number], len(self.bench.tasks[number].images.labels)
        decode(self.bench.tasks[number].images)
        starts, begun, parts = range(0, count, BATCH), time.monotonic(), []
        for step, start in enumerate(starts, start=1):
            parts.append(inputs.batch(range(start, min(start + BATCH, count))).cpu())
            if on_progress is not None:
                on_progress(Progress("features", step, len(starts)))
        self._seconds[number] = self._seconds[number] or time.monotonic() - begun
        both = torch.cat(parts)
        first = sum(len(task.classes) for task in self.bench.tasks[:number])
        labels = torch.tensor(inputs.labels) + first
        raw = self._model.raw_dim
        return Labelled(both[:, :raw], both[:, raw:], labels), self._seconds[number]

    @torch.no_grad()
    def texts(self) -> Float[Tensor, "classes joint"]:
        """Text features of all classes of the data set."""
        if self._texts is None:
            self._texts = self._model.text_features([c.prompt for c in self.bench.classes]).cpu()
        return self._texts

    def _pass(self, pixels: Tensor) -> Tensor:
        raw = self._model.raw_features(pixels)
        return torch.cat([F.normalize(raw, dim=-1), self._model.project(raw)], dim=1)


def run_head(
    runner: Runner,
    training: Training,
    config: LearnerConfig,
    seed: int,
    *,
    features: TaskFeatures,
    digest: str,
    on_task: Callable[[], None] = lambda: None,
    on_progress: OnProgress | None = None,
) -> Trained:
    """Solve a head after every task and measure it; what an earlier run finished is read.

    The head's setting is chosen on images that are held out of each task, the same that `segp` holds out to choose β.
    They are a part of the training images, and the head that answers is solved with them. Classes that are not yet
    taught are answered by the text path. An interrupted run reads the images of finished tasks again for their sums.

    Args:
        runner: measures, and says where finished tasks are.
        training: names the head, and says whether the model is trained on the first task.
        config: of that training; without one, only `fusion_holdout` is used.
        seed: of held-out images, random features and the training.
        features: of the untouched model.
        digest: of the code of all heads.
        on_task: called after every task.
        on_progress: called after every step.
    """
    assert training.head is not None
    ranks = Ranks.current()
    state, text, seconds = _begin(runner, training, config, seed, on_progress)
    named = replace(runner, identity={**runner.identity, "heads": digest})
    folder = runner.work / named.name(training, config, seed)
    folder.mkdir(parents=True, exist_ok=True)
    done = _finished(folder, runner.bench)
    ranks.wait()  # nothing is written before all have seen what is done
    for _ in done:
        on_task()
    if ranks.first and len(done) < len(runner.bench.tasks):
        if state.lora is not None:
            features = TaskFeatures(runner.backbone.with_lora(state.lora), runner.bench)
        raw = F.normalize(runner.evaluator(config).raw(state), dim=-1).cpu()
        head = Incremental(HEADS[training.head], seed=seed, kept_are_learned=True)
        classes = 0
        for number, task in enumerate(runner.bench.tasks, start=1):
            classes += len(task.classes)
            images, passed = features.of(number - 1, on_progress)
            begun = time.monotonic()
            split = hold_out(
                task.images.labels,
                fraction=config.fusion_holdout,
                min_images=FEWEST_IMAGES_TO_HOLD_OUT,
                shuffle=drawn_from(torch.Generator().manual_seed(task_seed(seed, number))),
            )
            learned, kept = (images.at(_positions(part)) for part in (split.train, split.held_out))
            head.learn(learned, kept, classes=classes, texts=features.texts()[:classes])
            if number <= len(done):
                continue
            solved = head.solve()
            spent = passed + time.monotonic() - begun + (seconds if number == 1 else 0.0)
            scores = TaskScores(text, solved.scores(raw).float(), solved.fusion_weight)
            settings = {**config.model_dump(), "head": training.head, **solved.chosen}
            done.append(Done(scores, spent, settings, None))
            done[-1].write(folder, number)
            on_task()
    ranks.wait()
    done = _finished(folder, runner.bench)
    return Trained(tuple(d.scores for d in done), tuple(d.seconds for d in done), done[-1].settings, state)


def _begin(
    runner: Runner, training: Training, config: LearnerConfig, seed: int, on_progress: OnProgress | None
) -> tuple[LearnerState, Tensor, float]:
    """The model that stands still from the first task on, the text path's scores by it, and the seconds it took."""
    if not training.first_session:
        state = initial_state(runner.backbone)
        return state, runner.evaluator(config).scores(state).text, 0.0
    first = replace(runner, bench=replace(runner.bench, tasks=runner.bench.tasks[:1]), evaluator_for=runner.evaluator)
    trained = first.run(Training(training.settings), config, seed, on_progress=on_progress)
    return trained.final, trained.scores[0].text, trained.seconds[0]


def _finished(folder: Path, bench: Bench) -> list[Done]:
    done: list[Done] = []
    while len(done) < len(bench.tasks) and (found := Done.read(folder, len(done) + 1)):
        done.append(found)
    return done


def _positions(positions: Sequence[int]) -> Tensor:
    return torch.tensor(positions, dtype=torch.int64)
