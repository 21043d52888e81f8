"""Scores of every evaluation image after a task, and what follows from them: accuracies, drift, retention."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import astuple, dataclass, replace
from pathlib import Path as FilePath
from typing import get_args

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
from segp_cl.open_vocabulary import open_probabilities
from segp_cl.runtime.classifier import Classifier, Features
from segp_cl.scores import fused_scores, text_scores
from segp_cl.types import Familiarity, LearnerState

BATCH = 64
DRIFT_EDGES = tuple(round(0.7 * step / 20, 4) for step in range(21))  # the divergence is at most ln 2 = 0.693


@dataclass(frozen=True)
class OpenScores:
    """What the service answers by when a request asks for classes of which only the first ones are taught.

    `untouched` are the base model's text cosines with all classes of the data set, `taught` the probabilities of the
    taught ones among themselves, for each path in the order of `Path`. `comparable`: there is visual evidence for a
    taught class (see `segp_cl.open_vocabulary`).
    """

    untouched: Float[Tensor, "images classes"]
    taught: Float[Tensor, "paths images seen"]
    comparable: bool
    familiarity: Familiarity
    logit_scale: float


@dataclass(frozen=True)
class TaskScores:
    """Cosines of every evaluation image, task after task, with the model after one task.

    `text` covers all classes of the data set, `visual` those taught so far. Untaught classes are asked for as labels.
    Their texts are the untouched model's, and answers over them and taught classes follow from `opened`; without it
    all texts are the adapted model's, and `text` answers.
    """

    text: Float[Tensor, "images classes"]
    visual: Float[Tensor, "images seen"]
    fusion_weight: float
    opened: OpenScores | None = None

    def save(self, file: FilePath) -> None:
        """Write as an npz file."""
        arrays: dict[str, np.ndarray | float] = {
            "text": self.text.numpy(),
            "visual": self.visual.numpy(),
            "fusion_weight": self.fusion_weight,
        }
        if self.opened is not None:
            arrays |= {
                "untouched": self.opened.untouched.numpy(),
                "taught": self.opened.taught.numpy(),
                "comparable": self.opened.comparable,
                "familiarity": np.array(astuple(self.opened.familiarity)),
                "logit_scale": self.opened.logit_scale,
            }
        with file.open("wb") as opened:
            np.savez(opened, allow_pickle=False, **arrays)

    @classmethod
    def load(cls, file: FilePath) -> TaskScores:
        """Read what `save` wrote."""
        with np.load(file) as stored:
            opened = None
            if "untouched" in stored:
                visual, text, offset, images = stored["familiarity"].tolist()
                opened = OpenScores(
                    torch.from_numpy(stored["untouched"]),
                    torch.from_numpy(stored["taught"]),
                    bool(stored["comparable"]),
                    Familiarity(visual, text, offset, int(images)),
                    float(stored["logit_scale"]),
                )
            return cls(
                torch.from_numpy(stored["text"]),
                torch.from_numpy(stored["visual"]),
                float(stored["fusion_weight"]),
                opened,
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
        self._untouched: Tensor | None = None
        self._texts: Tensor | None = None

    def _behind_stem(self, images: PreparedImages) -> StemInputs:
        stem = (lambda pixels: self._backbone.stem(pixels, self._stages)) if self._stages else None
        return StemInputs(images, stem, device=self._backbone.device)

    @torch.no_grad()
    def scores(self, state: LearnerState) -> TaskScores:
        """Both branches' cosines with `state`, whose classes are the benchmark's first ones."""
        taught = len(state.classes)
        assert state.class_names == tuple(c.name for c in self._classes[:taught]), "classes are learned in order"
        model, raw = self._passed(state)
        features = Features(raw=raw, image=model.project(raw))  # the head may be adapted too
        if state.moves_image_tower:
            untaught = text_scores(features.image, model.text_features([c.prompt for c in self._classes[taught:]]))
            untouched = None
        else:
            untouched = self._untouched_text(raw)
            untaught = untouched[:, taught:]
        if not taught:
            return TaskScores(untaught.cpu(), raw.new_empty(len(raw), 0).cpu(), state.fusion_weight)
        # the features are there already, so this classifier need not have the adapters
        served = Classifier(self._backbone, replace(state, lora=None))
        scores = served.scores_of(features)
        opened = None
        if untouched is not None:
            opened = OpenScores(
                untouched.cpu(),
                torch.stack([served.class_probabilities(getattr(scores, path), path) for path in get_args(Path)]).cpu(),
                served.has_visual_evidence,
                served.familiarity,
                served.logit_scale,
            )
        text = torch.cat([scores.text, untaught], dim=1)
        return TaskScores(text.float().cpu(), scores.visual.float().cpu(), state.fusion_weight, opened)

    @torch.no_grad()
    def raw(self, state: LearnerState) -> Float[Tensor, "images raw"]:
        """r(x) of every evaluation image, task after task, with `state`'s image tower."""
        return self._passed(state)[1]

    def _passed(self, state: LearnerState) -> tuple[Backbone, Tensor]:
        """The model with the state's adapters, and r(x) of all evaluation images."""
        model = self._backbone if state.lora is None else self._backbone.with_lora(state.lora)
        if state.moves_image_tower:
            return model, self._raw(model)
        if self._untouched is None:  # the same for every such state, and there are many
            self._untouched = self._raw(self._backbone)
        return model, self._untouched

    def _raw(self, model: Backbone) -> Float[Tensor, "images raw"]:
        return torch.cat(
            [
                model.raw_from_stem(inputs.batch(range(at, min(at + BATCH, len(inputs.labels)))), self._stages)
                for inputs in self._inputs
                for at in range(0, len(inputs.labels), BATCH)
            ]
        )

    def _untouched_text(self, raw: Float[Tensor, "images raw"]) -> Float[Tensor, "images classes"]:
        if self._texts is None:
            prompts = [c.prompt for c in self._classes]
            self._texts = text_scores(self._backbone.project(raw), self._backbone.text_features(prompts))
        return self._texts


