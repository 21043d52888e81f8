"""Teaches classes from their features as an update without training does, and answers as a server does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor, nn

from benchmarks.answers.features import Images, Photos
from segp_cl.config import LearnerConfig, ResolvedConfig
from segp_cl.data.held_out import drawn_from, hold_out
from segp_cl.data.preprocessing import Preprocessing
from segp_cl.learn.learner import FEWEST_IMAGES_TO_HOLD_OUT
from segp_cl.learn.strategies.shared import Gathered, finish
from segp_cl.learn.training import Reporter, Session
from segp_cl.models.backbone import Backbone
from segp_cl.runtime.classifier import Classifier
from segp_cl.statistics import MomentSums
from segp_cl.types import LearnedClass, LearnerState, ModelSpec, Scores, Task, TaskClass


def given_features(logit_scale: float) -> Backbone:
    """Return a model whose raw features are given, and lie in the joint space already."""

    def no_words(prompts: Sequence[str]) -> Tensor:
        raise AssertionError("text features are given")

    return Backbone(
        spec=ModelSpec("given features"),
        weights_digest="given",
        image_tower=nn.Flatten(),
        head=nn.Identity(),
        text_tower=nn.Identity(),
        tokenize=no_words,
        logit_scale=logit_scale,
        preprocessing=Preprocessing(1, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    )


@dataclass(frozen=True)
class _Labels:
    """The images of a task, whose features are known: labels alone."""

    labels: tuple[int, ...]

    def pixels(self, indices: Sequence[int]) -> Tensor:
        raise AssertionError("features are known")


def _untouched(model: Backbone, texts: Float[Tensor, "seen joint"]) -> Backbone:
    """Return the model before all teaching, whose text tower gives these features."""
    told = model.shared_copy()
    told.text_tower = nn.Identity()
    told.tokenize = lambda prompts: texts
    return told


@dataclass(frozen=True)
class Lineage:
    """A model, and what its versions are taught with."""

    model: Backbone
    config: ResolvedConfig

    @classmethod
    def on(cls, model: Backbone) -> Lineage:
        """Return the lineage with the model's own settings."""
        return cls(model, model.resolve(LearnerConfig(strategy="prototypes")))

    def begin(self, raw: int, joint: int) -> LearnerState:
        """Return the state before any task, for features of these widths."""
        return LearnerState(
            model=ModelSpec(),
            weights_digest=self.model.weights_digest,
            classes=(),
            prototypes=torch.empty(0, raw),
            text_features=torch.empty(0, joint),
            lora=None,
            fusion_weight=self.config.fusion_weight,
        )

    def teach(
        self, state: LearnerState, images: Images, texts: Float[Tensor, "new joint"], *, seed: int
    ) -> LearnerState:
        """Return the state after a task of new classes; labels are positions in `texts`."""
        generator = torch.Generator().manual_seed(seed)
        old, counts = len(state.classes), torch.bincount(images.labels, minlength=len(texts)).tolist()
        new = [TaskClass(f"class {old + row}", f"class {old + row}") for row in range(len(texts))]
        labels = tuple(images.labels.tolist())
        split = hold_out(
            labels,
            fraction=self.config.fusion_holdout,
            min_images=FEWEST_IMAGES_TO_HOLD_OUT,
            shuffle=drawn_from(generator),
        )
        known_texts = torch.cat([state.text_features, texts])
        session = Session(
            base=_untouched(self.model, known_texts),
            model=self.model,
            old=state,
            task=Task("features", tuple(new), _Labels(labels)),
            seen=(*(TaskClass(c.name, c.prompt) for c in state.classes), *new),
            task_rows=tuple(range(old, old + len(new))),
            config=self.config,
            generator=generator,
            dtype=torch.float32,
            report=Reporter(None),
            held_out=split.held_out,
            chooses_fusion_weight=True,
        )
        outcome = finish(session, _gathered(session, images, known_texts), lora=None)
        known = [LearnedClass(c.name, c.prompt, state.tasks + 1, count) for c, count in zip(new, counts, strict=True)]
        return replace(
            state,
            classes=(*state.classes, *known),
            prototypes=outcome.sums.means,
            text_features=outcome.text_features,
            fusion_weight=outcome.fusion_weight,
            tasks=state.tasks + 1,
            covariance=outcome.sums.covariance,
            sums=outcome.sums,
            calibration=outcome.calibration,
            held_out=outcome.held_out,
        )

    def answering(self, state: LearnerState) -> Classifier:
        """Return the classifier that serves `state`."""
        return Classifier(self.model, state)


@dataclass(frozen=True, eq=False)
class Taught:
    """The state after a task: all its classes, by their positions in the data set, of which the last `new` are new."""

    state: LearnerState
    classes: list[int]
    new: int


def history(lineage: Lineage, photos: Photos, seed: int) -> list[Taught]:
    """Teach a data set task by task, in the order of `seed`."""
    state, found = lineage.begin(photos.train.raw.shape[1], photos.texts.shape[1]), []
    seen: list[int] = []
    for task, classes in enumerate(photos.order(seed)):
        state = lineage.teach(state, photos.train.of(classes), photos.texts[classes], seed=100 * seed + task)
        seen = [*seen, *classes]
        found.append(Taught(state, seen, len(classes)))
    return found


def scores_of(classifier: Classifier, raw: Float[Tensor, "images raw"]) -> Scores:
    """Return the scores of images whose raw features are known."""
    return classifier.scores_of(classifier.features_of(raw))


def _gathered(session: Session, images: Images, texts: Float[Tensor, "seen joint"]) -> Gathered:
    sums = MomentSums(len(session.task.classes))
    learned, held_out = torch.tensor(session.trained_on), torch.tensor(session.held_out, dtype=torch.int64)
    known = session.old.kept_sums
    sums.add(images.raw[learned], images.labels[learned])
    before = final = known.plus(sums.total(), session.task_rows)
    kept: tuple[tuple[Tensor, Tensor], ...] = ()
    if len(held_out):
        kept = ((images.raw[held_out], images.labels[held_out]),)
        sums.add(*kept[0])
        final = known.plus(sums.total(), session.task_rows)
    return Gathered(before, final, kept, texts, images.raw[learned].norm(dim=1).mean())
