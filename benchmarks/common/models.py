"""open_clip models with random weights, written to a folder: a step takes as long as with trained ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from segp_cl.types import ModelSpec

SMALL_VIT: dict[str, dict[str, Any]] = {
    "model_cfg": {
        "embed_dim": 64,
        "vision_cfg": {"image_size": 32, "layers": 4, "width": 128, "patch_size": 8, "head_width": 32},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2},
    },
    "preprocess_cfg": {"mean": [0.48, 0.46, 0.41], "std": [0.27, 0.26, 0.28]},
}
SMALL_VIT_IN_WORDS = "a ViT of 4 blocks, width 128, 32 px, patches of 8 px, random weights"


def write_open_clip(folder: Path, name: str) -> ModelSpec:
    """Any of open_clip's CLIPs by name, with random weights, as a local checkpoint."""
    import open_clip

    config = open_clip.get_model_config(name)
    assert config is not None, f"open_clip knows {name}"
    path = folder / f"{name.lower().replace('-', '_')}.safetensors"
    _write(config, path)
    return ModelSpec(name, str(path))


def write_small_vit(folder: Path) -> ModelSpec:
    """A CLIP with `SMALL_VIT`'s image tower, as a local folder."""
    target = folder / "small-vit"
    target.mkdir()
    (target / "open_clip_config.json").write_text(json.dumps(SMALL_VIT))
    _write(SMALL_VIT["model_cfg"], target / "open_clip_model.safetensors")
    return ModelSpec(f"local-dir:{target}")


def _write(config: dict[str, Any], path: Path) -> None:
    import open_clip
    from safetensors.torch import save_file

    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        save_file(open_clip.CLIP(**config).state_dict(), path)
