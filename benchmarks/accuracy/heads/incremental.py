"""A closed-form head that learns task after task: it keeps sums and counts, and no feature of a past task."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from benchmarks.accuracy.heads.kinds import Kind, Scorer
from benchmarks.accuracy.heads.ranpac import RandomFeatures
from benchmarks.accuracy.heads.sums import Sums
from benchmarks.accuracy.heads.tally import Tally
from benchmarks.accuracy.heads.whitened import Whitened

BATCH = 1_024


@dataclass(frozen=True)
class Labelled:
    """Unit-norm features of images: `visual` for the head, `joint` for the text path; labels among all classes."""

    visual: Float[Tensor, "images dim"]
    joint: Float[Tensor, "images joint"]
    labels: Int64[Tensor, " images"]

    def at(self, positions: Int64[Tensor, " some"]) -> Labelled:
        """Those at `positions`."""
        return Labelled(self.visual[positions], self.joint[positions], self.labels[positions])


@dataclass(frozen=True)
class Solved:
    """A head after a task: its scores, β where the text path is added to it, and its setting by name."""

    scores: Scorer
    fusion_weight: float
    chosen: Mapping[str, float]


class Incremental:
    """Sums over the images that were learned from and over those that were kept back, apart; and a tally.

    Args:
        kind: the head.
        seed: of random features.
        kept_are_learned: kept-back images are a part of the training images, so the head that answers is solved with
            them too. What is chosen on them is chosen by heads that were solved without them.
    """

    def __init__(self, kind: Kind, *, seed: int, kept_are_learned: bool) -> None:
        self._kind, self._seed, self._kept_are_learned = kind, seed, kept_are_learned
        self._tally = Tally(kind.grid, default=kind.default)
        self._random: RandomFeatures | None = None
        self._learned: Sums | None = None
        self._kept: Sums | None = None

    def learn(
        self, images: Labelled, kept: Labelled, *, classes: int, texts: Float[Tensor, "classes joint"] | None = None
    ) -> None:
        """Add a task.

        Args:
            images: to learn from.
            kept: kept back, none of them in `images`; may be empty.
            classes: how many there are so far.
            texts: their text features, which a fused head needs.
        """
        if self._kind.width and self._random is None:
            self._random = RandomFeatures(images.visual.shape[1], self._kind.width, seed=self._seed)
        lifted = self._lifted(kept.visual)
        learned = Sums.of(self._lifted(images.visual), images.labels, classes=classes)
        beside = Sums.of(lifted, kept.labels, classes=classes)
        self._learned = learned if self._learned is None else self._learned + learned
        self._kept = beside if self._kept is None else self._kept + beside
        if len(self._kind.grid) < 2 or self._kind.chosen_by == "likelihood" or not len(kept.labels):
            return
        solution = self._kind.solver(self._learned)
        if self._kind.fused:
            assert texts is not None, "a fused head needs texts"
            text, visual = kept.joint.double() @ texts.double().T, solution.attempt(lifted, 1.0)
        for value in self._kind.grid:
            scores = text + value * visual if self._kind.fused else solution.attempt(lifted, value)
            self._tally.add(value, int((scores.argmax(dim=1) == kept.labels).sum()))

    def solve(self) -> Solved:
        """The head over all classes so far."""
        assert self._learned is not None, "a task was learned"
        assert self._kept is not None
        value = self._choice(self._learned, self._kept)
        sums = self._learned + self._kept if self._kept_are_learned else self._learned
        head = self._kind.solver(sums).head(value)
        return Solved(
            scores=lambda features: torch.cat([head(self._lifted(part)) for part in torch.split(features, BATCH)]),
            fusion_weight=value if self._kind.fused else 0.0,
            chosen={self._kind.setting: value} if self._kind.setting else {},
        )

    def _choice(self, learned: Sums, kept: Sums) -> float:
        if self._kind.chosen_by == "right answers":
            return self._tally.best()
        if kept.images == 0:
            return self._kind.default
        whitened = Whitened(learned)
        return max(self._kind.grid, key=lambda value: whitened.log_likelihood(kept, value))

    def _lifted(self, features: Float[Tensor, "images dim"]) -> Float[Tensor, "images width"]:
        return features.double() if self._random is None else self._random(features)
