"""The benchmark of passes: ratios of rounds, a small run from the model to the page, and its process."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from benchmarks.common.process import answer_of
from benchmarks.passes import __main__ as program
from benchmarks.passes.measure import measure
from segp_cl.types import ModelSpec

WAYS = ["plain", "shared out", "openvino"]


def test_a_gain_is_the_median_of_ratios_within_rounds() -> None:
    times = {"plain": [10.0, 40.0, 9.0], "openvino": [5.0, 10.0, 9.0]}
    assert program.gain(times, "openvino") == 2.0
    assert program.gain(times, "plain") == 1.0


def test_a_small_run_times_every_way_and_writes_a_page(
    tmp_path: Path, tiny_spec: ModelSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[bool] = []

    def in_this_process(module: str, argument: str, *, environment: Mapping[str, str]) -> Any:
        order = json.loads(argument)
        assert order["spec"] == ["compact", None]
        kept.append(order["kept"])
        return measure(tiny_spec, threads=order["threads"], sizes=order["sizes"], rounds=order["rounds"])

    monkeypatch.setattr(program, "answer_of", in_this_process)
    monkeypatch.setattr(torch, "set_num_threads", lambda threads: None)
    options = ["--model", "compact", "--rounds", "2", "--largest", "2", "--out", str(tmp_path)]
    done = CliRunner().invoke(program.app, options)
    assert done.exit_code == 0, done.output
    record = json.loads((tmp_path / "summary.json").read_text())
    assert record["machine"]["threads"] == 2
    assert list(record["ms_an_image"]) == ["returned to the kernel", "kept"]
    assert kept == [False, True]
    for models in record["ms_an_image"].values():
        assert list(models["compact"]) == ["1", "2"]
        for times in models["compact"].values():
            assert list(times) == WAYS
            assert all(len(values) == 2 and min(values) > 0 for values in times.values())
    page = (tmp_path / "README.md").read_text()
    assert "| compact, images | plain | shared out | openvino |" in page
    assert page.count("| 2 | ") == 2


@pytest.mark.slow
def test_a_process_of_its_own_times_one_model(tiny_spec: ModelSpec) -> None:
    order = {"spec": [tiny_spec.name, None], "threads": 1, "sizes": [1], "rounds": 2, "kept": True}
    found = answer_of("benchmarks.passes.measure", json.dumps(order), environment={})
    assert list(found) == ["1"]
    assert list(found["1"]) == WAYS
    assert all(len(times) == 2 and min(times) > 0 for times in found["1"].values())
