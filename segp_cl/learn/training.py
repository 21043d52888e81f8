"""The parts that all strategies share: the session of one update, feature passes over images, the training loop."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from segp_cl.config import ResolvedConfig
from segp_cl.data.stem import StemInputs
from segp_cl.learn.distributed import Ranks, StepLosses
from segp_cl.models.backbone import Backbone
from segp_cl.models.lora import Adapters
from segp_cl.statistics import ClassSums
from segp_cl.types import (
    HEAD,
    Calibration,
    Familiarity,
    FeatureSource,
    HeldOutSummary,
    LearnerState,
    LoraState,
    OnProgress,
    Progress,
    Task,
    TaskClass,
)


@dataclass
class Reporter:
    """Records wall seconds by phase and losses by epoch, and passes progress on to the caller."""

    on_progress: OnProgress | None
    seconds: dict[str, float] = field(default_factory=dict)
    losses: list[dict[str, float]] = field(default_factory=list)
    steps: int = 0

    def __call__(self, progress: Progress) -> None:
        if self.on_progress is not None:
            self.on_progress(progress)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        start = time.monotonic()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.monotonic() - start


@dataclass(frozen=True)
class Session:
    """One running update: the base model, a copy of it to train, the state before, the task to learn.

    `seen` lists all classes, the old ones first and in their old order; `task_rows` are the rows of the task's own
    classes in it, in the order of the task's labels. `held_out` are positions of images that are not trained on.
    `chooses_fusion_weight` says that β is not set, and what the configuration has is its limit.
    """

    base: Backbone
    model: Backbone
    old: LearnerState
    task: Task
    seen: tuple[TaskClass, ...]
    task_rows: tuple[int, ...]
    config: ResolvedConfig
    generator: torch.Generator
    dtype: torch.dtype
    report: Reporter
    folder: Path | None = None
    held_out: tuple[int, ...] = ()
    chooses_fusion_weight: bool = False
    ranks: Ranks = field(default_factory=Ranks.current)

    @property
    def trained_on(self) -> list[int]:
        """Positions of the images that are trained on."""
        held_out = set(self.held_out)
        return [position for position in range(len(self.task.images.labels)) if position not in held_out]

    @cached_property
    def log_prior(self) -> Float[Tensor, " task"] | None:
        """log of each class's share of the images that are trained on; None if all have equally many."""
        labels = torch.tensor(self.task.images.labels)[self.trained_on]
        counts = torch.bincount(labels, minlength=len(self.task.classes))
        if bool((counts == counts[0]).all()):
            return None
        return (counts / counts.sum()).log().to(self.device)

    @property
    def moves_statistics(self) -> bool:
        """Whether the image tower is trained, and prototypes of old classes are to move with it (29)."""
        return self.config.transfer_prototypes and self.config.image_rate > 0

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def prompts(self) -> list[str]:
        return [c.prompt for c in self.seen]

    def adapt(self) -> Adapters:
        """Attach the old adapters, or fresh ones, to the model for training."""
        return self.model.adapt(self.config, self.old.lora, generator=self.generator)

    @contextmanager
    def autocast(self) -> Iterator[None]:
        with torch.autocast(self.device.type, dtype=self.dtype, enabled=self.dtype != torch.float32):
            yield

    def text_features(self, prompts: Sequence[str]) -> Float[Tensor, "prompts joint"]:
        with self.autocast():
            features = self.model.text_features(prompts)
        return features.float()

    def inputs(self, adapters: Adapters | None) -> Inputs:
        """Run the task's images through the frozen stem; return its activations and the part that `adapters` change."""
        images = self.task.images
        known = images if adapters is None and isinstance(images, FeatureSource) else None
        inputs = Inputs(self, 0 if adapters is None else self.model.frozen_stages(adapters), known)
        if inputs.stages:
            with self.report.phase("stem"):
                inputs.pass_stem()
        return inputs

    @torch.no_grad()
    def final_text_features(self) -> Float[Tensor, "seen joint"]:
        """Encode u_c of all seen classes with the current weights, on the CPU; these features are then served."""
        with self.model.each_weight_once():
            return self.text_features(self.prompts).cpu()


