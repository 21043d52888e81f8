"""Aligned model merging (PAM, arXiv 2506.03189): fine-tune a copy of the adapters on the task, average it into them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from segp_cl.learn.distributed import StepLosses
from segp_cl.learn.strategies.naive import classification_step
from segp_cl.learn.strategies.segp import consult_teacher, learn_segp, make_anchors, moved_sums
from segp_cl.learn.strategies.shared import finish, gather
from segp_cl.learn.training import Inputs, Outcome, Session, train
from segp_cl.merging import average, conflicts, merge_weight, misaligned_share, reinitialised, top_mask
from segp_cl.models.lora import Adapters


def learn_merge(session: Session) -> Outcome:
    """Fine-tune by (15) alone and merge. The head is not aligned; sums move as SeGP-CL's do."""
    adapters = session.adapt()
    inputs = session.inputs(adapters)
    teacher = None
    if session.moves_statistics:
        with session.report.phase("anchors"):
            anchors = make_anchors(session, adapters, inputs)
        with session.report.phase("teacher"):
            teacher = consult_teacher(session, adapters, inputs, anchors)
    with session.report.phase("train"):
        share = train_and_merge(session, adapters, inputs, classification_step(session, inputs))
    with session.report.phase("prototypes"):
        adapters.merge()
        old = session.old.kept_sums if teacher is None else moved_sums(session, inputs, teacher)
        outcome = finish(session, gather(session, inputs, old), lora=adapters.state())
    return replace(outcome, anchors=0 if teacher is None else teacher.anchors, misaligned=share)


def learn_segp_and_merge(session: Session) -> Outcome:
    """Fine-tune by SeGP-CL's losses (22) and merge; the head is aligned, and prototypes are computed, afterwards."""
    return learn_segp(session, fine_tune=train_and_merge)


def train_and_merge(session: Session, adapters: Adapters, inputs: Inputs, step_losses: StepLosses) -> float | None:
    """Train a copy of the adapters, setting conflicts back every so often, and average it into them, in place.

    The first adapters of all have nothing to be averaged with, and are taken as they are.

    Returns:
        The share of entries that were misaligned when they were averaged; None for the first adapters.
    """
    config = session.config
    if session.old.lora is None:
        train(session, adapters, inputs, step_losses)
        return None
    merger = Merger.of(session, adapters)
    train(session, adapters, inputs, step_losses, after_step=merger.after_step)
    share = misaligned_share(adapters.trainable, merger.held)
    weight = merge_weight(session.old.tasks + 1) if config.merge_weight is None else config.merge_weight
    with torch.no_grad():
        for task, held in zip(adapters.trainable, merger.held, strict=True):
            task.copy_(average(held, task, weight=weight))
    return share


@dataclass(frozen=True)
class Merger:
    """The global adapters while a copy of them is trained: every matrix, and which of its entries are important."""

    session: Session
    task: list[torch.nn.Parameter]
    held: list[Tensor]
    important: list[Tensor]

    @classmethod
    def of(cls, session: Session, adapters: Adapters) -> Merger:
        held = [matrix.detach().clone() for matrix in adapters.trainable]
        important = [top_mask(matrix, share=session.config.merge_top_share) for matrix in held]
        return cls(session, adapters.trainable, held, important)

    @torch.no_grad()
    def after_step(self, step: int) -> None:
        """Set conflicting entries back where `step`, counted from 1, is a multiple of the period."""
        config = self.session.config
        if config.merge_period is None or step % config.merge_period:
            return
        for task, held, important in zip(self.task, self.held, self.important, strict=True):
            conflicting = conflicts(task, held, important)
            task.copy_(reinitialised(task, held, conflicting, target=config.merge_target))
