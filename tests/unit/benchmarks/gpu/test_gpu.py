"""The GPU benchmark without a GPU: its quick way on a tiny model, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from benchmarks.gpu.__main__ import app


def test_the_quick_way_writes_a_table_and_its_figures(tmp_path: Path) -> None:
    out = tmp_path / "results" / "gpu.md"
    result = CliRunner().invoke(app, ["--device", "cpu", "--quick", "--channels-last", "--out", str(out)])
    assert result.exit_code == 0, result.output
    record = json.loads(out.with_suffix(".json").read_text())
    assert record["quick"]
    assert record["plan"]["channels_last"]
    (model,) = record["models"]
    assert [side["name"] for side in model["sides"]] == ["bare", "naive", "segp"]
    assert model["sides"][0]["ratio"] == 1
    for side in model["sides"]:
        assert side["images_per_second"] > 0
        assert side["peak_mib"] is None
    rows = [line for line in out.read_text().splitlines() if line.startswith("| tiny |")]
    assert len(rows) == 3 + 1 + 1, "three sides, their arithmetic, and one update"
    assert model["tflop_per_step"] > 0
    assert model["product_tflops"] is None
    (update,) = record["updates"]
    assert update["images"] == 40
    assert update["anchors"] == 100
    assert 0 < update["share_of_dpgd"] < 1
    assert sum(update["phases"].values()) <= update["seconds"] + 0.1
    assert "channels-last" in out.read_text()
    assert out.read_text() in result.output


@pytest.mark.parametrize(
    ("options", "why"),
    [([], "there is no CUDA device here"), (["--quick"], "there is no CUDA device"), (["--device", "cpu"], "--quick")],
)
def test_without_a_gpu_one_sentence_says_so_and_nothing_is_written(
    options: list[str], why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    result = CliRunner().invoke(app, [*options, "--out", str(tmp_path / "gpu.md")])
    assert result.exit_code == 1
    assert why in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []
