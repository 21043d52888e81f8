"""The last steps of every strategy: class texts, the visual branch's statistics, and the weight of that branch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from segp_cl.fusion import choose_fusion_weight, expected_fusion_weight
from segp_cl.learn.heads import align_adapted_head
from segp_cl.learn.held_out import HeldOut, carried, summarised
from segp_cl.learn.training import Inputs, Outcome, Session
from segp_cl.models.lora import Adapters
from segp_cl.open_vocabulary import expected_familiarity, fit_familiarity
from segp_cl.pixels import as_unit_pixels
from segp_cl.scores import directions, text_scores
from segp_cl.statistics import ClassSums, FeatureSampler, MomentSums, Whitening, is_centred, visual_space
from segp_cl.types import HEAD, Familiarity, LoraState, Progress
from segp_cl.unknown import Strangeness

DRAWN_PER_CLASS = 8
"""Features sampled from each old class to choose β."""


@dataclass(frozen=True)
class Gathered:
    """Features and statistics from one pass over the task's images, by the towers as they will be served.

    `before` are the statistics without the images that were held out, `held_out` those images' features and labels,
    `final` the statistics with them. `norm` is the usual norm of raw features.
    """

    before: ClassSums
    final: ClassSums
    held_out: tuple[tuple[Tensor, Tensor], ...]
    text_features: Float[Tensor, "seen joint"]
    norm: Tensor

    @cached_property
    def space(self) -> tuple[Whitening | None, Float[Tensor, "seen raw"]]:
        """The visual space without the images that were held out, which is solved once."""
        return visual_space(self.before)

    @cached_property
    def sampler(self) -> FeatureSampler | None:
        """A sampler of features of all seen classes, None without a covariance, which is decomposed once."""
        covariance = self.before.covariance
        return None if covariance is None else FeatureSampler(self.before.means.to(self.norm), covariance.to(self.norm))


def gather(session: Session, inputs: Inputs, old: ClassSums) -> Gathered:
    """Pass the task's images and all texts through the towers once. `old` are the old classes' present sums."""
    labels = torch.tensor(session.task.images.labels)
    trained_on, held_out = (_batches(session, part) for part in (session.trained_on, session.held_out))
    features = _features(session, inputs, [*trained_on, *held_out])
    sums = MomentSums(len(session.task.classes), keep_own=session.config.keep_class_scatter)
    norms = []
    for indices in trained_on:
        raw = next(features)
        norms.append(raw.norm(dim=1).mean())
        sums.add(raw, labels[indices])
    before = final = with_old_classes(session, sums, old)
    kept = tuple((next(features), labels[indices]) for indices in held_out)
    if kept:
        for raw, of_batch in kept:
            sums.add(raw, of_batch)
        final = with_old_classes(session, sums, old)
    return Gathered(before, final, kept, session.final_text_features(), torch.stack(norms).mean())


def with_old_classes(session: Session, task: MomentSums, old: ClassSums) -> ClassSums:
    """Add the task's sums to those of the old classes. A known class that received more data keeps its row."""
    both = old.plus(task.total(), session.task_rows)
    return both if session.config.whiten else replace(both, scatter=None, own=None)


def align(session: Session, adapters: Adapters, gathered: Gathered) -> None:
    """Train the head to separate all seen classes, if it is adapted and there is a covariance."""
    if not (session.config.align_steps and adapters.trainable_of(HEAD) and gathered.sampler):
        return
    align_adapted_head(
        session.model,
        adapters,
        gathered.sampler,
        gathered.text_features.to(session.device),
        norm=gathered.norm,
        config=session.config,
        generator=session.generator,
        on_progress=session.report,
    )


def finish(session: Session, gathered: Gathered, *, lora: LoraState | None, anchors: int = 0) -> Outcome:
    """Assemble the parts of the new state.

    Args:
        session: the update; its model has the weights that will be served.
        gathered: the result of `gather`.
        lora: the adapters to publish.
        anchors: the number of anchors.
    """
    kept = _score_held_out(session, gathered) if gathered.held_out else None
    weight = session.config.fusion_weight
    if session.chooses_fusion_weight:
        weight = _fusion_weight(session, gathered, kept)
    seen, own = len(session.seen), session.model.logit_scale
    if kept is None:
        calibration, summary = session.old.calibration, carried(session.old, seen=seen)
    else:
        calibration, summary = summarised(session.old, kept, seen=seen, fusion_weight=weight, logit_scale=own)
    return Outcome(
        lora=lora,
        sums=gathered.final,
        text_features=gathered.text_features,
        fusion_weight=weight,
        calibration=calibration,
        familiarity=session.old.familiarity if kept is None else _familiarity(session, gathered, kept, lora),
        held_out=summary,
        anchors=anchors,
    )


