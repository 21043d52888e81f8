"""Which adapters are the image tower's, and names for what adapters do."""

from __future__ import annotations

import hashlib
from dataclasses import replace

from segp_cl.types import LoraState

_IMAGE = "image."


def image_part(lora: LoraState | None) -> LoraState | None:
    """Return the image tower's adapters; None: it has none."""
    return _part(lora, of_image=True)


def other_part(lora: LoraState | None) -> LoraState | None:
    """Return the adapters of head and text tower; None: they have none."""
    return _part(lora, of_image=False)


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


def _part(lora: LoraState | None, *, of_image: bool) -> LoraState | None:
    if lora is None:
        return None
    factors = {target: each for target, each in lora.factors.items() if target.startswith(_IMAGE) is of_image}
    return replace(lora, factors=factors) if factors else None
