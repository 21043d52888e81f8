"""The benchmark of passes: ratios of rounds, and a small run from the model to the page."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from benchmarks import passes

APP = typer.Typer()
APP.command()(passes.run)


def test_a_gain_is_the_median_of_ratios_within_rounds() -> None:
    times = {"plain": [10.0, 40.0, 9.0], "both": [5.0, 10.0, 9.0]}
    assert passes.gain(times, "both") == 2.0
    assert passes.gain(times, "plain") == 1.0


def test_a_small_run_times_every_way_and_writes_a_page(tmp_path: Path) -> None:
    options = ["--model", "compact", "--rounds", "2", "--largest", "2", "--out", str(tmp_path)]
    done = CliRunner().invoke(APP, options)
    assert done.exit_code == 0, done.output
    record = json.loads((tmp_path / "summary.json").read_text())
    assert record["machine"]["threads"] == 2
    assert list(record["ms_an_image"]) == ["returned to the kernel", "kept"]
    for models in record["ms_an_image"].values():
        assert list(models["compact"]) == ["1", "2"]
        for times in models["compact"].values():
            assert list(times) == ["plain", "packed", "shared out", "both"]
            assert all(len(values) == 2 and min(values) > 0 for values in times.values())
    page = (tmp_path / "README.md").read_text()
    assert "| compact, images | plain | packed | shared out | both |" in page
    assert page.count("| 2 | ") == 2


def test_a_model_that_cannot_be_loaded_is_told(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="passes of no-such-model could not be timed"):
        passes._in_a_process({"spec": ["no-such-model", None], "threads": 1, "sizes": [1], "rounds": 1, "kept": False})