def _score_held_out(session: Session, gathered: Gathered) -> HeldOut:
    raw = torch.cat([features for features, _ in gathered.held_out])
    rows = torch.tensor(session.task_rows)[torch.cat([labels for _, labels in gathered.held_out])]
    text, visual, length = _scores(session, gathered, raw)
    strange = Strangeness.of(gathered.before, *gathered.space)
    strangeness = None if strange is None or length is None else strange(visual, length)
    return HeldOut(text, visual, strangeness, rows)


def _scores(
    session: Session, gathered: Gathered, raw: Float[Tensor, "images raw"]
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return s_clip (5) and s_v (6) of raw features over all seen classes, and their length in the whitened space."""
    with torch.no_grad(), session.autocast():
        image = session.model.project(raw).float().cpu()
    whitening, prototypes = gathered.space
    compared, length = directions(raw.cpu(), whitening)
    return text_scores(image, gathered.text_features), compared @ prototypes.T, length


def _fusion_weight(session: Session, gathered: Gathered, kept: HeldOut | None) -> float:
    """Choose β by the number of images, and on held-out ones if there are any."""
    old = len(session.old.classes)
    expected = expected_fusion_weight(
        gathered.final.counts.tolist(),
        limit=session.config.fusion_weight,
        half_images=session.config.fusion_half_images,
    )
    if kept is None:
        return expected
    text, visual, rows, weights = kept.text, kept.visual, kept.rows, torch.ones(len(kept.rows))
    if old and gathered.sampler:
        # held-out images are of new classes: sampled features, though easier than images, represent the old ones
        drawn = torch.arange(old).repeat(DRAWN_PER_CLASS)
        features = gathered.sampler.draw(drawn, gathered.norm, generator=session.generator)
        drawn_text, drawn_visual, _ = _scores(session, gathered, features)
        per_new_class = len(rows) / len(session.task_rows)
        weights = torch.cat([weights, torch.full((len(drawn),), per_new_class / DRAWN_PER_CLASS)])
        text, visual = torch.cat([text, drawn_text]), torch.cat([visual, drawn_visual])
        rows = torch.cat([rows, drawn])
    return choose_fusion_weight(text, visual, rows, weights, expected=expected)


def _familiarity(session: Session, gathered: Gathered, kept: HeldOut, lora: LoraState | None) -> Familiarity:
    """Fit how a taught class is told from a new word on held-out images, whose text scores are the base model's."""
    base = session.base
    with torch.no_grad(), session.autocast():
        if lora is not None and any(target.startswith("image.") for target in lora.factors):
            batches = _batches(session, session.held_out)
            pixels = (as_unit_pixels(session.task.images.pixels(indices.tolist())) for indices in batches)
            images = torch.cat([base.image_features(batch.to(session.device)) for batch in pixels])
        else:
            images = base.project(torch.cat([raw for raw, _ in gathered.held_out]))
        text = text_scores(images.float(), base.text_features(session.prompts).float()).cpu()
    comparable = is_centred(gathered.space[0])
    return fit_familiarity(
        kept.visual if comparable else None,
        text,
        kept.rows,
        logit_scale=base.logit_scale,
        expected=session.old.familiarity or expected_familiarity(comparable),
        generator=session.generator,
    )


def _batches(session: Session, positions: Sequence[int]) -> list[Tensor]:
    size = session.config.feature_batch_size
    return [torch.tensor(positions[start : start + size]) for start in range(0, len(positions), size)]


def _features(session: Session, inputs: Inputs, batches: Sequence[Tensor]) -> Iterator[Tensor]:
    for step, indices in enumerate(batches, start=1):
        with torch.no_grad():
            features = inputs.features_at(indices.tolist())
        session.report(Progress("prototypes", step, len(batches)))
        yield features
