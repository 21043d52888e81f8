"""The last step of every strategy: class texts, the visual branch's statistics, and how much that branch weighs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from segp_cl.fusion import choose_fusion_weight
from segp_cl.inference import text_scores, visual_scores, visual_space
from segp_cl.prototypes import FeatureSampler, MomentSums, merge_covariances, merge_prototypes
from segp_cl.training import Inputs, Outcome, Session
from segp_cl.types import LoraState, Progress

DRAWN_PER_CLASS = 8
"""Features drawn of each old class to choose β by."""


def finish(
    session: Session,
    inputs: Inputs,
    moved: Float[Tensor, "old raw"],
    *,
    lora: LoraState | None,
    adapted: tuple[str, ...] = (),
    anchors: int = 0,
) -> Outcome:
    """The new state of a model that is as it will be served: class texts, statistics of the visual branch, and β.

    β is chosen on the images that were kept back, before they too go into the statistics.

    Args:
        session: the update; its model holds the new weights.
        inputs: the task's images.
        moved: prototypes of the old classes.
        lora: the adapters to publish.
        adapted: which weights they belong to.
        anchors: how many there were.
    """
    texts = session.final_text_features()
    sums = MomentSums(len(session.task.classes))
    labels = torch.tensor(session.task.images.labels)
    trained_on, kept_back = (_batches(session, part) for part in (session.trained_on, session.kept_back))
    features = _features(session, inputs, [*trained_on, *kept_back])
    for indices in trained_on:
        sums.add(next(features), labels[indices])
    weight = None
    if kept_back:
        kept = [(next(features), labels[indices]) for indices in kept_back]
        weight = _fusion_weight(session, statistics(session, sums, moved), texts, kept)
        for raw, of_batch in kept:
            sums.add(raw, of_batch)
    final = statistics(session, sums, moved)
    return Outcome(
        lora=lora,
        prototypes=final.prototypes,
        covariance=final.covariance,
        text_features=texts,
        fusion_weight=weight,
        adapted=adapted,
        anchors=anchors,
    )


@dataclass(frozen=True)
class Statistics:
    """What the visual branch keeps of all seen classes."""

    prototypes: Float[Tensor, "seen raw"]
    covariance: Float[Tensor, "raw raw"] | None


def statistics(session: Session, sums: MomentSums, old: Float[Tensor, "old raw"]) -> Statistics:
    """Rows for all seen classes: `old`, then the new classes' means (23); the covariance over all images so far.

    A known class that received more data keeps its place: its old prototype and the mean of the new images are
    averaged by how many images each stands for.
    """
    moments = sums.moments()
    means = moments.means.cpu()
    prototypes = torch.cat([old, means.new_zeros(len(session.seen) - len(old), means.shape[1])])
    for label, row in enumerate(session.task_rows):
        if row < len(old):
            taught = session.old.classes[row].images
            prototypes[row] = merge_prototypes(old[row], taught, means[label], int(sums.counts[label]))
        else:
            prototypes[row] = means[label]
    covariance = None
    if session.config.whiten:
        covariance = moments.covariance.cpu()
        if session.old.covariance is not None:
            taught = sum(c.images for c in session.old.classes)
            covariance = merge_covariances(session.old.covariance, taught, covariance, int(sums.counts.sum()))
    return Statistics(prototypes, covariance)


def _fusion_weight(
    session: Session,
    found: Statistics,
    texts: Float[Tensor, "seen joint"],
    kept: Sequence[tuple[Tensor, Tensor]],
) -> float:
    raw = torch.cat([features for features, _ in kept]).cpu()
    rows = torch.tensor(session.task_rows)[torch.cat([labels for _, labels in kept])]
    weights = torch.ones(len(rows))
    old = len(session.old.classes)
    if old and found.covariance is not None:
        # kept-back images are of new classes, which the text path has just been trained on: old ones must speak too
        drawn = torch.arange(old).repeat(DRAWN_PER_CLASS)
        sampler = FeatureSampler(found.prototypes[:old], found.covariance)
        norm = raw.norm(dim=1).mean()
        raw = torch.cat([raw, sampler.draw(drawn, norm, generator=session.generator)])
        per_new_class = len(rows) / len(session.task_rows)
        weights = torch.cat([weights, torch.full((len(drawn),), per_new_class / DRAWN_PER_CLASS)])
        rows = torch.cat([rows, drawn])
    whitening, prototypes = visual_space(found.prototypes, found.covariance)
    with torch.no_grad(), session.autocast():
        image = session.model.project(raw.to(session.device)).float().cpu()
    expected = session.old.fusion_weight if session.old.classes else session.config.fusion_weight
    assert expected is not None, "the configuration was not resolved"
    return choose_fusion_weight(
        text_scores(image, texts),
        visual_scores(raw, prototypes, whitening),
        rows,
        weights,
        expected=expected,
        logit_scale=session.model.logit_scale,
    )


def _batches(session: Session, positions: Sequence[int]) -> list[Tensor]:
    size = session.config.feature_batch_size
    return [torch.tensor(positions[start : start + size]) for start in range(0, len(positions), size)]


def _features(session: Session, inputs: Inputs, batches: Sequence[Tensor]) -> Iterator[Tensor]:
    for step, indices in enumerate(batches, start=1):
        with torch.no_grad():
            features = inputs.raw_features(inputs.stream.batch(indices.tolist()))
        session.report(Progress("prototypes", step, len(batches)))
        yield features
