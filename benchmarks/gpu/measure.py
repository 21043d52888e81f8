"""Training steps of an update and bare passes of the same model, timed in turn."""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import pairwise
from statistics import median

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.common.scenes import RandomImages, state_with, take_steps, task_of
from segp_cl.config import LearnerConfig, StrategyName
from segp_cl.data.image_sets import TensorImages
from segp_cl.losses import task_cross_entropy
from segp_cl.models.backbone import Backbone
from segp_cl.models.load import load_backbone
from segp_cl.pixels import as_unit_pixels
from segp_cl.types import LearnerState, ModelSpec, Task

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
    """One model.

    Attributes:
        model: Its name.
        sides: Bare and by strategy.
        tflop_per_step: What the bare step's matrix products and convolutions come to, counted by PyTorch.
        product_tflops: Of a product of two large bfloat16 matrices, the card's ceiling; None on a CPU.
        flops_share: The bare step's rate as a share of that ceiling.
    """

    model_config = ConfigDict(frozen=True)

    model: str
    sides: tuple[Side, ...]
    tflop_per_step: float
    product_tflops: float | None
    flops_share: float | None

    def over(self, side: str, other: str) -> float:
        """A side's seconds for a step over another's."""
        of = {each.name: each.step_ms for each in self.sides}
        return round(of[side] / of[other], 3)


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
    tflop = bare_tflop(backbone, task, plan)
    ceiling = product_tflops(device) if device.type == "cuda" else None
    return Figures(
        model=name,
        sides=tuple(sides),
        tflop_per_step=round(tflop, 4),
        product_tflops=None if ceiling is None else round(ceiling, 1),
        flops_share=None if ceiling is None else round(tflop / bare / ceiling, 3),
    )


def product_tflops(device: torch.device, *, size: int = 8192, products: int = 10) -> float:
    """TFLOP/s of a product of two random bfloat16 matrices of `size` rows and columns: the median of 5 rounds."""
    a, b = (torch.randn(size, size, device=device, dtype=DTYPE) for _ in range(2))
    taken = []
    for _ in range(6):
        _synchronise(device)
        begun = time.perf_counter()
        for _ in range(products):
            a @ b
        _synchronise(device)
        taken.append((time.perf_counter() - begun) / products)
    return float(2 * size**3 / median(taken[1:]) / 1e12)


def bare_tflop(backbone: Backbone, task: Task, plan: Plan) -> float:
    """10^12 floating-point operations of one bare step, forward and backward."""
    with FlopCounterMode(display=False) as counter:
        bare_steps(backbone, task, plan.model_copy(update={"steps": 1, "drop": 0}))
    return float(counter.get_total_flops()) / 1e12


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

    def on_step(_: int) -> None:
        _synchronise(backbone.device)
        ends.append(time.perf_counter())

    take_steps(backbone, state, task, _config(plan, strategy), steps=plan.steps, on_step=on_step, dtype=DTYPE)
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
