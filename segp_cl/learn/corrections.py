"""`learn_corrections`: a state that has learned corrections of its answers, in closed form."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from segp_cl.config import LearnerConfig
from segp_cl.corrections import CorrectedImages, expected_mistakes, with_corrections, without_mistakes
from segp_cl.errors import IncompatibleStateError, InvalidTaskError
from segp_cl.models.backbone import Backbone
from segp_cl.types import Learned, LearnedClass, LearnerState, LearnReport, TaskClass


def learn_corrections(
    state: LearnerState,
    raw: Float[Tensor, "images raw"],
    right: Sequence[str],
    *,
    taught: Sequence[str | None],
    new_classes: Sequence[TaskClass] = (),
    backbone: Backbone,
    config: LearnerConfig,
) -> Learned:
    """Return the state that has learned the corrections. Neither towers, texts, β nor calibration change.

    Args:
        state: the state whose answers are corrected; it has at least one class.
        raw: r(x) of the corrected images by the state's image tower, of any norm.
        right: the right class of each.
        taught: the class that each was taught as, by a wrong label; None: it was not taught.
        new_classes: those of the right classes that the state does not know.
        backbone: the state's base model.
        config: hyper-parameters; `correction_stands_for` alone counts.

    Raises:
        InvalidTaskError: there is no image, or a right class is neither known nor new.
        IncompatibleStateError: the state was learned on other base weights.
    """
    begun = time.perf_counter()
    if backbone.weights_digest != state.weights_digest:
        raise IncompatibleStateError(
            f"the state was learned on weights {state.weights_digest[:12]}, but {backbone.spec.name} has "
            f"{backbone.weights_digest[:12]}"
        )
    names = [*state.class_names, *(new.name for new in new_classes)]
    row = {name: at for at, name in enumerate(names)}
    if not right or set(right) - row.keys():
        raise InvalidTaskError(f"expected images of known or new classes, got {sorted(set(right) - row.keys())[:5]}")
    corrected = CorrectedImages(
        F.normalize(raw.double(), dim=-1).cpu(),
        [row[name] for name in right],
        [None if name is None else row.get(name) for name in taught],
    )
    sums = with_corrections(state.kept_sums, corrected)
    task = state.tasks + 1
    classes = [*state.classes, *(LearnedClass(new.name, new.prompt, task=task, images=0) for new in new_classes)]
    counts = sums.counts.tolist()
    if corrected.mistakes:
        of_class = [each.task for each in classes]
        stands_for = config.correction_stands_for
        sums = without_mistakes(sums, expected_mistakes(corrected.mistakes, of_class, counts, stands_for=stands_for))
    texts = state.text_features
    if new_classes:
        with torch.inference_mode():
            fresh = backbone.with_lora(state.lora).text_features([new.prompt for new in new_classes])
        texts = torch.cat([texts, fresh.float().cpu().clone()])
    learned = replace(
        state,
        classes=tuple(replace(each, images=count) for each, count in zip(classes, counts, strict=True)),
        prototypes=sums.means,
        text_features=texts,
        tasks=task if new_classes else state.tasks,
        covariance=sums.covariance,
        sums=sums,
    )
    report = LearnReport(
        seconds={"corrections": time.perf_counter() - begun},
        losses=(),
        settings={"strategy": "corrections", "correction_stands_for": config.correction_stands_for},
        adapted=(),
        anchors=0,
        steps=0,
    )
    return Learned(state=learned, report=report)
