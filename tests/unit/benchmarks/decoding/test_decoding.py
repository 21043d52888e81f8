"""The decoding benchmark: what it cuts, what it counts, and a small run from photos to page."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from benchmarks.decoding import __main__ as program
from benchmarks.decoding import measure
from segp_cl.models.backbone import Backbone


def photo(width: int, height: int, seed: int) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 256, (9, 9, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    photo(420, 330, 0).save(folder / "large.png")
    (folder / "notes.txt").write_text("no picture")
    with tarfile.open(folder / "small.tar", "w") as archive:
        for seed in range(3):
            buffer = io.BytesIO()
            photo(60, 50, seed).save(buffer, "JPEG")
            member = tarfile.TarInfo(f"{seed}.jpg")
            member.size = len(buffer.getvalue())
            buffer.seek(0)
            archive.addfile(member, buffer)
    return folder


def test_crops_are_of_the_sizes_that_are_promised_and_repeat() -> None:
    photos = [photo(1500, 1450, 0), photo(320, 400, 1)]
    made = measure.crops(photos, 6)
    assert made == measure.crops(photos, 6)
    sizes = [Image.open(io.BytesIO(data)).size for data in made]
    assert all(300 <= max(size) <= 1400 for size in sizes)
    assert len(set(sizes)) > 3
    enlarged = [Image.open(io.BytesIO(data)).size for data in measure.crops(photos, 2, enlarged=True)]
    assert all(min(size) >= 2556 and size[0] % 8 == size[1] % 8 == 0 for size in enlarged)


def test_agreement_by_hand() -> None:
    texts = torch.eye(2)
    reference = torch.tensor([[0.8, 0.6], [0.6, 0.8]])
    other = torch.tensor([[0.6, 0.8], [0.6, 0.8]])
    found = measure.agreement((reference, reference), (reference, other), texts)
    assert found["raw"] == {"min": 1.0, "p1": 1.0, "median": 1.0}
    assert found["joint"]["min"] == pytest.approx(0.96)
    assert (found["changed"], found["margin"]) == (1, pytest.approx(0.2))


def test_a_run_writes_a_page_and_its_figures(
    folder: Path, tmp_path: Path, tiny_backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(program, "load_backbone", lambda spec: tiny_backbone)
    monkeypatch.setattr(program, "SIDES", (64, 600))
    monkeypatch.setattr(torch, "set_num_threads", lambda threads: None)
    out = tmp_path / "out"
    options = ["--data", str(folder), "--out", str(out), "--images", "3", "--rounds", "1"]
    result = CliRunner().invoke(program.app, options)
    assert result.exit_code == 0, result.output
    record = json.loads((out / "summary.json").read_text())
    assert [ways["fast"]["images"] for ways in record["agreement"].values()] == [3, 3, 1]
    assert [row["width"] for row in record["speed"]] == [64, 600]
    assert record["threads"]["fast"].keys() == {"1", "2", "4"}
    rows = [line for line in (out / "README.md").read_text().splitlines() if "| spare 2 |" in line]
    assert len(rows) == 3 + 1  # three sets, and the head of the table of times


def test_a_folder_without_photos_is_refused(tmp_path: Path) -> None:
    result = CliRunner().invoke(program.app, ["--data", str(tmp_path), "--out", str(tmp_path / "out")])
    assert result.exit_code == 2
    assert "0 photos" in result.stderr
    missing = CliRunner().invoke(program.app, ["--data", str(tmp_path / "photos"), "--out", str(tmp_path / "out")])
    assert missing.exit_code == 2
    assert "there is no folder" in missing.stderr
    assert not (tmp_path / "out").exists()
