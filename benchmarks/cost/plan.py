"""What is measured, in which sizes: the full plan for a quiet machine, the quick one to see that it works."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Final

from benchmarks.cost.jobs import Overrides, Scene, StepsJob, UpdateJob
from segp_cl.types import ModelSpec

BATCH: Final = 128
"""The paper's batch: the one the step ratios are for."""
VIT_MIB: Final = (3500, 181)
"""Memory of a ViT-B/16 step in MiB: in all, and for each picture and anchor in it (measured with 5 to 15 of them)."""
ANCHORS: Final = 32


@dataclass(frozen=True)
class StepsEntry:
    """One model's steps. Where batch 128 does not fit into memory, smaller batches are measured for a line to it."""

    label: str
    title: str
    jobs: tuple[StepsJob, ...]


@dataclass(frozen=True)
class UpdateEntry:
    """One point: the same update `repeats` times, each in a process of its own."""

    label: str
    job: UpdateJob
    repeats: int = 1


@dataclass(frozen=True)
class GrowthPlan:
    """The two axes, each from its smallest point to its largest, and the model of the second in words."""

    old_classes: tuple[UpdateEntry, ...]
    images: tuple[UpdateEntry, ...]
    images_model: str


def threads() -> int:
    """One for each core, as the worker has it by default."""
    return os.cpu_count() or 1


def vit_batches(available_mib: float, *, quick: bool) -> tuple[int, ...]:
    """Batch 128 if it fits, else two smaller ones that do (`quick`: that are done sooner)."""
    if quick:
        return (10, 20)
    needed = VIT_MIB[0] + VIT_MIB[1] * (BATCH + ANCHORS)
    return (BATCH,) if available_mib > 1.05 * needed else (10, 48)


def steps_plan(vit: ModelSpec, *, available_mib: float, quick: bool = False) -> tuple[StepsEntry, ...]:
    """The compact model, and ViT-B/16 from the checkpoint `vit`; 10 new classes on top of 90.

    DPGD makes no sign step here: anchors are the seeds as they are, since it lies outside the step. ViT-B/16 has one
    seed per old class, which is outside it as well.
    """
    rounds, steps, vit_rounds = (2, 5, 1) if quick else (4, 12, 2)
    compact = StepsJob(
        scene=Scene(label="compact", images=BATCH, threads=threads()),
        config={"batch_size": BATCH, "k_adv": 0},
        steps=steps,
        drop=2,
        rounds=rounds,
    )
    vits = tuple(
        StepsJob(
            scene=Scene(label="vit_b16", model=vit.name, pretrained=vit.pretrained, images=batch, threads=threads()),
            config={"batch_size": batch, "k_adv": 0, "k_seed": 1},
            steps=3,
            drop=1,
            rounds=vit_rounds,
        )
        for batch in vit_batches(available_mib, quick=quick)
    )
    return StepsEntry("compact", "compact", (compact,)), StepsEntry("vit_b16", "ViT-B/16", vits)


def dpgd_plan(*, quick: bool = False) -> tuple[UpdateEntry, ...]:
    """Compact, 10 new classes on top of 90: 20 pictures a class, and the paper's 500."""

    def entry(label: str, per_class: int, repeats: int, config: Overrides) -> UpdateEntry:
        scene = Scene(label="compact", images=10 * per_class, threads=threads())
        return UpdateEntry(label, UpdateJob(scene=scene, config=config), repeats)

    return (
        entry("images_20_old_90", 20, 1 if quick else 3, {}),
        entry("paper_size", 500, 1, {"epochs": 1} if quick else {}),
    )


def growth_plan(small: ModelSpec, small_in_words: str, *, quick: bool = False) -> GrowthPlan:
    """10 to 1,000 old classes with compact; 1,000 to 100,000 pictures with the small model, in one epoch."""

    def old(classes: int, repeats: int) -> UpdateEntry:
        scene = Scene(label="compact", old_classes=classes, images=200 if quick else 1000, threads=threads())
        config: Overrides = {"epochs": 1} if quick else {}
        return UpdateEntry(str(classes), UpdateJob(scene=scene, config=config), repeats)

    def images(count: int, repeats: int) -> UpdateEntry:
        scene = Scene(
            label="small_vit",
            model=small.name,
            pretrained=small.pretrained,
            old_classes=10,
            images=count,
            threads=threads(),
        )
        return UpdateEntry(str(count), UpdateJob(scene=scene, config={"epochs": 1}), repeats)

    repeats = 1 if quick else 3
    return GrowthPlan(
        old_classes=(old(10, min(2, repeats)), old(100, min(2, repeats)), old(1000, 1)),
        images=(images(1000, repeats), images(10_000, repeats), images(20_000 if quick else 100_000, 1)),
        images_model=small_in_words,
    )
