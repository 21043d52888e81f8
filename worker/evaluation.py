"""Measures a version's accuracy on held-out images, by path."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch

from exchange.contracts import Evaluation, PathAccuracy
from segp_cl.runtime.classifier import Classifier
from segp_cl.types import Scores
from worker.seen import Seen

OnScores = Callable[[Scores, torch.Tensor], None]


def evaluate(
    classifier: Classifier,
    images: Seen,
    *,
    classes: Sequence[str],
    batch_size: int,
    on_batch: Callable[[int, int], None],
    on_scores: OnScores = lambda scores, truth: None,
) -> Evaluation:
    """Return top-1 accuracy over all of the version's classes, overall and for every class with images.

    Args:
        classifier: the version's classifier.
        images: at least one image; labels are positions in `classes`.
        classes: names that the version knows.
        batch_size: images per forward pass.
        on_batch: called with (batches done, batches in all) after each.
        on_scores: called with the scores of each batch, and the rows of its images' classes.
    """
    names = classifier.state.class_names
    position = {name: i for i, name in enumerate(names)}
    truth = torch.tensor([position[classes[label]] for label in images.labels])
    batches = [range(at, min(at + batch_size, len(truth))) for at in range(0, len(truth), batch_size)]
    hits: dict[str, list[torch.Tensor]] = {"text": [], "visual": [], "fused": []}
    for number, batch in enumerate(batches, start=1):
        scores = classifier.scores_of(images.by(classifier, batch))
        on_scores(scores, truth[batch.start : batch.stop])
        for path, collected in hits.items():
            collected.append(getattr(scores, path).argmax(dim=1).cpu() == truth[batch.start : batch.stop])
        on_batch(number, len(batches))
    correct = {path: torch.cat(collected).double() for path, collected in hits.items()}
    per_class = {names[c]: _accuracy(correct, truth == c) for c in sorted(set(truth.tolist()))}
    return Evaluation(
        seen_classes=len(names),
        overall=_accuracy(correct, torch.ones_like(truth, dtype=torch.bool)),
        per_class=per_class,
    )


def _accuracy(correct: Mapping[str, torch.Tensor], chosen: torch.Tensor) -> PathAccuracy:
    means = {path: float(hits[chosen].mean()) for path, hits in correct.items()}
    return PathAccuracy(images=int(chosen.sum()), **means)
