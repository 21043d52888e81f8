"""`merge_branches`: one state of two that were taught different tasks from a common one."""

from __future__ import annotations

import time
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

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
from segp_cl.learn.towers import Towers
from segp_cl.models.backbone import Backbone
from segp_cl.types import Learned, LearnerState, LearnReport, OnProgress


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
        sums = replace(sums, scatter=None, own=None)
    lora = averaged(ours.lora, theirs.lora, shares(base, ours, theirs))
    towers = Towers(backbone, lora, config, generator)
    texts = towers.text_features([known.prompt for known in classes])
    steps = towers.align(sums, texts, norm=norm, on_progress=on_progress)
    lora = towers.lora()
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
        text_features=texts,
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
