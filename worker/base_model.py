"""The base model of this process: loaded once, for every order that it gets."""

from __future__ import annotations

from functools import lru_cache

from segp_cl.models.backbone import Backbone
from segp_cl.models.load import load_backbone
from segp_cl.types import ModelSpec


@lru_cache(maxsize=1)
def base_model(spec: ModelSpec, device: str) -> Backbone:
    """Return the base model on a device. Whoever changes weights takes a copy (`shared_copy`, `with_lora`)."""
    return load_backbone(spec, device=device)
