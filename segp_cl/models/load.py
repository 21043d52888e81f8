"""Loads base models by name."""

from __future__ import annotations

from pathlib import Path

import torch

from segp_cl.errors import ModelLoadError
from segp_cl.models.backbone import Backbone
from segp_cl.types import ModelSpec


def load_backbone(spec: ModelSpec, *, device: str | torch.device = "cpu") -> Backbone:
    """Load a base model by name: `compact` from installed packages, anything else through open_clip.

    Raises:
        ModelLoadError: unknown name, unreachable or altered weights.
        UnsupportedArchitectureError: a tower of the model is of an unknown kind.
    """
    if spec.name == "compact":
        if spec.pretrained:
            raise ModelLoadError(
                f"compact carries its own weights: leave the pretrained setting empty (got {spec.pretrained!r})"
            )
        from segp_cl.models.compact import load_compact

        backbone = load_compact()
    else:
        path = spec.pretrained
        if path and ("/" in path or path.endswith((".pt", ".pth", ".bin", ".safetensors"))) and not Path(path).exists():
            raise ModelLoadError(f"there is no checkpoint file {path}")
        from segp_cl.models.clip import load_clip

        backbone = load_clip(spec)
    return backbone.to(device)
