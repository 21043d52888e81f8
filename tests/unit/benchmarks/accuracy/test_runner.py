"""Learning all tasks, and going on after an interruption as if there had been none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.accuracy.datasets import Dataset
from benchmarks.accuracy.evaluate import Evaluator, TaskScores
from benchmarks.accuracy.protocol import Bench, make_bench
from benchmarks.accuracy.rows import Training
from benchmarks.accuracy.runner import Runner, Trained
from segp_cl.config import LearnerConfig
from segp_cl.learn import learner
from segp_cl.models.backbone import Backbone
from segp_cl.types import Learned, LearnerState, Progress

CONFIG = LearnerConfig(epochs=1, batch_size=8, k_adv=1, learning_rate=0.01)
SEGP = Training({"strategy": "segp"})


class PowerCutError(Exception):
    """The power went."""


@pytest.fixture
def bench(tiny_backbone: Backbone, toys: Dataset) -> Bench:
    return make_bench(toys, tiny_backbone.preprocessing, seed=0)


@pytest.fixture
def learned(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the tasks that were learned to the end, in order."""
    names: list[str] = []

    def learn_task(state: LearnerState, task: Any, **others: Any) -> Learned:
        result = learner.learn_task(state, task, **others)
        names.append(task.name)
        return result

    monkeypatch.setattr("benchmarks.accuracy.runner.learn_task", learn_task)
    return names


def runner(bench: Bench, backbone: Backbone, work: Path, identity: Mapping[str, object] | None = None) -> Runner:
    return Runner(bench, backbone, work, identity or {"data": "toys"})


def same(one: Trained, other: Trained) -> bool:
    return one.settings == other.settings and all(
        torch.equal(a.text, b.text) and torch.equal(a.visual, b.visual) and a.fusion_weight == b.fusion_weight
        for a, b in zip(one.scores, other.scores, strict=True)
    )


def test_an_interrupted_run_goes_on_at_the_last_finished_task_and_ends_as_one_that_was_not(
    bench: Bench, tiny_backbone: Backbone, tmp_path: Path, learned: list[str]
) -> None:
    whole = runner(bench, tiny_backbone, tmp_path / "whole").run(SEGP, CONFIG, 0)
    assert learned == ["toys-1", "toys-2"]
    learned.clear()
    interrupted = runner(bench, tiny_backbone, tmp_path / "interrupted")

    def in_the_second_task(progress: Progress) -> None:
        if learned and progress.phase == "train":
            raise PowerCutError

    with pytest.raises(PowerCutError):
        interrupted.run(SEGP, CONFIG, 0, on_progress=in_the_second_task)
    assert learned == ["toys-1"]
    done: list[int] = []
    gone_on = interrupted.run(SEGP, CONFIG, 0, on_task=lambda: done.append(len(learned)))

    assert learned == ["toys-1", "toys-2"]
    assert done == [1, 2]
    assert same(gone_on, whole)


