"""`edit_classes`: the classes of a state renamed, merged or taken away, by arithmetic on what it keeps of them."""

from __future__ import annotations

import time
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from segp_cl.branches import fusion_weight_of_both
from segp_cl.class_edits import ClassEdit
from segp_cl.config import LearnerConfig, ResolvedConfig
from segp_cl.learn.towers import Towers
from segp_cl.models.backbone import Backbone
from segp_cl.statistics import ClassSums
from segp_cl.types import Learned, LearnedClass, LearnerState, LearnReport, OnProgress


def edit_classes(
    state: LearnerState,
    edit: ClassEdit,
    *,
    backbone: Backbone,
    config: LearnerConfig,
    generator: torch.Generator,
    norm: Float[Tensor, ""],
    on_progress: OnProgress | None = None,
) -> Learned:
    """Return the state with other classes, in seconds and without an image. `state` does not change.

    Sums are arithmetic: a class keeps them under another name, two add up, one is taken away. β follows the numbers of
    images. Texts that change are encoded by the state's own text tower, and an adapted head is then aligned on the sums
    of all classes, as after every task. What calibration and label sets rest on stays as it is. Of `replace` this is
    the first half, which takes the class away.

    Args:
        state: the state.
        edit: what is asked for.
        backbone: its base model.
        config: hyper-parameters of the alignment and of β.
        generator: the source of all randomness (a CPU generator).
        norm: the usual norm of raw features.
        on_progress: called after every step. An exception from it ends the work.

    Raises:
        ClassNotFoundError: the state does not know a class of the edit.
        ClassExistsError: the new name is that of a class that stays.
    """
    begun = time.perf_counter()
    edit.check(state.class_names)
    resolved = backbone.resolve(config)
    edited, to_encode = _arithmetic(state, edit)
    edited = replace(edited, fusion_weight=_fusion_weight(state, edited, config, resolved))
    steps = 0
    if to_encode or edit.kind == "swap":
        towers = Towers(backbone, state.lora, config, generator)
        texts = edited.text_features.clone()
        if to_encode:
            texts[to_encode] = towers.text_features([edited.classes[row].prompt for row in to_encode])
        steps = towers.align(edited.kept_sums, texts, norm=norm, on_progress=on_progress)
        edited = replace(edited, text_features=texts, lora=towers.lora())
    report = LearnReport(
        seconds={"editing": time.perf_counter() - begun},
        losses=(),
        settings={**resolved.model_dump(), "fusion_weight": edited.fusion_weight},
        adapted=(),
        anchors=0,
        steps=steps,
    )
    return Learned(state=edited, report=report)


def restored(state: LearnerState, known: LearnedClass, source: LearnerState) -> LearnerState:
    """Return a state with one more class, as another state knows it: its sums and its text.

    The two must have been made on one base model. Where their towers differ, the class is as its own saw it.
    """
    row = source.class_names.index(known.name)
    sums, theirs = state.kept_sums, source.kept_sums
    scatter = theirs.scatter
    if scatter is not None:
        own = None if theirs.own is None else theirs.own[row]
        share = theirs.counts[row] / theirs.counts.sum().clamp(min=1)
        scatter = share * scatter if own is None else own.T @ own
    alone = ClassSums(
        theirs.counts[[row]], theirs.sums[[row]], scatter, None if theirs.own is None else (theirs.own[row],)
    )
    both = sums.plus(alone, [len(state.classes)])
    return replace(
        state,
        classes=(*state.classes, known),
        prototypes=both.means,
        text_features=torch.cat([state.text_features, source.text_features[[row]]]),
        covariance=both.covariance,
        sums=both,
    )


def is_exact(state: LearnerState, edit: ClassEdit) -> bool:
    """Return whether the sums after an edit are those of a state that was taught so from the start."""
    if edit.kind in ("rename", "swap"):
        return True
    if state.sums is None:
        return False
    if edit.kind == "merge" or state.sums.scatter is None:
        return True
    return state.sums.own is not None and state.sums.own[state.class_names.index(edit.classes[0])] is not None


