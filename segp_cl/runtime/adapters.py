"""Which adapters are the image tower's, and names for what adapters do."""

from __future__ import annotations

import hashlib
from dataclasses import replace

from segp_cl.types import HEAD, LoraState


def image_part(lora: LoraState | None) -> LoraState | None:
    """Return the image tower's adapters; None: it has none."""
    return _part(lora, "image")


def head_part(lora: LoraState | None) -> LoraState | None:
    """Return the head's adapters; None: it has none."""
    return _part(lora, HEAD)


def text_part(lora: LoraState | None) -> LoraState | None:
    """Return the text tower's adapters; None: it has none."""
    return _part(lora, "text")


def digest_of(lora: LoraState | None, *, of: str = "") -> str:
    """Return the SHA-256 of `of` and of what the adapters do (scale, targets, factors), in hex digits."""
    digest = hashlib.sha256(of.encode())
    if lora is not None:
        digest.update(repr(lora.scale).encode())
        for target, factors in sorted(lora.factors.items()):
            digest.update(target.encode())
            for factor in (factors.a, factors.b):
                digest.update(factor.contiguous().numpy().tobytes())
    return digest.hexdigest()


def _part(lora: LoraState | None, tower: str) -> LoraState | None:
    if lora is None:
        return None
    factors = {target: each for target, each in lora.factors.items() if target.startswith(f"{tower}.")}
    return replace(lora, factors=factors) if factors else None
