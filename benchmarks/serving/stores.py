"""Stores with made-up versions: nothing was learned, but they weigh, load and answer as learned ones do."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F

from benchmarks.serving.plan import CLASSES
from model_store.store import Store
from model_store.types import PreprocessingRecord, Provenance
from segp_cl.config import LearnerConfig
from segp_cl.learn.learner import initial_state
from segp_cl.models.backbone import Backbone
from segp_cl.models.load import load_backbone
from segp_cl.types import LearnedClass, LearnerState, LoraFactors, LoraState, ModelSpec

_ADAPTER_SCALE = 1e-3


def labels(count: int = CLASSES) -> list[str]:
    """The classes' names."""
    return [f"thing number {number}" for number in range(1, count + 1)]


def prompts(count: int = CLASSES) -> list[str]:
    """The sentence of every class."""
    return [f"a photo of a {label}." for label in labels(count)]


def made_up_state(base: Backbone, *, seed: int, adapted: bool, classes: int = CLASSES) -> LearnerState:
    """A state with random prototypes, the covariance of a real one's size and, if `adapted`, adapters in every layer.

    States of different seeds give every image scores that are plainly different.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        text = base.text_features(prompts(classes)).clone()
    spread = torch.randn(base.raw_dim, 32, generator=generator) / base.raw_dim
    return replace(
        initial_state(base),
        classes=tuple(LearnedClass(n, p, 1, 20) for n, p in zip(labels(classes), prompts(classes), strict=True)),
        prototypes=F.normalize(torch.randn(classes, base.raw_dim, generator=generator), dim=-1),
        text_features=text,
        covariance=spread @ spread.T + 1e-4 * torch.eye(base.raw_dim),
        lora=_adapters(base, generator) if adapted else None,
        tasks=1,
    )


def build(root: Path, base: Backbone, *, versions: int, first_adapted: bool, classes: int = CLASSES) -> list[str]:
    """Fill an empty store with a chain of versions, each the parent of the next, and promote the first.

    Args:
        root: of the store.
        base: the base model.
        versions: how many.
        first_adapted: whether the first version has adapters too; without, its towers are the base model's own.
        classes: of every version.

    Returns:
        The versions' ids, oldest first.
    """
    store = Store(root)
    parent: str | None = None
    ids: list[str] = []
    for seed in range(versions):
        state = made_up_state(base, seed=seed, adapted=first_adapted or seed > 0, classes=classes)
        preprocessing = PreprocessingRecord.model_validate(base.preprocessing)
        provenance = Provenance(who="benchmark", reason="made up", preprocessing=preprocessing)
        parent = store.publish(state, parent=parent, provenance=provenance).version_id
        ids.append(parent)
    store.promote(ids[0], expected=None, who="benchmark", reason="the first")
    return ids


def _adapters(base: Backbone, generator: torch.Generator) -> LoraState:
    fresh = base.shared_copy().adapt(LearnerConfig(), None, generator=generator).state()
    factors = {
        key: LoraFactors(a=f.a, b=_ADAPTER_SCALE * torch.randn(f.b.shape, generator=generator))
        for key, f in fresh.factors.items()
    }
    return replace(fresh, factors=factors)


def main() -> None:
    """`python -m benchmarks.serving.stores JSON`: build one store and print its versions' ids as JSON."""
    settings = json.loads(sys.argv[1])
    base = load_backbone(ModelSpec(settings["model"], settings["pretrained"]))
    root = Path(settings["store"])
    ids = build(root, base, versions=settings["versions"], first_adapted=settings["first_adapted"])
    print(json.dumps({"versions": ids}))


if __name__ == "__main__":
    main()
