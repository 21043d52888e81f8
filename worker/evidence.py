"""Measures what the gate judges: a new version's answers to images, and to sampled features of the old classes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from segp_cl.runtime.classifier import Classifier
from segp_cl.runtime.golden import GoldenAnswers
from segp_cl.statistics import FeatureSampler
from segp_cl.types import Scores
from worker.gate import Answers
from worker.seen import Seen

MOST_TAUGHT: Final = 64
"""Most taught images that are measured, evenly from all classes."""
MOST_SAMPLES: Final = 4096
"""Most sampled features, unless there are more old classes than this."""
SAMPLES_PER_CLASS: Final = 16
_BATCH: Final = 1024
_SEED: Final = 0


class Tally:
    """Counts answers by the fused path while they are computed, and those of the text path that are right.

    Args:
        classifier: gives the probabilities.
        text_among: rows of the classes among which the text path answers; None: all.
    """

    def __init__(self, classifier: Classifier, text_among: Sequence[int] | None = None) -> None:
        self._classifier = classifier
        self._names = classifier.state.class_names
        self._images = torch.zeros(len(self._names), dtype=torch.int64)
        self._right = torch.zeros(len(self._names), dtype=torch.int64)
        self._answered: set[int] = set()
        self._top = 0.0
        self._not_finite = 0
        self._text_right = 0
        among = range(len(self._names)) if text_among is None else text_among
        self._text_among = torch.tensor(among, dtype=torch.int64)

    def add(self, scores: Scores, truth: Int64[Tensor, " batch"]) -> None:
        """Add the scores of a batch; `truth` has the row of each image's class. A score that is not finite is wrong."""
        finite = torch.stack([getattr(scores, path).isfinite().all(dim=1) for path in ("text", "visual", "fused")])
        usable = finite.all(dim=0).cpu()
        probabilities = self._classifier.class_probabilities(scores.fused, "fused").cpu()
        answers = scores.fused.argmax(dim=1).cpu()
        self._images += torch.bincount(truth, minlength=len(self._names))
        self._right += torch.bincount(truth[usable & (answers == truth)], minlength=len(self._names))
        self._answered |= set(answers[usable].tolist())
        self._top += float(probabilities[usable].max(dim=1).values.sum()) if bool(usable.any()) else 0.0
        self._not_finite += int((~usable).sum())
        by_text = self._text_among[scores.text.cpu()[:, self._text_among].argmax(dim=1)]
        self._text_right += int((usable & (by_text == truth)).sum())

    def answers(self) -> Answers:
        """Return the counts so far."""
        images = int(self._images.sum())
        present = self._images.nonzero().flatten().tolist()
        return Answers(
            by_class={self._names[row]: (int(self._images[row]), int(self._right[row])) for row in present},
            distinct=len(self._answered),
            top_probability=self._top / max(1, images - self._not_finite),
            not_finite=self._not_finite,
            text_right=self._text_right,
        )


def evenly(labels: Sequence[int], chosen: Iterable[int], most: int = MOST_TAUGHT) -> tuple[int, ...]:
    """Return at most `most` of the `chosen` positions, ascending: one of each class, then a second one, and so on."""
    turn: dict[int, int] = {}
    ranked = []
    for position in chosen:
        label = labels[position]
        turn[label] = turn.get(label, 0) + 1
        ranked.append((turn[label], position))
    return tuple(sorted(position for _, position in sorted(ranked)[:most]))


class OldClasses:
    """Features of a parent's classes, sampled from its statistics, to compare answers before and after an update.

    No image of an old class is kept, so this is what there is. Where the update has changed the image tower, it moves
    the features of old images too; how, only images of the update can show. So each sampled feature is moved as one of
    those was. The same parent and the same images give the same features.

    Args:
        parent: the version before the update.
        images: at least one image of the update.
        but: classes that the update teaches, which are left out: what is answered to them may change. There are others.
    """

    def __init__(self, parent: Classifier, images: Seen, *, but: Iterable[str]) -> None:
        self._seen = images
        self._images = self._raw(parent)
        self._sampled = SampledClasses(parent, self._images.norm(dim=1).mean(), but=but)
        self.answers_before = self._sampled.answers_before

    def after(self, classifier: Classifier) -> Answers:
        """Return the answers of the version after the update, which knows all of these classes."""
        return self._sampled.after(classifier, self._raw(classifier) - self._images)

    def _raw(self, classifier: Classifier) -> Float[Tensor, "images raw"]:
        return self._seen.by(classifier, range(len(self._seen.labels))).raw.cpu()


class SampledClasses:
    """Features of a version's classes, sampled from its statistics, and its answers to them.

    Args:
        parent: the version.
        norm: the usual norm of raw features.
        but: classes that are left out. There are others.

    Attributes:
        raw: the features.
        names: the class that each was sampled from.
        answers_before: the version's answers.
    """

    def __init__(self, parent: Classifier, norm: Float[Tensor, ""], *, but: Iterable[str] = ()) -> None:
        left_out, state = set(but), parent.state
        rows = [row for row, name in enumerate(state.class_names) if name not in left_out]
        per_class = 1
        if state.covariance is not None:
            per_class = max(1, min(SAMPLES_PER_CLASS, MOST_SAMPLES // len(rows)))
        drawn = torch.tensor(rows).repeat_interleave(per_class)
        self.names = [state.class_names[row] for row in drawn.tolist()]
        self._old = state.class_names
        self.raw = FeatureSampler(state.prototypes, state.covariance).draw(
            drawn, norm, generator=torch.Generator().manual_seed(_SEED)
        )
        self.answers_before = self._answers(parent, self.raw)

    def after(self, classifier: Classifier, drift: Float[Tensor, "images raw"] | None = None) -> Answers:
        """Return the answers of a version that knows all of these classes; `drift` is how its tower moved features."""
        if drift is None:
            return self._answers(classifier, self.raw)
        return self._answers(classifier, self.raw + drift[torch.arange(len(self.raw)) % len(drift)])

    def _answers(self, classifier: Classifier, raw: Float[Tensor, "sampled raw"]) -> Answers:
        place = {name: row for row, name in enumerate(classifier.state.class_names)}
        truth = torch.tensor([place[name] for name in self.names])
        # new names may be nearer to an old class than its own: that is no ruin, so texts of old classes are compared
        tally = Tally(classifier, text_among=[place[name] for name in self._old if name in place])
        for some, of_batch in zip(torch.split(raw, _BATCH), torch.split(truth, _BATCH), strict=True):
            tally.add(classifier.scores_of(classifier.features_of(some)), of_batch)
        return tally.answers()


def not_finite(golden: GoldenAnswers) -> int:
    """Return how many numbers of the golden answers are not finite."""
    return sum(int((~tensor.isfinite()).sum()) for tensor in (golden.raw, golden.image, golden.scores))
