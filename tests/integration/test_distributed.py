"""Two processes that learn a task together learn what one learns alone."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.accuracy.benchmark import Options, run_benchmark
from benchmarks.accuracy.datasets import load_dataset
from benchmarks.accuracy.evaluate import TaskScores
from benchmarks.accuracy.rows import choose_rows
from segp_cl.learn.distributed import Ranks
from segp_cl.models.backbone import Backbone
from segp_cl.types import ModelSpec
from tests.integration.ranks import CASES, first_state, learn_cases

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def alone(tiny_backbone: Backbone) -> dict[str, Any]:
    return learn_cases(tiny_backbone, first_state(tiny_backbone))


@pytest.fixture(scope="module")
def pair(tiny_spec: ModelSpec, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What both of two processes have to say."""
    folder = tmp_path_factory.mktemp("pair")
    command = [sys.executable, "-m", "tests.integration.ranks", tiny_spec.name, str(folder)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen([*command, str(rank), "2"], cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    try:
        said = [process.communicate(timeout=120)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], "\n".join(said)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.mark.parametrize("case", CASES)
def test_averaged_gradients_are_those_of_the_whole_batch_also_where_a_share_is_empty(
    case: str, alone: dict[str, Any], pair: list[dict[str, Any]]
) -> None:
    expected = alone[case]["gradients"]
    assert len(expected) == 6
    for answer in pair:
        for ours, theirs in zip(expected, answer["cases"][case]["gradients"], strict=True):
            for whole, averaged in zip(ours, theirs, strict=True):
                assert whole.abs().max() > 0
                # a gradient is a sum of many float32 products: 8e-5 of the largest were measured
                torch.testing.assert_close(averaged, whole, rtol=1e-3, atol=1e-3 * float(whole.abs().max()))


@pytest.mark.parametrize("case", CASES)
def test_both_processes_end_with_the_state_that_one_alone_learns(
    case: str, alone: dict[str, Any], pair: list[dict[str, Any]]
) -> None:
    first, second = (answer["cases"][case] for answer in pair)
    for key, expected in alone[case]["factors"].items():
        assert torch.equal(first["factors"][key], second["factors"][key])
        assert expected.abs().max() > 0
        # after several steps: 2e-5 of the largest were measured
        torch.testing.assert_close(first["factors"][key], expected, rtol=1e-3, atol=2e-4 * float(expected.abs().max()))
    # 2.2e-4 were measured with one anchor a step, 3e-6 otherwise; the largest is 0.4
    atol = 1e-3 if case == "segp, one anchor a step" else 1e-4
    torch.testing.assert_close(first["prototypes"], alone[case]["prototypes"], rtol=1e-3, atol=atol)
    for ours, theirs in zip(alone[case]["losses"], first["losses"], strict=True):
        assert theirs == pytest.approx(ours, rel=1e-3, abs=1e-5)


def test_processes_that_were_given_different_generators_are_refused(pair: list[dict[str, Any]]) -> None:
    for answer in pair:
        assert "the 2 processes were given different images or generators" in answer["refusal"]


def test_shares_of_any_number_of_processes_average_to_the_mean_of_all() -> None:
    values = torch.rand(7)
    for size in range(1, 10):
        shares = [Ranks(rank, size).share(torch.arange(7)) for rank in range(size)]
        mean = sum(share.weight * values[share.items].mean() for share in shares) / size
        torch.testing.assert_close(mean, values.mean())
        assert all(len(share.items) for share in shares)


def test_a_process_alone_takes_everything_and_hands_steps_on_as_they_are() -> None:
    items = torch.arange(3)
    alone = Ranks.current()
    assert alone == Ranks(0, 1)
    assert alone.share(items).items is items
    assert alone.share(items).weight == 1

    def step(*_: object) -> dict[str, torch.Tensor]:
        return {}

    assert alone.together(step, []) is step


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Four classes of noise in their colour, a folder each."""
    random = np.random.default_rng(0)
    for name, colour in {
        "red": (220, 30, 30),
        "green": (30, 200, 40),
        "blue": (30, 40, 220),
        "grey": (120,) * 3,
    }.items():
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for number in range(10):
            noisy = (np.array(colour) + random.integers(-30, 30, (32, 32, 3))).clip(0, 255).astype(np.uint8)
            Image.fromarray(noisy).save(tmp_path / "pictures" / name / f"{number}.png")
    return tmp_path / "pictures"


def test_a_benchmark_under_torchrun_goes_on_from_what_is_done_and_scores_as_one_process_does(
    tiny_spec: ModelSpec, tiny_backbone: Backbone, pictures: Path, tmp_path: Path
) -> None:
    settings: dict[str, Any] = {"epochs": 1, "k_adv": 1, "optimizer": "sgd"}
    rows = choose_rows(["segp", "zero-shot"])
    data = load_dataset(str(pictures), pictures, tasks=2)
    run_benchmark(data, tiny_backbone, rows, tmp_path / "alone", Options(seeds=(0,), settings=settings))
    shutil.copytree(tmp_path / "alone", tmp_path / "pair")
    for file in (tmp_path / "pair").glob("*/task-002.*"):
        file.unlink()
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["-m", "benchmarks.accuracy", "run", str(pictures), "--model", tiny_spec.name, "--tasks", "2"]
    command += ["--seeds", "1", *(word for row in rows for word in ("--row", row)), "--device", "cpu"]
    command += [word for name, value in settings.items() for word in ("--set", f"{name}={value}")]
    command += ["--work", str(tmp_path / "pair"), "--out", str(tmp_path / "out"), "--threads", "1"]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Written to") == 1
    one, two = (sorted((tmp_path / place).glob("*/task-*.npz")) for place in ("alone", "pair"))
    assert len(one) == 4
    assert [file.parts[-2:] for file in one] == [file.parts[-2:] for file in two]
    for expected, got in zip(map(TaskScores.load, one), map(TaskScores.load, two), strict=True):
        torch.testing.assert_close(got.text, expected.text, rtol=0, atol=1e-4)
        torch.testing.assert_close(got.visual, expected.visual, rtol=0, atol=1e-3)
    assert len(list((tmp_path / "alone").glob("*/store/versions/*"))) == 2
    assert len(list((tmp_path / "pair").glob("*/store/versions/*"))) == 3
