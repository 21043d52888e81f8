"""Scores of every evaluation image after a task, and what follows from them: accuracies, drift, retention."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path as FilePath

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from benchmarks.accuracy.protocol import Bench, PreparedImages
from benchmarks.accuracy.record import Drift
from benchmarks.accuracy.rows import Path
from segp_cl.config import LearnerConfig
from segp_cl.data.stem import StemInputs
from segp_cl.models.backbone import Backbone
from segp_cl.runtime.classifier import Classifier, Features
from segp_cl.scores import fused_scores, text_scores
from segp_cl.types import LearnerState

BATCH = 64
DRIFT_EDGES = tuple(round(0.7 * step / 20, 4) for step in range(21))  # the divergence is at most ln 2 = 0.693


@dataclass(frozen=True)
class TaskScores:
    """Cosines of every evaluation image, task after task, with the model after one task.

    `text` covers all classes of the data set (untaught ones are asked for as labels), `visual` those taught so far.
    """

    text: Float[Tensor, "images classes"]
    visual: Float[Tensor, "images seen"]
    fusion_weight: float

    def save(self, file: FilePath) -> None:
        """Write as an npz file."""
        with file.open("wb") as opened:
            np.savez(opened, text=self.text.numpy(), visual=self.visual.numpy(), fusion_weight=self.fusion_weight)

    @classmethod
    def load(cls, file: FilePath) -> TaskScores:
        """Read what `save` wrote."""
        with np.load(file) as stored:
            return cls(
                torch.from_numpy(stored["text"]), torch.from_numpy(stored["visual"]), float(stored["fusion_weight"])
            )


def frozen_stages(backbone: Backbone, config: LearnerConfig) -> int:
    """How many leading stages of the image tower no training with `config` changes."""
    probe = backbone.shared_copy()
    return probe.frozen_stages(probe.adapt(config, None, generator=torch.Generator().manual_seed(0)))


class Evaluator:
    """The evaluation images of one benchmark behind the part of the image tower that no training changes.

    The part is that which trainings with `config` leave alone, so a state must come from one that adapts no more.
    """

    def __init__(self, backbone: Backbone, bench: Bench, config: LearnerConfig) -> None:
        self._backbone = backbone
        self._classes = bench.classes
        self._stages = frozen_stages(backbone, config)
        self._inputs = [self._behind_stem(images) for images in bench.evaluation]
        self._untouched: tuple[Tensor, Tensor] | None = None

    def _behind_stem(self, images: PreparedImages) -> StemInputs:
        stem = (lambda pixels: self._backbone.stem(pixels, self._stages)) if self._stages else None
        return StemInputs(images, stem, device=self._backbone.device)

    @torch.no_grad()
    def scores(self, state: LearnerState) -> TaskScores:
        """Both branches' cosines with `state`, whose classes are the benchmark's first ones."""
        taught = len(state.classes)
        assert state.class_names == tuple(c.name for c in self._classes[:taught]), "classes are learned in order"
        model, raw, prompted = self._passed(state)
        features = Features(raw=raw, image=model.project(raw))  # the head may be adapted too
        text, visual = text_scores(features.image, prompted), raw.new_empty(len(raw), 0)
        if taught:
            # the features are there already, so this classifier need not have the adapters
            served = Classifier(self._backbone, replace(state, lora=None)).scores_of(features)
            text, visual = torch.cat([served.text, text], dim=1), served.visual
        return TaskScores(text.float().cpu(), visual.float().cpu(), state.fusion_weight)

    @torch.no_grad()
    def raw(self, state: LearnerState) -> Float[Tensor, "images raw"]:
        """r(x) of every evaluation image, task after task, with `state`'s image tower."""
        return self._passed(state)[1]

    def _passed(self, state: LearnerState) -> tuple[Backbone, Tensor, Tensor]:
        taught = len(state.classes)
        if state.lora is None:  # the same for every such state, and there are many
            self._untouched = self._untouched or self._features(self._backbone, 0)
            return self._backbone, self._untouched[0], self._untouched[1][taught:]
        model = self._backbone.with_lora(state.lora)
        return model, *self._features(model, taught)

    def _features(
        self, model: Backbone, taught: int
    ) -> tuple[Float[Tensor, "images raw"], Float[Tensor, "untaught joint"]]:
        """r(x) of all evaluation images, and u_c of the classes that come after the first `taught`."""
        raw = [
            model.raw_from_stem(inputs.batch(range(at, min(at + BATCH, len(inputs.labels)))), self._stages)
            for inputs in self._inputs
            for at in range(0, len(inputs.labels), BATCH)
        ]
        return torch.cat(raw), model.text_features([c.prompt for c in self._classes[taught:]])


