"""A whole benchmark on a miniature: from images to the record, and the command that a user types."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import segp_cl
from benchmarks.accuracy import __main__, study
from benchmarks.accuracy.benchmark import Listener, Options, run_benchmark
from benchmarks.accuracy.datasets import Dataset, LabelledImages
from benchmarks.accuracy.datasets.images import identity_of
from benchmarks.accuracy.protocol import Bench, make_bench
from benchmarks.accuracy.record import BenchmarkRecord
from benchmarks.accuracy.report import write_report
from benchmarks.accuracy.rows import InvalidSettingError, choose_rows
from benchmarks.accuracy.study import code_digest
from segp_cl.learn import learner
from segp_cl.models.backbone import Backbone
from segp_cl.types import Learned, LearnerState, ModelSpec

ROWS = ["zero-shot", "prototypes", "naive", "segp-text", "segp", "joint"]
OPTIONS = Options(
    seeds=(0, 1), train_per_class=4, test_per_class=1, settings={"epochs": 1, "batch_size": 8, "k_adv": 1, "rank": 4}
)


class Counting(Listener):
    """Counts what it is told."""

    def __init__(self) -> None:
        self.planned, self.done = 0, 0
        self.begun: list[str] = []

    def plan(self, units: int) -> None:
        self.planned += units

    def begin(self, what: str) -> None:
        self.begun.append(what)

    def task_done(self) -> None:
        self.done += 1


Lessons = list[tuple[str, str, int, list[int]]]


def spy_on_lessons(patch: pytest.MonkeyPatch) -> Lessons:
    """(strategy, task, seed of its generator, the sum of every image's bytes) of everything that is learned."""
    lessons: Lessons = []

    def learn_task(state: LearnerState, task: Any, **others: Any) -> Learned:
        sums = task.images.pixels(range(len(task.images.labels))).sum(dim=(1, 2, 3), dtype=torch.int64).tolist()
        lessons.append((others["config"].strategy, task.name, others["generator"].initial_seed(), sums))
        return learner.learn_task(state, task, **others)

    patch.setattr("benchmarks.accuracy.runner.learn_task", learn_task)
    return lessons


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("work")


@pytest.fixture(scope="module")
def ran(
    toys: Dataset, other_toys: Dataset, tiny_backbone: Backbone, work: Path
) -> tuple[BenchmarkRecord, Lessons, Counting]:
    with pytest.MonkeyPatch.context() as patch:
        lessons, listener = spy_on_lessons(patch), Counting()
        record = run_benchmark(
            toys, tiny_backbone, choose_rows(ROWS), work, OPTIONS, retention=other_toys, listener=listener
        )
    return record, lessons, listener


def test_every_row_has_a_complete_record_for_every_seed(
    ran: tuple[BenchmarkRecord, Lessons, Counting], other_toys: Dataset
) -> None:
    record, _, listener = ran

    assert [(r.row, r.seed) for r in record.rows] == [(row, seed) for row in ROWS for seed in (0, 1)]
    for row in record.rows:
        tasks = 1 if row.row == "joint" else 2
        assert row.matrix.tasks == len(row.global_accuracies) == len(row.seconds) == tasks
        assert sum(row.test_images) == 4
        assert row.retention is not None
        assert (row.retention.dataset, row.retention.images) == ("others", len(other_toys.test.labels))
        assert len(row.fusion_weights) == (tasks if row.row in ("segp", "joint") else 0)
        assert (row.drift is not None) == (row.row in ("zero-shot", "naive", "segp-text"))
        assert row.settings["rank"] == 4
    protocol = record.protocol
    assert (protocol.tasks, protocol.train_images, protocol.test_images) == (2, 16, 4)
    assert protocol.classes == ("blue", "red", "grey", "green")
    assert listener.planned == listener.done == 2 * (4 * 2 + 1)


def test_what_adapts_nothing_keeps_what_the_model_knew(ran: tuple[BenchmarkRecord, Lessons, Counting]) -> None:
    for row in ran[0].rows:
        if row.row in ("zero-shot", "prototypes"):
            assert row.retention is not None
            assert row.retention.before == row.retention.after
            assert len(set(row.global_accuracies)) == 1
    assert len({r.retention.before for r in ran[0].rows if r.retention}) == 1


def test_all_trainings_of_a_seed_see_the_same_images_and_start_from_the_same_randomness(
    ran: tuple[BenchmarkRecord, Lessons, Counting],
) -> None:
    lessons = ran[1]
    separate = [lesson for lesson in lessons if lesson[1] != "joint"]

    assert [(strategy, task) for strategy, task, _, _ in lessons] == 2 * [
        *((strategy, f"toys-{n}") for strategy in ("prototypes", "naive", "segp") for n in (1, 2)),
        ("naive", "joint"),
    ]
    for seed in (0, 1):
        half = separate[6 * seed : 6 * seed + 6]
        for start in (0, 1):
            assert len({(generator, tuple(images)) for _, _, generator, images in half[start::2]}) == 1
        joint = next(lesson for lesson in lessons[7 * seed :] if lesson[1] == "joint")
        assert sorted(joint[3]) == sorted(half[0][3] + half[1][3])
    assert separate[0][2:] != separate[6][2:]


def test_running_again_learns_nothing_and_says_the_same(
    ran: tuple[BenchmarkRecord, Lessons, Counting],
    toys: Dataset,
    tiny_backbone: Backbone,
    work: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lessons = spy_on_lessons(monkeypatch)

    again = run_benchmark(toys, tiny_backbone, choose_rows(["segp", "naive"]), work, OPTIONS)

    assert lessons == []
    assert [row.model_copy(update={"retention": None}) for row in ran[0].rows if row.row in ("segp", "naive")] == [
        *again.rows
    ]


def test_the_record_can_be_published(ran: tuple[BenchmarkRecord, Lessons, Counting], tmp_path: Path) -> None:
    write_report(ran[0], tmp_path)

    summary = json.loads((tmp_path / "summary.json").read_text())
    assert list(summary["rows"]) == ROWS
    assert "local-dir:tiny-clip" in (tmp_path / "record.json").read_text()
    for file in tmp_path.glob("*.*"):
        assert b"/tmp" not in file.read_bytes(), file.name


def test_the_naive_row_is_tuned_on_the_validation_slice_only(
    toys: Dataset, tiny_backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "benchmarks.accuracy.benchmark.NAIVE_GRID", {"learning_rate_factor": (0.0001, 1.0), "epochs": (1,)}
    )
    asked: list[str] = []
    real = make_bench

    def spy(*arguments: Any, **named: Any) -> Bench:
        asked.append(named["evaluated_on"])
        return real(*arguments, **named)

    monkeypatch.setattr(study, "make_bench", spy)
    lessons = spy_on_lessons(monkeypatch)
    listener = Counting()
    on_begin: list[tuple[str, int]] = []
    monkeypatch.setattr(listener, "begin", lambda what: on_begin.append((what, len(asked))))

    record = run_benchmark(
        toys, tiny_backbone, choose_rows(["naive-tuned"]), tmp_path, replace(OPTIONS, seeds=(0,)), listener=listener
    )

    assert [what.split(":")[0] for what, _ in on_begin] == ["tuning naive", "tuning naive", "naive-tuned, seed 0"]
    tuning, testing = asked[: on_begin[-1][1]], asked[on_begin[-1][1] :]
    assert set(tuning) == {"validation"}
    assert set(testing) == {"test"}
    assert lessons[0][3] == lessons[2][3] == lessons[4][3]  # all on the same training images
    assert record.rows[0].settings["learning_rate"] in [
        pytest.approx(factor * 0.01 / tiny_backbone.logit_scale) for factor in (0.0001, 1.0)
    ]
    assert record.protocol.evaluated_on == "test"
    assert listener.planned == listener.done == 6


def test_a_setting_that_cannot_be_is_refused_before_anything_is_learned(
    toys: Dataset, tiny_backbone: Backbone, tmp_path: Path
) -> None:
    options = replace(OPTIONS, settings={"epoch": 3})

    with pytest.raises(InvalidSettingError, match="'epoch'"):
        run_benchmark(toys, tiny_backbone, choose_rows(["segp"]), tmp_path, options)
    assert not any(tmp_path.iterdir())


def test_images_are_decoded_once_for_all_trainings_and_seeds(
    toys: Dataset, tiny_backbone: Backbone, tmp_path: Path
) -> None:
    opened: list[int] = []

    class Opened:
        def __init__(self, images: LabelledImages, first: int) -> None:
            self.images, self.first, self.labels = images, first, images.labels

        def open(self, index: int) -> Image.Image:
            opened.append(self.first + index)
            return self.images.open(index)

        def identity(self, index: int) -> bytes:
            return identity_of(self.images, index)

    dataset = replace(toys, train=Opened(toys.train, 0), test=Opened(toys.test, 100))
    options = replace(
        OPTIONS, train_per_class=None, test_per_class=None
    )  # all of them, so that every seed learns from the same ones

    run_benchmark(dataset, tiny_backbone, choose_rows(["zero-shot", "prototypes", "joint"]), tmp_path, options)

    assert len(opened) == len(set(opened)) == 4 * 7 + 4 * 2


def test_docstrings_and_comments_do_not_make_other_code(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def digest_of(source: str) -> str:
        (tmp_path / "method.py").write_text(source)
        code_digest.cache_clear()
        return code_digest()

    with monkeypatch.context() as patch:
        patch.setattr(segp_cl, "__path__", [str(tmp_path)])
        plain = digest_of("def f(x):\n    return x + 1\n")
        explained = digest_of('def f(x):\n    """One more."""\n    return x + 1  # one\n')
        other = digest_of("def f(x):\n    return x + 2\n")
    code_digest.cache_clear()

    assert plain == explained != other


@pytest.mark.slow
def test_the_command_runs_a_benchmark_and_publishes_no_path_of_this_machine(
    toy_folder: Path, tiny_spec: ModelSpec, tmp_path: Path
) -> None:
    command = [
        sys.executable, "-m", "benchmarks.accuracy", "run", str(toy_folder), "--tasks", "2", "--seeds", "1",
        "--row", "segp", "--row", "zero-shot", "--model", tiny_spec.name, "--device", "cpu", "--threads", "1",
        "--train-per-class", "3", "--set", "epochs=1", "--set", "k_adv=1",
    ]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[4])}

    ran = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)

    assert ran.returncode == 0, ran.stderr
    out = tmp_path / "docs" / "results" / "toys"
    assert list(json.loads((out / "summary.json").read_text())["rows"]) == ["zero-shot", "segp"]
    assert "| segp " in ran.stdout
    assert {path.name for path in out.iterdir()} >= {"record.json", "README.md", "accuracy.png"}
    for file in out.iterdir():
        for private in (str(tmp_path), str(toy_folder), tiny_spec.name.removeprefix("local-dir:")):
            assert private.encode() not in file.read_bytes(), file.name


@pytest.mark.parametrize(
    ("typed", "sentence"),
    [
        (["run", "cifar100", "--data", "nowhere"], "keepsight bench: data set cifar100: nowhere/"),
        (["run", "cifar100", "--row", "segq"], "keepsight bench: there is no row 'segq'"),
    ],
)
def test_what_is_refused_is_one_sentence(
    typed: list[str], sentence: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.arena_max=8")  # this process's memory is left as it is
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")
    monkeypatch.setattr(sys, "argv", ["keepsight bench", *typed, "--threads", "1"])

    with pytest.raises(SystemExit) as end:
        __main__.main()

    printed = capsys.readouterr()
    assert end.value.code == 1
    assert printed.out == ""
    assert printed.err.startswith(sentence)
    assert printed.err.count("\n") == 1