class Inputs:
    """The image tower in two parts: the frozen stem's activations for the task's images, and the layers after it.

    Where the tower does not change and somebody `known` has the images' raw features, it is not run.
    """

    def __init__(self, session: Session, stages: int, known: FeatureSource | None = None) -> None:
        self._session, self.stages, self._known = session, stages, known
        self.stream = StemInputs(
            session.task.images, self.stem if stages else None, device=session.device, folder=session.folder
        )

    def pass_stem(self) -> None:
        """Run every image through the stem once, before the strategy uses any."""
        count, size = len(self.stream.labels), self._session.config.feature_batch_size
        starts = range(0, count, size)
        for step, start in enumerate(starts, start=1):
            self.stream.batch(range(start, min(start + size, count)))
            self._session.report(Progress("stem", step, len(starts)))

    def stem(self, pixels: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch ..."]:
        """Compute the input of the first adapted layer for pixels in [0, 1]."""
        with self._session.autocast():
            return self._session.model.stem(pixels, self.stages).float()

    def features_at(self, positions: Sequence[int]) -> Float[Tensor, "batch raw"]:
        """Return r(x) of the task's images at `positions`."""
        if self._known is not None:
            return self._known.raw_features(positions).to(self._session.device)
        return self.raw_features(self.stream.batch(positions))

    def raw_features(self, inputs: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch raw"]:
        """Compute r(x) of a batch from `stream` or `stem`."""
        with self._session.autocast():
            return self._session.model.raw_from_stem(inputs, self.stages).float()


@dataclass(frozen=True)
class Outcome:
    """The result of a strategy: the parts of the new state."""

    lora: LoraState | None
    sums: ClassSums
    text_features: Float[Tensor, "seen joint"]
    fusion_weight: float
    calibration: Calibration | None = None
    familiarity: Familiarity | None = None
    held_out: HeldOutSummary | None = None
    anchors: int = 0
    misaligned: float | None = None


Losses = dict[str, Tensor]


def train(
    session: Session,
    adapters: Adapters,
    inputs: Inputs,
    step_losses: StepLosses,
    *,
    after_step: Callable[[int], None] | None = None,
) -> None:
    """Train on the task's images for all epochs, by the gradient of the `total` of `step_losses`.

    Only the adapters' B is trained. The learning rate decays to zero on a cosine over all steps. Several processes
    share every batch (see `segp_cl.learn.distributed`). `after_step` is called with each step's number, from 1, once
    its update is made.
    """
    config, labels = session.config, torch.tensor(session.task.images.labels)
    trained_on = torch.tensor(session.trained_on)
    count = len(trained_on)
    per_epoch = math.ceil(count / config.batch_size)
    steps = per_epoch * config.epochs
    optimizer = _optimizer(config, adapters)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    step, ranks = 0, session.ranks
    ranks.agree(session.task.images.labels, session.generator)
    losses_of = ranks.together(step_losses, adapters.trainable)
    for _ in range(config.epochs):
        sums: dict[str, float] = {}
        for indices in torch.split(trained_on[torch.randperm(count, generator=session.generator)], config.batch_size):
            share = ranks.share(indices)
            batch = inputs.stream.batch(share.items.tolist())
            targets = labels[share.items].to(session.device)
            with session.model.each_weight_once():
                losses = losses_of(batch, targets, share.weight)
                optimizer.zero_grad(set_to_none=True)
                if losses["total"].requires_grad:
                    losses["total"].backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            step += 1
            if after_step is not None:
                after_step(step)
            values = ranks.values(losses)
            sums = {name: sums.get(name, 0.0) + value for name, value in values.items()}
            session.report(Progress("train", step, steps, values))
        session.report.losses.append({name: total / per_epoch for name, total in sums.items()})
    session.report.steps += step


def _optimizer(config: ResolvedConfig, adapters: Adapters) -> torch.optim.Optimizer:
    groups = [
        {"params": [*adapters.trainable_of("text"), *adapters.trainable_of(HEAD)], "lr": config.learning_rate},
        {"params": adapters.trainable_of("image"), "lr": config.learning_rate * config.image_rate},
    ]
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, momentum=config.momentum, weight_decay=config.weight_decay)
    return torch.optim.Adam(groups, weight_decay=config.weight_decay)
