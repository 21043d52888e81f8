"""A whole update on a GPU: seconds by phase, the share of DPGD, and peak memory."""

from __future__ import annotations

import time
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict

from benchmarks.common.scenes import RandomImages, state_with, task_of
from segp_cl.config import LearnerConfig
from segp_cl.data.image_sets import TensorImages
from segp_cl.learn.learner import learn_task
from segp_cl.models.load import load_backbone
from segp_cl.types import ModelSpec

OLD_CLASSES, NEW_CLASSES = 100, 10


class UpdatePlan(BaseModel):
    """What is learned. `settings` are hyper-parameters."""

    model_config = ConfigDict(frozen=True)

    name: str
    images: int = 5000
    settings: dict[str, Any] = {}


class Update(BaseModel):
    """One update. `share_of_dpgd`: of all seconds, those of the phase that makes the anchors."""

    model_config = ConfigDict(frozen=True)

    model: str
    name: str
    images: int
    steps: int
    anchors: int
    seconds: float
    phases: dict[str, float]
    share_of_dpgd: float
    peak_mib: int | None


PLANS = (UpdatePlan(name="default"), UpdatePlan(name="paper", settings={"preset": "paper"}))
QUICK_PLANS = (UpdatePlan(name="default", images=40, settings={"epochs": 1}),)


def measure_update(spec: ModelSpec, name: str, plan: UpdatePlan, device: torch.device, dtype: torch.dtype) -> Update:
    """Learn a task of random pictures, held in memory, on top of made-up old classes."""
    backbone = load_backbone(spec, device=device)
    lazy = RandomImages(plan.images, size=backbone.preprocessing.size, classes=NEW_CLASSES)
    task = task_of(NEW_CLASSES, TensorImages(lazy.pixels(range(plan.images)), lazy.labels))
    state = state_with(backbone, OLD_CLASSES)
    on_gpu = device.type == "cuda"
    if on_gpu:
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
    begun = time.perf_counter()
    report = learn_task(
        state,
        task,
        config=LearnerConfig(**plan.settings),
        generator=torch.Generator().manual_seed(0),
        backbone=backbone,
        dtype=dtype,
    ).report
    if on_gpu:
        torch.cuda.synchronize(device)
    seconds = time.perf_counter() - begun
    return Update(
        model=name,
        name=plan.name,
        images=plan.images,
        steps=report.steps,
        anchors=report.anchors,
        seconds=round(seconds, 2),
        phases={phase: round(value, 2) for phase, value in report.seconds.items()},
        share_of_dpgd=round(report.seconds.get("anchors", 0.0) / seconds, 3),
        peak_mib=round(torch.cuda.max_memory_allocated(device) / 2**20) if on_gpu else None,
    )
