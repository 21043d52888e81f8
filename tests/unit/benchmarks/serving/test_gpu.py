"""The server on a GPU, measured without one: its quick way, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from benchmarks.serving.__main__ import app


@pytest.mark.slow
def test_the_quick_way_measures_a_server_and_writes_it_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for number in range(3):
        noise = torch.randint(0, 256, (90, 120, 3), dtype=torch.uint8).numpy()
        (tmp_path / "photos").mkdir(exist_ok=True)
        Image.fromarray(noise).save(tmp_path / "photos" / f"{number}.jpg")
    out = tmp_path / "out"
    options = ["--gpu", "--quick", "--out", str(out), "--work", str(tmp_path), "--data", str(tmp_path / "photos")]
    result = CliRunner().invoke(app, options)
    assert result.exit_code == 0, result.output
    record = json.loads((out / "serving.json").read_text())
    found = record["models"]["small"]
    assert set(found["bare_per_s"]) == {"1", "8"}
    (row,) = found["servers"]
    for kind in ("decoded", "jpeg", "half_load"):
        assert row[kind]["images_per_s"] > 0
        assert row[kind]["failed"] == 0
    assert row["half_load"]["images_per_s"] < row["decoded"]["images_per_s"]
    assert (row["swaps"]["swaps"], row["swaps"]["failed"], row["swaps"]["refused"]) == (4, 0, [])
    assert "| small | 1 |" in (out / "serving.md").read_text()


def test_without_a_gpu_one_sentence_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    result = CliRunner().invoke(app, ["--gpu", "--out", str(tmp_path / "out"), "--work", str(tmp_path)])
    assert result.exit_code == 1
    assert "there is no CUDA device here" in result.stderr
    assert not (tmp_path / "out").exists()
