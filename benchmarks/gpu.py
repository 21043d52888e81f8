"""`python -m benchmarks.gpu`: how much of a GPU's speed an update keeps.

For each model the steps of an update (naive LoRA, SeGP-CL) are set beside the bare forward and backward pass of the
same model on the same number of images, in images per second. Weights are random: speed does not ask what was learned.
"""

from __future__ import annotations

import json
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import torch
import typer
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from benchmarks.cost.models import write_open_clip, write_small_vit
from benchmarks.cost.scenes import RandomImages, state_with, task_of
from segp_cl.config import LearnerConfig, StrategyName
from segp_cl.data.image_sets import TensorImages
from segp_cl.learn.learner import learn_task
from segp_cl.losses import task_cross_entropy
from segp_cl.models.backbone import Backbone
from segp_cl.models.load import load_backbone
from segp_cl.pixels import as_unit_pixels
from segp_cl.types import LearnerState, ModelSpec, Progress, Task

MODELS = ("ViT-B-16", "ViT-L-14")
STRATEGIES: tuple[StrategyName, ...] = ("naive", "segp")
OLD_CLASSES, NEW_CLASSES = 90, 10
DTYPE = torch.bfloat16


class Plan(BaseModel):
    """What is measured, and how often. In each round every side takes `steps` steps, the first `drop` not counted."""

    model_config = ConfigDict(frozen=True)

    batch: int = 128
    steps: int = 20
    drop: int = 5
    rounds: int = 3
    compiled: bool = False
    channels_last: bool = False


class Side(BaseModel):
    """The bare model, or a strategy's step. `ratio`: its images per second as a share of the bare model's."""

    model_config = ConfigDict(frozen=True)

    name: str
    images_per_second: float
    step_ms: float
    ratio: float
    peak_mib: int | None


class Figures(BaseModel):
    """One model."""

    model_config = ConfigDict(frozen=True)

    model: str
    sides: tuple[Side, ...]


class _EnoughError(Exception):
    """All steps that are timed are done."""


def measure(spec: ModelSpec, name: str, plan: Plan, device: torch.device) -> Figures:
    """Time all sides of one model, round by round, so that a slow minute does not fall on one of them alone."""
    backbone = load_backbone(spec, device=device)
    if plan.channels_last:
        backbone.use_channels_last()
    if plan.compiled:
        backbone.compile_towers()
    lazy = RandomImages(plan.batch, size=backbone.preprocessing.size, classes=NEW_CLASSES)
    images = TensorImages(lazy.pixels(range(plan.batch)), lazy.labels)  # held: making them is no part of a step
    task, state = task_of(NEW_CLASSES, images), state_with(backbone, OLD_CLASSES)
    takes: dict[str, Callable[[], list[float]]] = {"bare": lambda: bare_steps(backbone, task, plan)}
    for strategy in STRATEGIES:
        takes[strategy] = lambda strategy=strategy: update_steps(backbone, state, task, strategy, plan)  # type: ignore[misc]
    seconds: dict[str, list[float]] = {side: [] for side in takes}
    peaks: dict[str, int | None] = {}
    for _ in range(plan.rounds):
        for side, take in takes.items():
            if device.type == "cuda":
                torch.cuda.reset_peak_memory_stats(device)
            seconds[side] += take()
            peaks[side] = _peak_mib(device)
    bare = median(seconds["bare"])
    sides = (
        Side(
            name=side,
            images_per_second=round(plan.batch / median(taken), 1),
            step_ms=round(1000 * median(taken), 2),
            ratio=round(bare / median(taken), 3),
            peak_mib=peaks[side],
        )
        for side, taken in seconds.items()
    )
    return Figures(model=name, sides=tuple(sides))


def bare_steps(backbone: Backbone, task: Task, plan: Plan) -> list[float]:
    """Seconds of forward and backward passes of images and the new classes' texts, up to the gradients of B.

    Images lie on the device, and no optimizer steps.
    """
    student = backbone.shared_copy()
    adapters = student.adapt(_config(plan, "naive"), None, generator=torch.Generator().manual_seed(0))
    pixels: Tensor = as_unit_pixels(task.images.pixels(range(plan.batch)).to(student.device))
    targets = torch.tensor(task.images.labels, device=student.device)
    prompts = [c.prompt for c in task.classes]

    def step() -> None:
        with student.each_weight_once():
            with torch.autocast(student.device.type, dtype=DTYPE):
                images, texts = student.image_features(pixels), student.text_features(prompts)
            loss = task_cross_entropy(images.float(), texts.float(), targets, logit_scale=student.logit_scale)
            torch.autograd.grad(loss, adapters.trainable)

    taken = []
    for _ in range(plan.steps):
        _synchronise(student.device)
        begun = time.perf_counter()
        step()
        _synchronise(student.device)
        taken.append(time.perf_counter() - begun)
    return taken[plan.drop :]


