"""Aligned model merging, PAM (Sokar et al., arXiv 2506.03189): one set of adapters for all tasks, kept by averaging.

Of an adapter only B is trained, and A is the same for all tasks: averages of B are averages of the products B A, and
so of the weights that are served. "Global" are the adapters before a task, "task" is the copy that is fine-tuned on it.
Every function is element-wise on one matrix; what leaves a matrix as it is leaves every answer as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

MergeTarget = Literal["global", "zero"]


def top_mask(weights: Float[Tensor, "*shape"], *, share: float) -> Bool[Tensor, "*shape"]:
    """The paper's top p %: mark the `share` of a matrix's entries that are largest by magnitude, rounded down.

    Among equal magnitudes some are marked, always the same ones. Zeros may be: they conflict with nothing.
    """
    marked = torch.zeros_like(weights, dtype=torch.bool)
    largest = weights.abs().flatten().topk(int(share * weights.numel())).indices
    marked.view(-1)[largest] = True
    return marked


def misaligned(task: Float[Tensor, "*shape"], held: Float[Tensor, "*shape"]) -> Bool[Tensor, "*shape"]:
    """Mark entries whose signs are opposite in the task's matrix and in `held`, the global one; a zero has no sign."""
    return task.sign() * held.sign() < 0


def conflicts(
    task: Float[Tensor, "*shape"], held: Float[Tensor, "*shape"], important: Bool[Tensor, "*shape"]
) -> Bool[Tensor, "*shape"]:
    """Mark the conflicts: misaligned entries that are `important` in the global matrix (`top_mask` of it)."""
    return misaligned(task, held) & important


def reinitialised(
    task: Float[Tensor, "*shape"],
    held: Float[Tensor, "*shape"],
    conflicting: Bool[Tensor, "*shape"],
    *,
    target: MergeTarget,
) -> Float[Tensor, "*shape"]:
    """Return the task's matrix with conflicting entries set back, to their global values or to zero."""
    return torch.where(conflicting, held if target == "global" else torch.zeros_like(held), task)


def merge_weight(tasks: int) -> float:
    """The task's weight 1/t, with which the global matrix is the mean of all `tasks` matrices, this one's included."""
    return 1 / tasks


def average(held: Float[Tensor, "*shape"], task: Float[Tensor, "*shape"], *, weight: float) -> Float[Tensor, "*shape"]:
    """Merge: (1 - weight) · global + weight · task, element by element."""
    return torch.lerp(held, task, weight)


def misaligned_share(tasks: Sequence[Tensor], held: Sequence[Tensor]) -> float:
    """Return the share of all entries of several matrices that are misaligned, from 0 to 1; 0 if there are none."""
    entries = sum(matrix.numel() for matrix in held)
    pairs = zip(tasks, held, strict=True)
    return sum(int(misaligned(task, matrix).sum()) for task, matrix in pairs) / max(entries, 1)
