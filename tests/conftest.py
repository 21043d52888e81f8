"""Fixtures that several areas share: a tiny real CLIP on disk, and a real Redis-compatible server."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# tests leave nothing in the user's own cache, and convert each base model once
os.environ["KEEPSIGHT_ENGINE_CACHE"] = str(Path(__file__).parents[1] / ".pytest_cache" / "engines")

import pytest
import torch
from hypothesis import HealthCheck
from hypothesis import settings as examples
from jaxtyping import install_import_hook

install_import_hook("segp_cl", "beartype.beartype")

from segp_cl.models.backbone import Backbone  # noqa: E402 - after the hook, so that shapes are checked
from segp_cl.models.load import load_backbone  # noqa: E402 - after the hook, so that shapes are checked
from segp_cl.types import ModelSpec  # noqa: E402
from tests.valkey import a_valkey  # noqa: E402

torch.set_num_threads(1)

# the same examples on every machine, however slow; `--hypothesis-profile search` looks for others
_NO_CLOCK = [HealthCheck.too_slow]
examples.register_profile("fixed", derandomize=True, deadline=None, suppress_health_check=_NO_CLOCK)
examples.register_profile("search", max_examples=3000, deadline=None, suppress_health_check=_NO_CLOCK)
examples.load_profile("fixed")

TINY_CLIP: dict[str, dict[str, Any]] = {
    "model_cfg": {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "patch_size": 8, "head_width": 16},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
    },
    "preprocess_cfg": {"mean": [0.48, 0.46, 0.41], "std": [0.27, 0.26, 0.28]},
}


@pytest.fixture(autouse=True)
def _same_numbers_every_time() -> None:
    """What a test draws without a generator of its own does not differ from run to run."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def tiny_spec(tmp_path_factory: pytest.TempPathFactory) -> ModelSpec:
    return tiny_clip(tmp_path_factory.mktemp("tiny-clip"))


def tiny_clip(folder: Path) -> ModelSpec:
    """Write a CLIP with random weights and open_clip's own layers, small enough to learn a task in a second."""
    import open_clip
    from safetensors.torch import save_file

    (folder / "open_clip_config.json").write_text(json.dumps(TINY_CLIP))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = open_clip.CLIP(**TINY_CLIP["model_cfg"])
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    return ModelSpec(f"local-dir:{folder}")


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a Redis-compatible server that this test session owns."""
    with a_valkey(tmp_path_factory.mktemp("valkey")) as server:
        yield f"redis://127.0.0.1:{server.port}/0"


@pytest.fixture(scope="session")
def tiny_backbone(tiny_spec: ModelSpec) -> Backbone:
    return load_backbone(tiny_spec)
