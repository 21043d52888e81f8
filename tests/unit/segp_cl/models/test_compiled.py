"""Compiled towers compute what eager ones do, with and without adapters."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from segp_cl.errors import ModelLoadError
from segp_cl.models.backbone import Backbone
from segp_cl.models.load import load_backbone
from segp_cl.types import ModelSpec
from tests.tolerances import FLOAT32_REORDERED

ROOT = Path(__file__).parents[4]


def compare(model: ModelSpec, backend: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.unit.segp_cl.models.compiled", model.name, backend],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "TORCHINDUCTOR_COMPILE_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    said: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return said


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_compiled_copies_have_the_features_and_gradients_of_eager_ones(tiny_spec: ModelSpec) -> None:
    said = compare(tiny_spec, "aot_eager")
    assert set(said["differences"]) == {"hooks and parametrizations", "hooks", "stages"}
    assert max(said["differences"].values()) < FLOAT32_REORDERED
    assert said["graphs"] > 6
    assert said["same paths"]


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler")
def test_inductor_computes_the_same_features(tiny_spec: ModelSpec) -> None:
    said = compare(tiny_spec, "inductor")
    assert said["differences"]["image features"] < FLOAT32_REORDERED
    assert said["graphs"] == 1


def test_a_torch_that_cannot_keep_copies_apart_is_refused(
    tiny_backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "compile", lambda model, *, backend: model)
    with pytest.raises(ModelLoadError, match="too old to compile"):
        tiny_backbone.compile_towers()
    assert tiny_backbone.shared_copy().image_tower is not tiny_backbone.image_tower  # and nothing was begun


def test_channels_last_changes_the_layout_and_nothing_else(tiny_spec: ModelSpec, tiny_backbone: Backbone) -> None:
    moved = load_backbone(tiny_spec)
    moved.use_channels_last()
    layouts: list[bool] = []
    student = moved.shared_copy()
    for model in (moved, student):
        convolution = model.image_tower.get_submodule("conv1")
        convolution.register_forward_pre_hook(
            lambda module, inputs: layouts.append(
                all(tensor.is_contiguous(memory_format=torch.channels_last) for tensor in (inputs[0], module.weight))
            )
        )
    pixels = torch.rand(3, 3, 32, 32)
    scores = tiny_backbone.image_features(pixels) @ tiny_backbone.text_features(["a cat", "a dog"]).T
    for model in (moved, student):
        assert torch.allclose(
            model.image_features(pixels) @ model.text_features(["a cat", "a dog"]).T, scores, atol=FLOAT32_REORDERED
        )
        assert torch.allclose(model.stem(pixels, 1), tiny_backbone.raw_features(pixels), atol=FLOAT32_REORDERED)
    assert layouts == [True] * 4
