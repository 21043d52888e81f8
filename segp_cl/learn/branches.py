"""`merge_branches`: one state of two that were taught different tasks from a common one."""

from __future__ import annotations

import time
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from segp_cl.alignment import align_head
from segp_cl.branches import (
    MergeError,
    averaged,
    classes_of_both,
    familiarity_of_both,
    fusion_weight_of_both,
    shares,
    sums_of_both,
)
from segp_cl.config import LearnerConfig
from segp_cl.learn.held_out import of_both
from segp_cl.models.backbone import Backbone
from segp_cl.statistics import FeatureSampler
from segp_cl.types import HEAD, Learned, LearnerState, LearnReport, LoraState, OnProgress


def merge_branches(
    base: LearnerState,
    ours: LearnerState,
    theirs: LearnerState,
    *,
    backbone: Backbone,
    config: LearnerConfig,
    generator: torch.Generator,
    norm: Float[Tensor, ""],
    on_progress: OnProgress | None = None,
) -> Learned:
    """Return the state that knows what both know, in seconds and without an image. None of the arguments changes.

    Sums are added, adapters are averaged, the texts of all classes are encoded by the merged text tower, a head that
    is adapted is aligned on the sums of all classes (as after every task), and probabilities are calibrated on what
    was kept of held-out images.

    Args:
        base: the state that both were begun on.
        ours: one of the two, whose classes come first.
        theirs: the other one.
        backbone: their base model.
        config: hyper-parameters of the alignment, of β and of whitening.
        generator: the source of all randomness (a CPU generator).
        norm: the usual norm of raw features.
        on_progress: called after every step. An exception from it ends the merge.

    Raises:
        MergeError: they are of different base models, their adapters do not fit, or one has forgotten classes of the
            base.
    """
    begun = time.perf_counter()
    if len({state.weights_digest for state in (base, ours, theirs)}) > 1:
        raise MergeError("they were learned on different base weights")
    classes = classes_of_both(base, ours, theirs)
    resolved = backbone.resolve(config)
    sums = sums_of_both(base, ours, theirs)
    if not resolved.whiten:
        sums = replace(sums, scatter=None)
    lora = averaged(ours.lora, theirs.lora, shares(base, ours, theirs))
    model, steps = backbone.shared_copy(), 0
    if lora is not None:
        # the alignment below trains the head alone, whatever the towers' rates
        adapters = model.adapt(config.model_copy(update={"image_rate": 0.0}), lora, generator=generator)
    with torch.no_grad():
        texts = model.text_features([known.prompt for known in classes]).float()
    if lora is not None:
        adapted = any(target.startswith(f"{HEAD}.") for target in lora.factors)
        head, covariance = adapters.trainable_of(HEAD), sums.covariance
        if resolved.align_steps and adapted and covariance is not None:
            steps = resolved.align_steps
            align_head(
                model.project,
                head,
                FeatureSampler(sums.means.to(texts), covariance.to(texts)),
                texts,
                norm=norm.to(texts),
                logit_scale=model.logit_scale,
                steps=resolved.align_steps,
                batch_size=resolved.align_batch_size,
                learning_rate=resolved.learning_rate,
                generator=generator,
                on_progress=on_progress,
            )
        lora = _only(adapters.state(), lora)
    calibration, held_out = of_both(base, ours, theirs, seen=len(classes), logit_scale=backbone.logit_scale)
    weight = config.fusion_weight
    if weight is None:
        weight = fusion_weight_of_both(
            ours,
            theirs,
            [known.images for known in classes],
            limit=resolved.fusion_weight,
            half_images=resolved.fusion_half_images,
        )
    state = LearnerState(
        model=ours.model,
        weights_digest=ours.weights_digest,
        classes=classes,
        prototypes=sums.means,
        text_features=texts.cpu(),
        lora=lora,
        fusion_weight=weight,
        tasks=ours.tasks + theirs.tasks - base.tasks,
        covariance=sums.covariance,
        sums=sums,
        calibration=calibration,
        familiarity=familiarity_of_both(ours, theirs),
        held_out=held_out,
    )
    report = LearnReport(
        seconds={"merging": time.perf_counter() - begun},
        losses=(),
        settings={**resolved.model_dump(), "fusion_weight": weight},
        adapted=tuple(lora.factors) if lora is not None else (),
        anchors=0,
        steps=steps,
    )
    return Learned(state=state, report=report)


def _only(trained: LoraState, wanted: LoraState) -> LoraState:
    """Return the adapters of `wanted` alone, with what was trained."""
    return replace(trained, factors={key: trained.factors[key] for key in wanted.factors})
