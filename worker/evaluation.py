"""Measures a version's accuracy by path: which answers are right, and what they say of classes and in all."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from exchange.contracts import ClassAccuracy, Evaluation, How, OverallAccuracy
from segp_cl.runtime.classifier import Classifier, Features
from segp_cl.types import Path, Scores
from worker.seen import Seen

OnScores = Callable[[Scores, torch.Tensor], None]
ScoresOf = Callable[[Features, torch.Tensor], Scores]


@dataclass(frozen=True)
class Answered:
    """Images of known classes, and which answers to them are right.

    Attributes:
        how: how the version was kept from knowing the images.
        rows: their classes.
        right: for each path, whether the answer to each image is right.
        only_images: how many of them are the only one of their class.
    """

    how: How
    rows: Int64[Tensor, " images"]
    right: Mapping[Path, Bool[Tensor, " images"]] = field(repr=False)
    only_images: int = 0


def answered(
    classifier: Classifier,
    images: Seen,
    *,
    classes: Sequence[str],
    batch_size: int,
    on_batch: Callable[[int, int], None],
    on_scores: OnScores = lambda scores, truth: None,
    scores_of: ScoresOf | None = None,
    how: How = "held_out",
) -> Answered:
    """Return which top-1 answers over all of the version's classes are right.

    Args:
        classifier: the version's classifier.
        images: at least one image; labels are positions in `classes`.
        classes: names that the version knows.
        batch_size: images per forward pass.
        on_batch: called with (batches done, batches in all) after each.
        on_scores: called with the scores of each batch, and the rows of its images' classes.
        scores_of: gives the scores of a batch, whose rows it is told; None: the classifier does.
        how: how the version was kept from knowing the images.
    """
    position = {name: i for i, name in enumerate(classifier.state.class_names)}
    truth = torch.tensor([position[classes[label]] for label in images.labels])
    batches = [range(at, min(at + batch_size, len(truth))) for at in range(0, len(truth), batch_size)]
    right: dict[Path, list[torch.Tensor]] = {"text": [], "visual": [], "fused": []}
    for number, batch in enumerate(batches, start=1):
        features, rows = images.by(classifier, batch), truth[batch.start : batch.stop]
        scores = classifier.scores_of(features) if scores_of is None else scores_of(features, rows)
        on_scores(scores, rows)
        for path, collected in right.items():
            collected.append(getattr(scores, path).argmax(dim=1).cpu() == rows)
        on_batch(number, len(batches))
    return Answered(how, truth, {path: torch.cat(collected) for path, collected in right.items()})


def evaluation_of(
    names: Sequence[str], measured: Iterable[Answered], *, classes_not_measured: int = 0
) -> Evaluation | None:
    """Return accuracies overall and of every class with images; None if there are none.

    Args:
        names: the version's classes, in their order.
        measured: the images; those of a class were all measured in one way.
        classes_not_measured: how many of the task's classes are not among them.
    """
    parts = list(measured)
    if not parts:
        return None
    how: dict[int, How] = {row: part.how for part in parts for row in part.rows.tolist()}
    rows = torch.cat([part.rows for part in parts])
    right = {path: torch.cat([part.right[path] for part in parts]).double() for path in parts[0].right}

    def means(chosen: Bool[Tensor, " images"]) -> dict[str, float]:
        return {path: float(hits[chosen].mean()) for path, hits in right.items()}

    per_class = {}
    for row in sorted(how):
        of_class = rows == row
        per_class[names[row]] = ClassAccuracy(images=int(of_class.sum()), how=how[row], **means(of_class))
    overall = OverallAccuracy(
        images=len(rows),
        left_one_out=sum(len(part.rows) for part in parts if part.how == "left_one_out"),
        only_images=sum(part.only_images for part in parts),
        classes_not_measured=classes_not_measured,
        **means(torch.ones_like(rows, dtype=torch.bool)),
    )
    return Evaluation(seen_classes=len(names), overall=overall, per_class=per_class)
