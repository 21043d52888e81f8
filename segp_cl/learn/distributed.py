"""One update by several processes: each takes a share of every batch, and their gradients are averaged.

All processes of the group call `learn_task` with the same state, task and configuration, and with their own generator
of the same seed. They divide the images and anchors of a step, so memory and time of the image tower fall with the
number of processes; every process makes all texts, anchors and prototypes itself, without communication. On equal
hardware they agree; where a GPU rounds differently from run to run, use the state of the first process. An update that
ends early in one process (an error, a cancelled job) leaves the others waiting: end them all.

Without a group, or with one process in it, this module has no effect.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from segp_cl.errors import InvalidTaskError

StepLosses = Callable[[Float[Tensor, "batch ..."], Int64[Tensor, " batch"], float], dict[str, Tensor]]
"""Computes a step's losses from inputs, targets, and the weight of means over them (`Share.weight`)."""


@dataclass(frozen=True)
class Share:
    """One process's share of the items of a step.

    `weight` is the factor for a mean over `items`: averaged over all processes, weight * mean is the mean over all
    items of the step, even if shares differ in size.
    """

    items: Int64[Tensor, " some"]
    weight: float


@dataclass(frozen=True)
class Ranks:
    """The group of processes that do an update, and this one's rank in it."""

    rank: int = 0
    size: int = 1

    @classmethod
    def current(cls) -> Ranks:
        """Return the group that torch.distributed was initialised with; a single process if it was not."""
        if not (dist.is_available() and dist.is_initialized()):
            return cls()
        return cls(dist.get_rank(), dist.get_world_size())

    @property
    def first(self) -> bool:
        """Whether this process has rank 0."""
        return self.rank == 0

    def wait(self) -> None:
        """Wait until every process has called this."""
        if self.size > 1:
            dist.barrier()

    def share(self, items: Int64[Tensor, " all"]) -> Share:
        """Return this process's share of `items`, in their order.

        A process whose share is empty takes the first item at weight 0, so that no layer gets an empty batch and every
        adapter has a gradient in every process.
        """
        if self.size == 1:
            return Share(items, 1.0)
        mine = torch.tensor_split(items, self.size)[self.rank]
        if len(mine) == 0:
            return Share(items[:1], 0.0)
        return Share(mine, self.size * len(mine) / len(items))

    def together(self, step: StepLosses, trained: Sequence[nn.Parameter]) -> StepLosses:
        """Wrap `step`, so that every process has the gradient of the whole batch after the backward pass."""
        # every step uses every adapted layer, so no search for unused parameters is needed
        return step if self.size == 1 else DistributedDataParallel(_Step(step, trained))

    def values(self, losses: Mapping[str, Tensor]) -> dict[str, float]:
        """Return the losses of the whole batch as numbers."""
        if self.size == 1:
            return {name: loss.item() for name, loss in losses.items()}
        stacked = torch.stack([loss.detach().float() for loss in losses.values()])
        dist.all_reduce(stacked)
        return dict(zip(losses, (stacked / self.size).tolist(), strict=True))

    def agree(self, labels: Sequence[int], generator: torch.Generator) -> None:
        """Check that all processes are about to draw the same batches of the same task.

        Raises:
            InvalidTaskError: they are not; raised in every process.
        """
        if self.size == 1:
            return
        said = hashlib.sha256(generator.get_state().numpy().tobytes() + str(list(labels)).encode()).hexdigest()
        heard: list[str | None] = [None] * self.size
        dist.all_gather_object(heard, said)
        if set(heard) != {said}:
            raise InvalidTaskError(
                f"the {self.size} processes were given different images or generators, expected the same in each"
            )


class _Step(nn.Module):
    """The losses of a step as a module, whose parameters are the trained ones."""

    def __init__(self, step: StepLosses, trained: Sequence[nn.Parameter]) -> None:
        super().__init__()
        self.trained = nn.ParameterList(trained)
        self._step = step

    def forward(self, batch: Tensor, targets: Tensor, weight: float) -> dict[str, Tensor]:
        return self._step(batch, targets, weight)