def accuracy_rows(
    scores: Sequence[TaskScores],
    labels: Int64[Tensor, " images"],
    images: Sequence[int],
    classes: Sequence[int],
    path: Path,
) -> list[list[float]]:
    """R_ij: row i from `scores[i]`, over the classes of tasks 0..max(i, j), as the service answers when asked for them.

    Args:
        scores: after each task.
        labels: every evaluation image's class.
        images: how many evaluation images each task has, in the order of `labels`.
        classes: how many classes each task has.
        path: which scores answer; the fused ones with each version's own weight.
    """
    return [
        [
            _accuracy(answers(scored, part, path, sum(classes[: max(i, j) + 1])), labels[part])
            for j, part in enumerate(_parts(images))
        ]
        for i, scored in enumerate(scores)
    ]


def answers(scores: TaskScores, part: slice, path: Path, classes: int) -> Float[Tensor, "part some"]:
    """Return scores of some evaluation images over the first `classes` classes, as the service ranks them."""
    text, visual, opened = scores.text[part, :classes], scores.visual[part], scores.opened
    if classes > visual.shape[1] and opened is not None:
        return open_probabilities(
            opened.taught[get_args(Path).index(path), part],
            visual if opened.comparable else None,
            opened.untouched[part, :classes],
            opened.familiarity,
            logit_scale=opened.logit_scale,
        )
    if path == "text" or classes > visual.shape[1]:
        return text
    if path == "visual":
        return visual
    return fused_scores(text, visual, fusion_weight=scores.fusion_weight)


def global_accuracy(scores: TaskScores, labels: Int64[Tensor, " images"]) -> float:
    """The "global" protocol: text path, all classes of the data set, all evaluation images."""
    return _accuracy(answers(scores, slice(None), "text", scores.text.shape[1]), labels)


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
