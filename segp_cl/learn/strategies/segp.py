"""SeGP-CL (arXiv 2603.12055), from top to bottom: anchors, training with both regularisers, prototypes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from segp_cl.anchors import generate_anchors
from segp_cl.drift import Drift, DriftSums
from segp_cl.learn.distributed import StepLosses
from segp_cl.learn.strategies.shared import align, finish, gather
from segp_cl.learn.training import Inputs, Losses, Outcome, Session, train
from segp_cl.losses import (
    acgd_logits,
    acgd_loss,
    task_cross_entropy,
    text_neighbours,
    total_loss,
    tsgr_loss,
)
from segp_cl.models.lora import Adapters
from segp_cl.prototypes import transfer_prototypes
from segp_cl.statistics import ClassSums
from segp_cl.types import Anchors, Progress

FineTune = Callable[[Session, Adapters, Inputs, StepLosses], float | None]


@dataclass(frozen=True)
class Teacher:
    """Outputs of the teacher (F^T, G^T) and of the pretrained G^0, computed once.

    `anchor_inputs` are the frozen stem's activations for the anchors (pixels if there is no stem), `anchor_classes` the
    anchors' rows. `anchor_raw` and `pretrained_text` are on the device, the rest on the CPU.
    """

    anchor_inputs: Float[Tensor, "anchors ..."]
    anchor_classes: Int64[Tensor, " anchors"]
    anchor_raw: Float[Tensor, "anchors raw"]
    anchor_logits: Float[Tensor, "anchors old"]
    pretrained_text: Float[Tensor, "seen joint"]

    @property
    def anchors(self) -> int:
        return len(self.anchor_classes)


def learn_segp(session: Session, *, fine_tune: FineTune = train) -> Outcome:
    """Minimise L_cls + λ_ACGD L_ACGD + λ_GR L_GR (22), compute all prototypes (23)-(29), and align the head.

    `fine_tune` does the minimising, and may return the share of misaligned entries (`segp_cl.merging`).
    """
    adapters = session.adapt()
    inputs = session.inputs(adapters)
    with session.report.phase("anchors"):
        anchors = make_anchors(session, adapters, inputs)
    with session.report.phase("teacher"):
        teacher = consult_teacher(session, adapters, inputs, anchors)
    del anchors  # frees their pixels; training uses the stem's activations
    with session.report.phase("train"):
        share = fine_tune(session, adapters, inputs, regularised_step(session, inputs, teacher))
    with session.report.phase("prototypes"):
        adapters.merge()
        gathered = gather(session, inputs, moved_sums(session, inputs, teacher))
        adapters.unmerge()
    with session.report.phase("align"):
        align(session, adapters, gathered)
    with session.report.phase("prototypes"):
        outcome = finish(session, gathered, lora=adapters.state(), anchors=teacher.anchors)
    return replace(outcome, misaligned=share)


@torch.no_grad()
def make_anchors(session: Session, adapters: Adapters, inputs: Inputs) -> Anchors | None:
    """Make anchors by DPGD (9)-(14) with the model before the update; None if there are no old classes to hold.

    Anchors have two uses, ACGD and the drift of what is kept: without the one and the other, none are made.
    """
    if not session.old.classes or not (session.config.lambda_acgd or session.moves_statistics):
        return None
    adapters.merge()
    anchors = generate_anchors(
        session.model,
        session.task.images,
        old_text=session.old.text_features.to(session.device),
        prototypes=session.old.prototypes.to(session.device),
        config=session.config,
        on_progress=session.report,
        dtype=session.dtype,
        storage=torch.float16,
        image_features=lambda indices: session.model.project(inputs.features_at(indices)),
    )
    adapters.unmerge()
    return anchors


@torch.no_grad()
def consult_teacher(session: Session, adapters: Adapters, inputs: Inputs, anchors: Anchors | None) -> Teacher:
    """Compute what training needs of the model before it changes: its outputs for the anchors, and G^0's texts."""
    device, config = session.device, session.config
    with adapters.disabled():
        pretrained_text = session.text_features(session.prompts)
    if anchors is None:
        nothing = torch.empty(0, session.model.raw_dim, device=device)
        return Teacher(
            torch.empty(0),
            torch.empty(0, dtype=torch.int64),
            nothing,
            torch.empty(0, 0, device=device),
            pretrained_text,
        )
    adapters.merge()
    batches = torch.split(anchors.pixels, config.feature_batch_size)
    behind_stem = torch.cat([inputs.stem(pixels.to(device, torch.float32)).cpu() for pixels in batches])
    raw = anchor_features(session, inputs, behind_stem)
    old_text = session.old.text_features.to(device)  # the teacher's own, encoded when its version was made
    logits = acgd_logits(
        session.model.project(raw), old_text, logit_scale=session.model.logit_scale, form=config.acgd_logits
    )
    adapters.unmerge()
    return Teacher(behind_stem, torch.tensor(anchors.classes), raw, logits.cpu(), pretrained_text)


