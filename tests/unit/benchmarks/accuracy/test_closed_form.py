"""Closed-form heads as rows of the benchmark, on a miniature: records, going on, and what they are solved from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from benchmarks.accuracy import closed_form
from benchmarks.accuracy.benchmark import Listener, Options, run_benchmark
from benchmarks.accuracy.closed_form import TaskFeatures
from benchmarks.accuracy.datasets import Dataset
from benchmarks.accuracy.heads.incremental import Incremental, Labelled
from benchmarks.accuracy.heads.kinds import HEADS
from benchmarks.accuracy.protocol import make_bench
from benchmarks.accuracy.record import BenchmarkRecord
from benchmarks.accuracy.rows import TRAININGS, choose_rows
from segp_cl.models.backbone import Backbone

ROWS = ["zero-shot", "prototypes", "ridge", "ranpac-2000", "gda+text", "first-session"]
OPTIONS = Options(seeds=(0, 1), settings={"epochs": 1, "batch_size": 8, "rank": 4, "fusion_holdout": 0.3})


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("work")


@pytest.fixture(scope="module")
def ran(toys: Dataset, other_toys: Dataset, tiny_backbone: Backbone, work: Path) -> BenchmarkRecord:
    return run_benchmark(toys, tiny_backbone, choose_rows(ROWS), work, OPTIONS, retention=other_toys)


def test_every_head_that_a_training_names_exists() -> None:
    named = {training.head for training in TRAININGS.values() if training.head}

    assert named <= set(HEADS)
    assert {"ridge", "ranpac-2000", "ranpac-10000", "gda+text"} <= named


def test_every_row_is_recorded_like_all_others(ran: BenchmarkRecord) -> None:
    assert [(record.row, record.seed) for record in ran.rows] == [(row, seed) for row in ROWS for seed in (0, 1)]
    for record in ran.rows:
        assert record.matrix.tasks == len(record.seconds) == len(record.global_accuracies) == 2
        assert len(record.fusion_weights) == (2 if record.row == "gda+text" else 0)
        assert record.retention is not None
        if record.row in ("ridge", "ranpac-2000", "gda+text"):
            assert record.settings["head"] == record.row
            assert record.settings[str(HEADS[record.row].setting)] in HEADS[record.row].grid
            assert record.retention.before == record.retention.after
            assert record.global_accuracies == ran.of("zero-shot")[0].global_accuracies
    assert ran.of("first-session")[0].settings["head"] == "ridge"


def test_tasks_that_are_not_taught_are_answered_by_the_untouched_text_path(ran: BenchmarkRecord) -> None:
    for row in ("ridge", "gda+text"):
        assert ran.of(row)[0].accuracies[0][1] == ran.of("zero-shot")[0].accuracies[0][1]


def test_features_are_those_of_the_model_and_labels_count_over_all_tasks(
    toys: Dataset, tiny_backbone: Backbone
) -> None:
    bench = make_bench(toys, tiny_backbone.preprocessing, seed=0)

    found, seconds = TaskFeatures(tiny_backbone, bench).of(1)

    images = bench.tasks[1].images
    with torch.no_grad():
        raw = tiny_backbone.raw_features(images.pixels(range(len(images.labels))).float() / 255)
        joint = tiny_backbone.project(raw)
    assert torch.allclose(found.visual, F.normalize(raw, dim=1), atol=1e-5)
    assert torch.allclose(found.joint, joint, atol=1e-5)
    assert found.labels.tolist() == [label + 2 for label in images.labels]
    assert seconds > 0


def test_heads_of_one_seed_share_one_pass_over_the_images(
    toys: Dataset, tiny_backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    passed: list[int] = []
    real = TaskFeatures._pass

    def counting(self: TaskFeatures, pixels: torch.Tensor) -> torch.Tensor:
        passed.append(len(pixels))
        return real(self, pixels)

    monkeypatch.setattr(TaskFeatures, "_pass", counting)
    record = run_benchmark(
        toys, tiny_backbone, choose_rows(["ridge", "gda+text"]), tmp_path, replace(OPTIONS, seeds=(0,))
    )

    assert sum(passed) == record.protocol.train_images


def test_what_is_finished_is_read_and_not_solved_again(
    ran: BenchmarkRecord,
    toys: Dataset,
    tiny_backbone: Backbone,
    work: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(closed_form, "Incremental", lambda *_, **__: pytest.fail("solved again"))
    done: list[int] = []

    class Counting(Listener):
        def task_done(self) -> None:
            done.append(1)

    again = run_benchmark(toys, tiny_backbone, choose_rows(ROWS[2:]), work, OPTIONS, listener=Counting())

    assert [row.model_copy(update={"retention": None}) for row in ran.rows if row.row in ROWS[2:]] == [*again.rows]
    assert len(done) == 2 * 4 * 2


@pytest.mark.parametrize("row", ["ridge", "first-session"])
def test_an_interrupted_run_goes_on_and_ends_as_one_that_was_not(
    ran: BenchmarkRecord, toys: Dataset, tiny_backbone: Backbone, tmp_path: Path, row: str
) -> None:
    class PowerCutError(Exception):
        pass

    class Cut(Listener):
        def task_done(self) -> None:
            raise PowerCutError

    options = replace(OPTIONS, seeds=(0,))
    with pytest.raises(PowerCutError):
        run_benchmark(toys, tiny_backbone, choose_rows([row]), tmp_path, options, listener=Cut())
    assert len(list(tmp_path.glob("*/task-001.json"))) == (2 if row == "first-session" else 1)
    assert not list(tmp_path.glob("*/task-002.json"))

    gone_on = run_benchmark(toys, tiny_backbone, choose_rows([row]), tmp_path, options).rows[0]

    whole = ran.of(row)[0]
    assert gone_on.accuracies == whole.accuracies
    assert gone_on.settings == whole.settings


def test_the_setting_is_never_chosen_on_images_that_are_measured_on(
    toys: Dataset, tiny_backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All that a head learns from or chooses on are the task's training images, each once."""
    seen: list[tuple[int, int]] = []

    class Spy(Incremental):
        def learn(self, images: Labelled, kept: Labelled, **others: Any) -> None:
            seen.append((len(images.labels), len(kept.labels)))
            super().learn(images, kept, **others)

    monkeypatch.setattr(closed_form, "Incremental", Spy)
    record = run_benchmark(toys, tiny_backbone, choose_rows(["ridge"]), tmp_path, replace(OPTIONS, seeds=(0,)))

    assert sum(map(sum, seen)) == record.protocol.train_images
    assert all(kept > 0 for _, kept in seen)