def accuracy_rows(
    scores: Sequence[TaskScores],
    labels: Int64[Tensor, " images"],
    images: Sequence[int],
    classes: Sequence[int],
    path: Path,
) -> list[list[float]]:
    """R_ij: row i from `scores[i]`, over the classes of tasks 0..max(i, j). What is untaught is told by its text.

    Args:
        scores: after each task.
        labels: every evaluation image's class.
        images: how many evaluation images each task has, in the order of `labels`.
        classes: how many classes each task has.
        path: which scores answer; the fused ones with each version's own weight.
    """
    return [
        [
            _accuracy(_answers(scored, part, path, sum(classes[: max(i, j) + 1])), labels[part])
            for j, part in enumerate(_parts(images))
        ]
        for i, scored in enumerate(scores)
    ]


def _answers(scores: TaskScores, part: slice, path: Path, classes: int) -> Float[Tensor, "part some"]:
    text, visual = scores.text[part, :classes], scores.visual[part]
    if path == "text" or classes > visual.shape[1]:
        return text
    if path == "visual":
        return visual
    return fused_scores(text, visual, fusion_weight=scores.fusion_weight)


def global_accuracy(scores: TaskScores, labels: Int64[Tensor, " images"]) -> float:
    """The "global" protocol: text path, all classes of the data set, all evaluation images."""
    return _accuracy(scores.text, labels)


def jensen_shannon(p: Float[Tensor, "images classes"], q: Float[Tensor, "images classes"]) -> Float[Tensor, " images"]:
    """JS(p, q) in nats of distributions given as log-probabilities, row by row."""
    middle = torch.logaddexp(p, q) - math.log(2)
    # what has no probability adds nothing, where 0 * -inf would be no number
    towards = [(side.exp() * (side - middle)).masked_fill(side.isneginf(), 0).sum(dim=-1) for side in (p, q)]
    return torch.stack(towards).mean(dim=0)


def drift(
    scores: Sequence[TaskScores],
    labels: Int64[Tensor, " images"],
    images: Sequence[int],
    classes: Sequence[int],
    *,
    logit_scale: float,
) -> Drift | None:
    """Shift of the cross-modal distribution over C_<t by every update, near and far from the boundary (see `Drift`)."""
    near, far = [], []
    for task in range(1, len(scores)):
        count, old = sum(images[:task]), sum(classes[:task])
        if old < 2:
            continue
        truth = labels[:count]
        before, after = (scores[step].text[:count, :old].double() for step in (task - 1, task))
        divergence = jensen_shannon(*(F.log_softmax(logit_scale * side, dim=-1) for side in (before, after)))
        own = before.gather(1, truth[:, None])[:, 0]
        margin = own - before.scatter(1, truth[:, None], -torch.inf).amax(dim=1)
        by_margin = margin.argsort(stable=True)  # by rank: equal margins must not all fall on one side
        near.append(divergence[by_margin[: count // 2]])
        far.append(divergence[by_margin[count // 2 :]])
    halves = [torch.cat(parts).clamp(0, DRIFT_EDGES[-1]) for parts in (near, far)] if near else []
    if not halves or not len(halves[0]):
        return None
    counts = [tuple(np.histogram(half.numpy(), DRIFT_EDGES)[0].tolist()) for half in halves]
    return Drift(
        near_mean=float(halves[0].mean()),
        far_mean=float(halves[1].mean()),
        edges=DRIFT_EDGES,
        near=counts[0],
        far=counts[1],
    )


def _parts(images: Sequence[int]) -> list[slice]:
    ends = np.cumsum(images).tolist()
    return [slice(end - count, end) for end, count in zip(ends, images, strict=True)]


def _accuracy(scores: Float[Tensor, "images classes"], labels: Int64[Tensor, " images"]) -> float:
    return float((scores.argmax(dim=1) == labels).double().mean())