def test_pairs_of_tasks_are_learned_on_one_state_and_merged(
    tiny_backbone: Backbone, toys: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four tasks: one, two beside three, four. What has no training is the same as one after the other."""
    tasks = replace(toys, tasks=4)
    bench = make_bench(tasks, tiny_backbone.preprocessing, seed=0)
    known: list[tuple[int, int]] = []

    def learn_task(state: LearnerState, task: Any, **others: Any) -> Learned:
        result = learner.learn_task(state, task, **others)
        known.append((len(state.classes), len(result.state.classes)))
        return result

    monkeypatch.setattr("benchmarks.accuracy.runner.learn_task", learn_task)
    config = CONFIG.model_copy(update={"strategy": "prototypes"})
    row = Training({"strategy": "prototypes"}, branches=True)
    done = runner(bench, tiny_backbone, tmp_path).run(row, config, 0)
    assert known == [(0, 1), (1, 2), (1, 2), (3, 4)]
    assert [score.visual.shape[1] for score in done.scores] == [1, 2, 3, 4]
    usual = runner(bench, tiny_backbone, tmp_path).run(Training({"strategy": "prototypes"}), config, 0)
    assert done.final.class_names == usual.final.class_names
    assert torch.allclose(done.final.prototypes, usual.final.prototypes, atol=1e-5)

    known.clear()
    folder = tmp_path / runner(bench, tiny_backbone, tmp_path).name(row, config, 0)
    for file in (*folder.glob("task-003.*"), *folder.glob("task-004.*")):
        file.unlink()
    again = runner(bench, tiny_backbone, tmp_path).run(row, config, 0)
    assert known == [(1, 2), (3, 4)]
    assert same(again, done)


def test_a_finished_run_is_read_and_says_the_same(
    bench: Bench, tiny_backbone: Backbone, tmp_path: Path, learned: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = runner(bench, tiny_backbone, tmp_path).run(SEGP, CONFIG, 0)
    learned.clear()
    monkeypatch.setattr(Evaluator, "scores", lambda *_: pytest.fail("measured again"))

    again = runner(bench, tiny_backbone, tmp_path).run(SEGP, CONFIG, 0)

    assert learned == []
    assert same(again, first)
    assert again.seconds == first.seconds
    assert torch.equal(again.final.prototypes, first.final.prototypes)
    assert again.final.lora is not None


@pytest.mark.parametrize("what", ["identity", "seed", "config", "training"])
def test_another_folder_is_used_where_anything_that_decides_the_outcome_differs(
    bench: Bench, tiny_backbone: Backbone, tmp_path: Path, learned: list[str], what: str
) -> None:
    prototypes, config = Training({"strategy": "prototypes"}), CONFIG.model_copy(update={"strategy": "prototypes"})
    runner(bench, tiny_backbone, tmp_path).run(prototypes, config, 0)
    learned.clear()

    runner(bench, tiny_backbone, tmp_path, {"data": "others"} if what == "identity" else None).run(
        Training(together=True) if what == "training" else prototypes,
        config.model_copy(update={"whiten": False}) if what == "config" else config,
        1 if what == "seed" else 0,
    )

    assert learned == (["joint"] if what == "training" else ["toys-1", "toys-2"])


def test_a_rate_that_is_the_model_s_own_is_no_other_training(
    bench: Bench, tiny_backbone: Backbone, tmp_path: Path, learned: list[str]
) -> None:
    config = LearnerConfig(strategy="prototypes")
    runner(bench, tiny_backbone, tmp_path).run(SEGP, config, 0)
    learned.clear()

    rate = tiny_backbone.resolve(config).learning_rate
    runner(bench, tiny_backbone, tmp_path).run(SEGP, config.model_copy(update={"learning_rate": rate}), 0)

    assert learned == []


def test_the_untouched_model_is_measured_once_and_learns_nothing(
    bench: Bench, tiny_backbone: Backbone, tmp_path: Path, learned: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[LearnerState] = []
    real = Evaluator.scores

    def scores(self: Evaluator, state: LearnerState) -> TaskScores:
        measured.append(state)
        return real(self, state)

    monkeypatch.setattr(Evaluator, "scores", scores)

    trained = runner(bench, tiny_backbone, tmp_path).run(Training(frozen=True), CONFIG, 0)

    assert learned == []
    assert len(measured) == 1
    assert len(trained.scores) == 2
    assert trained.seconds == (0.0, 0.0)


def test_all_tasks_can_be_learned_as_one(bench: Bench, tiny_backbone: Backbone, tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"strategy": "naive"})

    trained = runner(bench, tiny_backbone, tmp_path).run(Training(together=True), config, 0)

    assert len(trained.scores) == 1
    assert trained.final.class_names == tuple(c.name for c in bench.classes)
    assert trained.scores[0].visual.shape == (8, 4)
