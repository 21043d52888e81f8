"""States that the store's contract tests publish."""

from __future__ import annotations

import torch

from segp_cl.types import LearnedClass, LearnerState, ModelSpec


def learned(classes: int) -> LearnerState:
    """A small state of that many classes, without adapters."""
    return LearnerState(
        model=ModelSpec("compact"),
        weights_digest="a" * 64,
        classes=tuple(LearnedClass(f"c{n}", f"a photo of a c{n}.", 1, 20) for n in range(classes)),
        prototypes=torch.ones(classes, 8),
        text_features=torch.ones(classes, 4),
        lora=None,
        fusion_weight=2.5,
        tasks=1 if classes else 0,
    )
