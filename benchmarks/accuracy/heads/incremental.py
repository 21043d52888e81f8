"""A closed-form head that learns task after task: it keeps sums and counts, and no feature of a past task."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from benchmarks.accuracy.heads.gda import gda, text_weight
from benchmarks.accuracy.heads.kinds import Kind, Scorer
from benchmarks.accuracy.heads.ranpac import RandomFeatures
from benchmarks.accuracy.heads.sums import Sums
from benchmarks.accuracy.heads.tally import Tally

BATCH = 1_024


@dataclass(frozen=True)
class Labelled:
    """Unit-norm features of images: `visual` for the head, `joint` for the text path; classes by their place so far."""

    visual: Float[Tensor, "images dim"]
    joint: Float[Tensor, "images joint"]
    labels: Int64[Tensor, " images"]

    def at(self, positions: Int64[Tensor, " some"]) -> Labelled:
        """Those at `positions`."""
        return Labelled(self.visual[positions], self.joint[positions], self.labels[positions])


@dataclass(frozen=True)
class Solved:
    """A head after a task: its scores, β where the text path is added, and the value of its setting by name."""

    scores: Scorer
    fusion_weight: float
    chosen: Mapping[str, float]


class Incremental:
    """Sums over the images that were learned from and over those that were kept back, apart, and a tally.

    Args:
        kind: the head.
        seed: of random features.
        kept_are_learned: kept-back images are a part of the training images, so the head that answers is solved with
            them too. What is chosen on them is chosen by heads without them.
        expected_weight: β while nothing was kept back.
    """

    def __init__(self, kind: Kind, *, seed: int, kept_are_learned: bool, expected_weight: float) -> None:
        self._kind, self._seed, self._kept_are_learned = kind, seed, kept_are_learned
        self._expected_weight = expected_weight
        self._tally = Tally(kind.grid, default=kind.default)
        self._random: RandomFeatures | None = None
        self._learned: Sums | None = None
        self._kept: Sums | None = None

    def learn(self, images: Labelled, kept: Labelled, *, classes: int) -> None:
        """Add a task. `classes` are all so far. No image is in both `images` and `kept`, and `kept` may be empty."""
        if self._kind.width and self._random is None:
            self._random = RandomFeatures(images.visual.shape[1], self._kind.width, seed=self._seed)
        added = Sums.of(self._lifted(images.visual), images.labels, classes=classes)
        self._learned = added if self._learned is None else self._learned + added
        seen = self._lifted(kept.visual)
        beside = Sums.of(torch.cat([seen, kept.joint.double()], dim=1), kept.labels, classes=classes)
        self._kept = beside if self._kept is None else self._kept + beside
        if len(self._kind.grid) > 1 and len(kept.labels):
            head = self._kind.solver(self._learned)
            for value in self._kind.grid:
                right = head(value)(seen).argmax(dim=1) == kept.labels
                self._tally.add(value, int(right.sum()))

    def solve(self, texts: Float[Tensor, "classes joint"] | None = None) -> Solved:
        """The head over all classes so far; `texts` are their text features, which a fused head needs."""
        assert self._learned is not None, "a task was learned"
        assert self._kept is not None
        sums, value = self._learned, self._tally.best()
        if self._kept_are_learned:
            sums = sums + self._kept.first(sums.dim)
        head, weight = self._kind.solver(sums)(value), 0.0
        if self._kind.fused:
            assert texts is not None
            found = text_weight(self._kept, gda(self._learned), texts)
            # GDA's scores shrink as images are added, so the weight grows
            grown = max(sums.images - 1, 1) / max(self._learned.images - 1, 1)
            weight = self._expected_weight if found is None else found * grown
        return Solved(
            scores=lambda features: torch.cat([head(self._lifted(part)) for part in torch.split(features, BATCH)]),
            fusion_weight=weight,
            chosen={self._kind.setting: value} if len(self._kind.grid) > 1 else {},
        )

    def _lifted(self, features: Float[Tensor, "images dim"]) -> Float[Tensor, "images width"]:
        return features.double() if self._random is None else self._random(features)
