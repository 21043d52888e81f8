"""Golden answers: what a version answered when it was published, to be compared before it is served.

The pictures are computed, so no image is stored: a version holds their features and scores.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from segp_cl.errors import KeepsightError
from segp_cl.runtime.classifier import Classifier, Features

PICTURES = 2
MIN_COSINE = 0.99
"""Least cosine between features then and now; bfloat16 and other hardware stay well above it."""
MAX_SCORE_DIFFERENCE = 2e-3
"""Largest difference between scores then and now, both computed from the stored features."""


class GoldenAnswersError(KeepsightError):
    """A version does not answer as it did when it was published."""


@dataclass(frozen=True)
class GoldenAnswers:
    """Answers to the generated pictures, float32 on the CPU. `scores` are fused, over all classes."""

    raw: Float[Tensor, "pictures raw"]
    image: Float[Tensor, "pictures joint"]
    scores: Float[Tensor, "pictures classes"]


def pictures(size: int, count: int = PICTURES) -> Float[Tensor, "count 3 size size"]:
    """Generate waves in [0, 1], of another frequency and direction in every picture and channel."""
    grid = torch.linspace(0, 1, size, dtype=torch.float64)
    rows, columns = torch.meshgrid(grid, grid, indexing="ij")
    waves = [
        torch.sin(2 * math.pi * ((1 + number) * rows * (1 + channel) + (3 - channel) * columns + number / 3))
        for number in range(count)
        for channel in range(3)
    ]
    return (0.5 + 0.5 * torch.stack(waves)).view(count, 3, size, size).to(torch.float32)


def record(classifier: Classifier, size: int) -> GoldenAnswers:
    """Record the golden answers of `classifier`, whose model takes pictures of `size` pixels."""
    features = classifier.features(pictures(size))
    return GoldenAnswers(raw=features.raw.cpu(), image=features.image.cpu(), scores=_scores(classifier, features))


def replay(classifier: Classifier, golden: GoldenAnswers, size: int) -> None:
    """Compare the classifier's answers with `golden`: the image tower's features, then `replay_features`.

    Raises:
        GoldenAnswersError: the answers differ.
    """
    raw = classifier.features(pictures(size)).raw.cpu()
    _compare("image tower", raw, golden.raw)
    replay_features(classifier, golden)


def replay_features(classifier: Classifier, golden: GoldenAnswers) -> None:
    """Compare the answers that follow from the stored features: one matrix product each, without the image tower.

    Raises:
        GoldenAnswersError: the answers differ.
    """
    features = classifier.features_of(golden.raw)
    _compare("projection", features.image.cpu(), golden.image)
    scores = _scores(classifier, features)
    if scores.shape != golden.scores.shape:
        raise GoldenAnswersError(f"{scores.shape[1]} classes are scored, expected {golden.scores.shape[1]}")
    difference = float((scores - golden.scores).abs().max()) if scores.numel() else 0.0
    if not difference <= MAX_SCORE_DIFFERENCE:
        raise GoldenAnswersError(
            f"scores differ by {difference:.3g} from those at publication, expected at most {MAX_SCORE_DIFFERENCE:g}"
        )


def _scores(classifier: Classifier, features: Features) -> Float[Tensor, "pictures classes"]:
    if not classifier.state.classes:
        return torch.zeros(len(features.raw), 0)
    return classifier.scores_of(features).fused.cpu()


def _compare(what: str, found: Tensor, expected: Tensor) -> None:
    if found.shape != expected.shape:
        raise GoldenAnswersError(
            f"the {what} gives features of shape {tuple(found.shape)}, expected {tuple(expected.shape)}"
        )
    cosine = float(F.cosine_similarity(found, expected).min())
    if not cosine >= MIN_COSINE:
        raise GoldenAnswersError(
            f"features by the {what} have cosine {cosine:.4f} with those at publication, "
            f"expected at least {MIN_COSINE:g}"
        )
