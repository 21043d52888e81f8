"""Classes that have no image to spare: measured on their own images, each left out of its class in turn.

See docs/adr/0033.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

import torch
from jaxtyping import Int64
from torch import Tensor

from segp_cl.data.held_out import Split
from segp_cl.runtime.classifier import Classifier, Features
from segp_cl.scores import fused_scores
from segp_cl.statistics import LeaveOneOut
from segp_cl.types import Scores
from worker.evaluation import Answered, OnScores, answered
from worker.evidence import evenly
from worker.seen import Seen

MOST_LEFT_OUT: Final = 256
"""Most images of a task that are left out in turn, evenly from all classes."""


def to_leave_out(labels: Sequence[int], split: Split, *, fraction: float) -> tuple[int, ...]:
    """Return the positions of images to leave out in turn: of classes of which none is held out.

    Args:
        labels: the class of every image.
        split: which of them are held out.
        fraction: the share of the images that is held out of larger classes; 0: nothing is to be measured.
    """
    if fraction == 0:
        return ()
    held = {labels[position] for position in split.held_out}
    return evenly(labels, [at for at in split.train if labels[at] not in held], MOST_LEFT_OUT)


def leave_one_out(
    classifier: Classifier,
    images: Seen,
    *,
    classes: Sequence[str],
    batch_size: int,
    on_batch: Callable[[int, int], None],
    on_scores: OnScores = lambda scores, truth: None,
) -> Answered:
    """Return which answers are right where the visual path's statistics are without the image that is asked about.

    The text path answers as ever. Of a class's only image the visual path knows nothing without it: it cannot answer
    that class, and the fused answer is that of the text path.

    Args:
        classifier: the version's classifier.
        images: at least one image that the version has learned from; labels are positions in `classes`.
        classes: names that the version knows.
        batch_size: images per forward pass.
        on_batch: called with (batches done, batches in all) after each.
        on_scores: called with the scores of each batch, and the rows of its images' classes.
    """
    scorer = _WithoutEach(classifier)
    found = answered(
        classifier,
        images,
        classes=classes,
        batch_size=batch_size,
        on_batch=on_batch,
        on_scores=on_scores,
        scores_of=scorer.scores_of,
        how="left_one_out",
    )
    only = scorer.counts[found.rows] == 1
    return replace(found, only_images=int(only.sum()))


class _WithoutEach:
    def __init__(self, classifier: Classifier) -> None:
        sums = classifier.state.kept_sums
        self.counts = sums.counts
        self._classifier, self._without = classifier, LeaveOneOut(sums)

    def scores_of(self, features: Features, rows: Int64[Tensor, " batch"]) -> Scores:
        scores = self._classifier.scores_of(features)
        text, visual, raw = scores.text.cpu(), scores.visual.cpu().clone(), features.raw.cpu()
        only = self.counts[rows] == 1
        visual[only, rows[only]] = -torch.inf
        visual[~only] = self._without.scores(raw[~only], rows[~only])
        fused = fused_scores(text, visual, fusion_weight=self._classifier.state.fusion_weight)
        return Scores(text=text, visual=visual, fused=torch.where(only[:, None], text, fused))
