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


def write_vit_b16(folder: Path) -> ModelSpec:
    """ViT-B/16 (224 px) with random weights, as a local checkpoint of 0.6 GB."""
    return write_open_clip(folder, "ViT-B-16")


def write_open_clip(folder: Path, name: str) -> ModelSpec:
    """Any of open_clip's CLIPs by name, with random weights, as a local checkpoint."""
    import open_clip
    from safetensors.torch import save_file

    path = folder / f"{name.lower().replace('-', '_')}.safetensors"
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        config = open_clip.get_model_config(name)
        assert config is not None, f"open_clip knows {name}"
        save_file(open_clip.CLIP(**config).state_dict(), path)
    return ModelSpec(name, str(path))


def write_small_vit(folder: Path) -> ModelSpec:
    """A CLIP with `SMALL_VIT`'s image tower, as a local folder."""
    import open_clip
    from safetensors.torch import save_file

    target = folder / "small-vit"
    target.mkdir()
    (target / "open_clip_config.json").write_text(json.dumps(SMALL_VIT))
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        save_file(open_clip.CLIP(**SMALL_VIT["model_cfg"]).state_dict(), target / "open_clip_model.safetensors")
    return ModelSpec(f"local-dir:{target}")