def update_steps(
    backbone: Backbone, state: LearnerState, task: Task, strategy: StrategyName, plan: Plan
) -> list[float]:
    """Seconds of an update's training steps, with all that belongs to them: from images in memory to the optimizer."""
    ends: list[float] = []

    def on_progress(progress: Progress) -> None:
        if progress.phase != "train":
            return
        _synchronise(backbone.device)
        ends.append(time.perf_counter())
        if progress.step == plan.steps:
            raise _EnoughError

    with suppress(_EnoughError):
        learn_task(
            state,
            task,
            config=_config(plan, strategy),
            generator=torch.Generator().manual_seed(0),
            on_progress=on_progress,
            backbone=backbone,
            dtype=DTYPE,
        )
    return [end - begun for begun, end in pairwise(ends)][max(0, plan.drop - 1) :]


def _config(plan: Plan, strategy: StrategyName) -> LearnerConfig:
    """One pass over the images is one step; anchors are one undriven seed each, as they are made before the steps."""
    return LearnerConfig(
        strategy=strategy, batch_size=plan.batch, epochs=plan.steps, k_seed=1, k_adv=0, fusion_holdout=0.0
    )


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _peak_mib(device: torch.device) -> int | None:
    return round(torch.cuda.max_memory_allocated(device) / 2**20) if device.type == "cuda" else None


def table(figures: list[Figures], plan: Plan, machine: str) -> str:
    """The page: what was measured, and a row for each model and side."""
    options = [name for name, on in (("torch.compile", plan.compiled), ("channels-last", plan.channels_last)) if on]
    lines = [
        "# Updates on a GPU",
        "",
        f"Measured on {machine}: random weights, batch {plan.batch}, {OLD_CLASSES} old and {NEW_CLASSES} new classes, "
        f"bfloat16 autocast{''.join(f', {option}' for option in options)}. `bare` is the forward and backward pass of "
        "the same images and of the new classes' texts; the other rows are whole training steps. Medians of "
        f"{plan.rounds * (plan.steps - plan.drop)} steps.",
        "",
        "| model | side | images/s | step, ms | of bare | peak memory, MiB |",
        "|---|---|---|---|---|---|",
    ]
    for model in figures:
        for side in model.sides:
            memory = "—" if side.peak_mib is None else f"{side.peak_mib:,}"
            lines.append(
                f"| {model.model} | {side.name} | {side.images_per_second:,.1f} | {side.step_ms:.1f} | "
                f"{side.ratio:.2f} | {memory} |"
            )
    return "\n".join(lines) + "\n"


def run(
    out: Annotated[Path, typer.Option(help="The page; the figures go beside it as JSON.")] = Path(
        "docs/results/gpu.md"
    ),
    device: Annotated[str, typer.Option(help="cuda, or cuda:N; cpu only with --quick.")] = "cuda",
    quick: Annotated[bool, typer.Option("--quick", help="A tiny model and two steps, to see that it works.")] = False,
    compile: Annotated[bool, typer.Option("--compile", help="Run the towers through torch.compile.")] = False,
    channels_last: Annotated[bool, typer.Option(help="Images in channels-last layout.")] = False,
) -> None:
    """Measure images per second of updates and of the bare model, and write a table."""
    place = torch.device(device)
    if place.type != "cuda" and not quick:
        raise _refused(f"figures of {device} would say nothing of a GPU: leave --device out, or add --quick")
    if place.type == "cuda" and not torch.cuda.is_available():
        raise _refused("there is no CUDA device here, so there is nothing to measure")
    options: dict[str, Any] = {"compiled": compile, "channels_last": channels_last}
    plan = Plan(batch=10, steps=3, drop=1, rounds=1, **options) if quick else Plan(**options)
    machine = torch.cuda.get_device_name(place) if place.type == "cuda" else f"a CPU ({platform.machine()})"
    figures = []
    with tempfile.TemporaryDirectory(prefix="keepsight-gpu-") as folder:
        for name in ("tiny",) if quick else MODELS:
            spec = write_small_vit(Path(folder)) if quick else write_open_clip(Path(folder), name)
            figures.append(measure(spec, name, plan, place))
    page = table(figures, plan, machine)
    record = {
        "machine": machine,
        "torch": torch.__version__,
        "quick": quick,
        "plan": plan.model_dump(),
        "models": [model.model_dump() for model in figures],
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(page)
    out.with_suffix(".json").write_text(json.dumps(record, indent=1) + "\n")
    sys.stdout.write(page)


def _refused(why: str) -> typer.Exit:
    sys.stderr.write(f"benchmarks.gpu: {why}\n")
    return typer.Exit(1)


if __name__ == "__main__":
    typer.run(run)