def regularised_step(session: Session, inputs: Inputs, teacher: Teacher) -> StepLosses:
    """Return the losses of a step: images and anchors in one forward pass, each class's text encoded at most once.

    Old classes that the step does not sample keep their last text features, at first the teacher's.
    """
    config, scale, old = session.config, session.model.logit_scale, len(session.old.classes)
    rows = torch.tensor(session.task_rows)
    of_task = rows.to(session.device)
    neighbours = text_neighbours(teacher.pretrained_text, of_task, k=config.k_neighbours)
    picks = anchor_batches(session, teacher.anchors)
    latest = teacher.pretrained_text.clone()
    latest[:old] = session.old.text_features.to(latest)

    def step(batch: Float[Tensor, "batch ..."], targets: Int64[Tensor, " batch"], weight: float) -> Losses:
        pick = next(picks)
        mine = session.ranks.share(pick)
        if teacher.anchors:
            batch = torch.cat([batch, teacher.anchor_inputs[mine.items].to(batch)])
        images = session.model.project(inputs.raw_features(batch))
        distilled = sampled_old_classes(session, teacher.anchor_classes[pick])
        encoded = torch.cat([distilled, rows[~torch.isin(rows, distilled)]])
        fresh = session.text_features([session.prompts[row] for row in encoded.tolist()])
        place = encoded.to(session.device)
        texts = latest.index_copy(0, place, fresh)
        latest.index_copy_(0, place, fresh.detach())
        classification = weight * task_cross_entropy(
            images[: len(targets)], texts[of_task], targets, logit_scale=scale, log_prior=session.log_prior
        )
        acgd = classification.new_zeros(())
        if teacher.anchors:
            student = acgd_logits(images[len(targets) :], texts[:old], logit_scale=scale, form=config.acgd_logits)
            acgd = mine.weight * acgd_loss(student, teacher.anchor_logits[mine.items].to(student), tau=config.tau_a)
        tsgr = tsgr_loss(texts, teacher.pretrained_text, of_task, neighbours, tau=config.tau_t)
        total = total_loss(classification, acgd, tsgr, lambda_acgd=config.lambda_acgd, lambda_tsgr=config.lambda_tsgr)
        return {"total": total, "classification": classification, "acgd": acgd, "tsgr": tsgr}

    return step


def sampled_old_classes(session: Session, anchor_classes: Int64[Tensor, " anchor"]) -> Int64[Tensor, " some"]:
    """Draw the old classes whose texts a step encodes, ascending; classes of its anchors take precedence.

    Only these texts get the gradient of (16)-(21) in that step; otherwise every step would have to encode all texts.
    """
    old, wanted = len(session.old.classes), session.config.old_classes_per_step
    if wanted is None or old <= wanted:
        return torch.arange(old)
    own = torch.unique(anchor_classes)
    if len(own) > wanted:
        own = own[torch.randperm(len(own), generator=session.generator)[:wanted]]
    others = torch.randperm(old, generator=session.generator)
    others = others[~torch.isin(others, own)]
    return torch.cat([own, others[: wanted - len(own)]]).sort().values


def anchor_batches(session: Session, count: int) -> Iterator[Int64[Tensor, " anchor"]]:
    """Yield batches of anchor positions endlessly: every anchor once before any is repeated."""
    size = min(session.config.anchor_batch_size, count)
    waiting = torch.empty(0, dtype=torch.int64)
    while True:
        if len(waiting) < size:
            waiting = torch.cat([waiting, torch.randperm(count, generator=session.generator)])
        yield waiting[:size]
        waiting = waiting[size:]


@torch.no_grad()
def anchor_features(
    session: Session, inputs: Inputs, anchors: Float[Tensor, "anchors ..."]
) -> Float[Tensor, "anchors raw"]:
    """Compute r(x) of all anchors with the current model."""
    with session.model.each_weight_once():
        batches = torch.split(anchors, session.config.feature_batch_size)
        return torch.cat([inputs.raw_features(batch.to(session.device)) for batch in batches])


def moved_sums(session: Session, inputs: Inputs, teacher: Teacher) -> ClassSums:
    """Return the sums of the old classes as the trained tower would have given them.

    Where the image tower is not trained there is no drift, and the sums stay exact.
    """
    old, config = session.old.kept_sums, session.config
    if not teacher.anchors or not session.moves_statistics:
        return old
    anchors = anchor_features(session, inputs, teacher.anchor_inputs)
    if config.drift_ridge is not None:
        drift = drift_of_the_space(session, inputs, teacher, anchors, ridge=config.drift_ridge)
        return old.mapped(drift.matrix, drift.noise)
    moved = transfer_prototypes(
        session.old.prototypes.to(session.device),
        student_raw=anchors,
        teacher_raw=teacher.anchor_raw,
        classes=teacher.anchor_classes.to(session.device),
    )
    return old.towards(moved.cpu())


@torch.no_grad()
def drift_of_the_space(
    session: Session, inputs: Inputs, teacher: Teacher, anchors: Float[Tensor, "anchors raw"], *, ridge: float
) -> Drift:
    """Fit how the update moved the anchors and the task's images, which are passed through both towers."""
    before, sums = session.base.with_lora(session.old.lora), DriftSums()
    sums.add(teacher.anchor_raw, anchors)
    batches = torch.split(torch.arange(len(session.task.images.labels)), session.config.feature_batch_size)
    for step, positions in enumerate(batches, start=1):
        batch = inputs.stream.batch(positions.tolist())
        with session.autocast():
            earlier = before.raw_from_stem(batch, inputs.stages).float()
        sums.add(earlier, inputs.raw_features(batch))
        session.report(Progress("drift", step, len(batches)))
    return sums.solve(ridge=ridge)