def told(state: LearnerState, edit: ClassEdit) -> dict[str, object]:
    """Return what an edit takes away from a state and what it cannot, in sentences for people."""
    found: dict[str, object] = {"words": edit.words, "statistics": "exact" if is_exact(state, edit) else "approximate"}
    if edit.kind not in ("delete", "replace"):
        return found
    removed = ["name, prompt and text feature", "prototype and sum of features"]
    remains = []
    shared = "its part of the scatter that all classes share"
    if is_exact(state, edit):
        removed.append(shared)
    else:
        remains.append(f"{shared}: it was not kept apart (keep_class_scatter), so the whole was scaled down")
    if state.lora is not None:
        remains.append("what training changed in the adapters; a rollback to before the task is without it")
    if state.calibration is not None:
        remains.append("its share in the calibration and in the quantiles of held-out images, which name no class")
    remains.append("versions before this one, until they are pruned")
    return found | {"removed": removed, "remains": remains}


def _arithmetic(state: LearnerState, edit: ClassEdit) -> tuple[LearnerState, list[int]]:
    """Return the state with the edit's names, rows and sums, and the rows whose prompts are still to be encoded."""
    rows = [state.class_names.index(name) for name in edit.classes]
    classes, first = list(state.classes), rows[0]
    match edit.kind:
        case "rename":
            was = classes[first]
            classes[first] = replace(was, name=edit.name or was.name, prompt=edit.prompt or was.prompt)
            return replace(state, classes=tuple(classes)), [first] if classes[first].prompt != was.prompt else []
        case "swap":
            one, other = (classes[row] for row in rows)
            classes[first] = replace(one, name=other.name, prompt=other.prompt)
            classes[rows[1]] = replace(other, name=one.name, prompt=one.prompt)
            texts = state.text_features.clone()
            texts[rows] = state.text_features[rows[::-1]]
            return replace(state, classes=tuple(classes), text_features=texts), []
        case "merge":
            assert edit.name is not None
            assert edit.prompt is not None
            sums = state.kept_sums
            first = min(rows)
            for row in sorted(rows, reverse=True)[:-1]:
                sums = sums.joined(first, row)
            images = sum(classes[row].images for row in rows)
            classes[first] = LearnedClass(edit.name, edit.prompt, min(classes[row].task for row in rows), images)
            kept = [row for row in range(len(classes)) if row == first or row not in rows]
            return _with(state, classes, sums, kept), [kept.index(first)]
        case _:
            kept = [row for row in range(len(classes)) if row != first]
            return _with(state, classes, state.kept_sums.forgotten(first), kept), []


def _with(state: LearnerState, classes: list[LearnedClass], sums: ClassSums, kept: list[int]) -> LearnerState:
    """Return the state with the `kept` rows of its classes, and their sums."""
    if not kept:
        return replace(
            state,
            classes=(),
            prototypes=state.prototypes[:0],
            text_features=state.text_features[:0],
            covariance=None,
            sums=None,
            calibration=None,
            familiarity=None,
            held_out=None,
        )
    held_out = state.held_out
    if held_out is not None:
        held_out = replace(held_out, classes=min(held_out.classes, len(kept)))
    return replace(
        state,
        classes=tuple(classes[row] for row in kept),
        prototypes=sums.means,
        text_features=state.text_features[kept],
        covariance=sums.covariance,
        sums=sums,
        held_out=held_out,
    )


def _fusion_weight(before: LearnerState, after: LearnerState, asked: LearnerConfig, resolved: ResolvedConfig) -> float:
    if asked.fusion_weight is not None:
        return asked.fusion_weight
    images = [known.images for known in after.classes]
    if sorted(images) == sorted(known.images for known in before.classes):
        return before.fusion_weight
    limit, half = resolved.fusion_weight, resolved.fusion_half_images
    return fusion_weight_of_both(before, before, images, limit=limit, half_images=half)
