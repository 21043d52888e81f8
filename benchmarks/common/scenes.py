"""Pictures, classes and states made up from a seed, and the steps of an update on them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from segp_cl.config import LearnerConfig
from segp_cl.learn.learner import initial_state, learn_task
from segp_cl.models.backbone import Backbone
from segp_cl.prompts import as_prompt
from segp_cl.types import ImageSource, LearnedClass, LearnerState, Progress, Task, TaskClass

TEMPLATE = "a photo of a {}."


class RandomImages:
    """An `ImageSource` of noise. Picture i follows from `seed` and i alone, and is made when it is asked for.

    Labels go round, so that every one of `classes` has `count / classes` pictures of `size` pixels a side.
    """

    def __init__(self, count: int, *, size: int, classes: int, seed: int = 0) -> None:
        self.labels = tuple(i % classes for i in range(count))
        self._size, self._seed = size, seed

    def pixels(self, indices: Sequence[int]) -> UInt8[Tensor, "batch 3 height width"]:
        """The pictures at `indices`, in that order."""
        values = 3 * self._size**2
        batch = np.empty((len(indices), values), dtype=np.uint8)
        for row, index in enumerate(indices):
            noise = np.random.default_rng((self._seed, index)).bytes(values)
            batch[row] = np.frombuffer(noise, dtype=np.uint8)
        return torch.from_numpy(batch).view(-1, 3, self._size, self._size)


def state_with(backbone: Backbone, classes: int, *, seed: int = 0) -> LearnerState:
    """A state that knows `classes` classes, with random unit vectors as their features and no adapters yet.

    The next task starts from fresh adapters, which cost as much as trained ones.
    """
    generator = torch.Generator().manual_seed(seed)

    def directions(dimension: int) -> Float[Tensor, "classes dimension"]:
        return F.normalize(torch.randn(classes, dimension, generator=generator), dim=-1)

    names = [f"spotted bird {i}" for i in range(classes)]
    return replace(
        initial_state(backbone),
        classes=tuple(LearnedClass(name, as_prompt(TEMPLATE, name), 1, 20) for name in names),
        prototypes=directions(backbone.raw_dim),
        text_features=directions(backbone.joint_dim),
        tasks=1,
        covariance=torch.eye(backbone.raw_dim) * 0.4 / backbone.raw_dim,
    )


def task_of(classes: int, images: ImageSource) -> Task:
    """A task of `classes` classes that `state_with` does not know."""
    names = [f"striped fish {i}" for i in range(classes)]
    return Task("cost", tuple(TaskClass(name, as_prompt(TEMPLATE, name)) for name in names), images)


class _EnoughError(Exception):
    """The last step that is wanted is done: what follows it in an update is of no interest."""


def take_steps(
    backbone: Backbone,
    state: LearnerState,
    task: Task,
    config: LearnerConfig,
    *,
    steps: int,
    on_step: Callable[[int], None],
    dtype: torch.dtype = torch.float32,
) -> None:
    """Learn `task` until `steps` training steps are done; `on_step` is called with each one's number, from 1.

    Raises:
        RuntimeError: the update has fewer steps.
    """

    def on_progress(progress: Progress) -> None:
        if progress.phase == "train":
            on_step(progress.step)
            if progress.step == steps:
                raise _EnoughError

    generator = torch.Generator().manual_seed(0)
    try:
        learn_task(
            state, task, config=config, generator=generator, on_progress=on_progress, backbone=backbone, dtype=dtype
        )
    except _EnoughError:
        return
    raise RuntimeError(f"the update ended before its step {steps}")
