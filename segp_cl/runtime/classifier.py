"""The classifier with which server and worker score images by a learned state."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from segp_cl.errors import IncompatibleStateError, KeepsightError
from segp_cl.odds import at, least_probability
from segp_cl.open_vocabulary import expected_familiarity, open_probabilities
from segp_cl.runtime.adapters import digest_of, head_part, image_part, text_part
from segp_cl.runtime.engines.interface import Engine, EngineName, ServableModel
from segp_cl.runtime.engines.torch_engine import TorchEngine
from segp_cl.scores import Whitener, dual_path_scores, probabilities
from segp_cl.statistics import is_centred, visual_space, visual_space_of_old
from segp_cl.types import LearnerState, Path, Scores
from segp_cl.unknown import NOBODY_SPREAD, Strangeness, share_less_strange


class NoClassesError(KeepsightError):
    """The state has learned no classes yet, so it has no scores."""


@dataclass(frozen=True)
class Features:
    """Output of one forward pass of the image tower: `raw` before the projection, `image` after it (unit norm)."""

    raw: Float[Tensor, "batch raw"]
    image: Float[Tensor, "batch joint"]


@dataclass(frozen=True)
class Parts:
    """What a classifier computes scores with: the model with its adapters merged in, and what features are compared to.

    `prototypes` are in the space of `whitening`, where there is one. `strangeness` is None where it cannot be told.
    """

    model: ServableModel
    text_features: Float[Tensor, "classes joint"]
    prototypes: Float[Tensor, "classes raw"]
    whitening: Whitener | None
    strangeness: Strangeness | None


def embedding_space(state: LearnerState) -> str:
    """Return the joint space's id: 16 hex digits of the SHA-256 of base weights and adapters.

    States with the same id give an image or a text the same vector; vectors of different ids must not be compared.
    """
    return digest_of(state.lora, of=state.weights_digest)[:16]


def image_tower(state: LearnerState) -> str:
    """Return the image tower's id: states with the same id give an image the same raw features."""
    return digest_of(image_part(state.lora), of=state.weights_digest)[:16]


class Classifier:
    """Classifies images by a learned state. Immutable, without gradients, thread-safe.

    The state's adapters are merged into a copy of the base model, which itself does not change; those of the text tower
    when it is first asked for, for the texts of the state's classes are in the state. Words that were never
    taught are scored by the untouched base model: of an image tower that has no adapters, the raw features serve both.
    Pixels may be 8-bit or floats in [0, 1]; they are moved to the model's device, and results stay there. `engine` runs
    the image tower, by default PyTorch does; features and scores are always float32. Without `keep_sums`, `state` loses
    sums and covariance, which are megabytes that only learning needs.

    Raises:
        IncompatibleStateError: the state was learned on other base weights, or its tensors do not fit its classes.
    """

    def __init__(
        self, base: ServableModel, state: LearnerState, *, engine: Engine | None = None, keep_sums: bool = True
    ) -> None:
        if state.weights_digest != base.weights_digest:
            raise IncompatibleStateError(
                f"the state was learned on base weights {state.weights_digest[:12]} ({state.model.name}), "
                f"but the model that was loaded has {base.weights_digest[:12]}"
            )
        if not len(state.classes) == len(state.prototypes) == len(state.text_features):
            raise IncompatibleStateError(
                f"the state names {len(state.classes)} classes, but holds {len(state.prototypes)} prototypes "
                f"and {len(state.text_features)} text features"
            )
        self.state = state if keep_sums else replace(state, sums=None, covariance=None)
        engine = engine or TorchEngine()
        base.check_lora(state.lora)
        self._model = base.with_lora(head_part(state.lora))
        self._pass = engine.image_pass(base, image_part(state.lora))
        self._base = base
        self._base_pass = engine.image_pass(base, None) if state.moves_image_tower else self._pass
        if state.sums is None:
            whitening, prototypes = visual_space_of_old(state.prototypes, state.covariance)
        else:
            whitening, prototypes = visual_space(state.sums)
        self.has_visual_evidence = is_centred(whitening)
        self.familiarity = state.familiarity or expected_familiarity(self.has_visual_evidence)
        self._prototypes = prototypes.to(base.device)
        self._strangeness: Strangeness | None = None
        if state.sums is not None:
            spread = NOBODY_SPREAD if state.held_out is None else state.held_out.nobody_spread
            strangeness = Strangeness.of(state.sums, whitening, prototypes, nobody_spread=spread)
            self._strangeness = None if strangeness is None else strangeness.to(self._prototypes)
        self._whitening: Whitener | None = None
        if whitening is not None:
            self._whitening = whitening.to(self._prototypes)
        self._text_features = state.text_features.to(base.device)

    @property
    def logit_scale(self) -> float:
        """The multiplier of cosines in the model's own softmax."""
        return self._model.logit_scale

    @property
    def device(self) -> torch.device:
        """The device of the model and of results."""
        return self._model.device

    @property
    def engine(self) -> EngineName:
        """The engine that runs the image tower now."""
        return self._pass.engine

    def fall_back(self, why: str) -> bool:
        """Let PyTorch run the image tower from now on. Returns whether another engine ran it before."""
        return self._pass.fall_back(why)

    @property
    def parts(self) -> Parts:
        """What scores are computed with, in a copy of the whole model that has all adapters merged in."""
        return Parts(
            self._base.with_lora(self.state.lora),
            self._text_features,
            self._prototypes,
            self._whitening,
            self._strangeness,
        )

    def scale(self, path: Path) -> float:
        """Return the multiplier of a path's scores whose softmax is a calibrated probability."""
        calibration = self.state.calibration
        return self.logit_scale if calibration is None else float(getattr(calibration, path))

    @torch.inference_mode()
    def features(
        self, pixels: UInt8[Tensor, "batch 3 height width"] | Float[Tensor, "batch 3 height width"]
    ) -> Features:
        """Run one forward pass, which is enough for the scores of every path."""
        raw = self._pass(pixels)
        return Features(raw=raw, image=self._model.project(raw))

    @torch.inference_mode()
    def features_of(self, raw: Float[Tensor, "batch raw"]) -> Features:
        """Compute features from raw features, without running the image tower."""
        raw = raw.to(self.device)
        return Features(raw=raw, image=self._model.project(raw))

    @torch.inference_mode()
    def untouched_image_features(
        self,
        pixels: UInt8[Tensor, "batch 3 height width"] | Float[Tensor, "batch 3 height width"],
        features: Features,
    ) -> Float[Tensor, "batch joint"]:
        """Compute the base model's image features, unit norm, of images whose `features` are known.

        If the state's image tower has adapters, this takes a second pass.
        """
        if self.state.lora is None:
            return features.image
        raw = self._base_pass(pixels) if self.state.moves_image_tower else features.raw
        return self._base.project(raw)

    @torch.inference_mode()
    def scores_of(self, features: Features) -> Scores:
        """Compute scores over the state's classes, in their order.

        Raises:
            NoClassesError: the state has no classes.
        """
        if not self.state.classes:
            raise NoClassesError("this version has learned no classes yet: teach it some, or classify with labels")
        return dual_path_scores(
            features.raw,
            features.image,
            self._text_features,
            self._prototypes,
            fusion_weight=self.state.fusion_weight,
            whitening=self._whitening,
        )

    def scores(self, pixels: UInt8[Tensor, "batch 3 height width"] | Float[Tensor, "batch 3 height width"]) -> Scores:
        """Compute `scores_of(features(pixels))`.

        Raises:
            NoClassesError: the state has no classes.
        """
        return self.scores_of(self.features(pixels))

    @torch.inference_mode()
    def encode_prompts(self, prompts: Sequence[str]) -> Float[Tensor, "prompts joint"]:
        """Compute unit-norm text features of full sentences with the adapted text tower."""
        return self._text_model.text_features(prompts)

    @cached_property
    def _text_model(self) -> ServableModel:
        return self._base.with_lora(text_part(self.state.lora))

    @torch.inference_mode()
    def encode_untouched(self, prompts: Sequence[str]) -> Float[Tensor, "prompts joint"]:
        """Compute unit-norm text features of full sentences with the base model's text tower."""
        return self._base.text_features(prompts)

    @torch.inference_mode()
    def class_probabilities(self, scores: Float[Tensor, "batch classes"], path: Path) -> Float[Tensor, "batch classes"]:
        """Compute the probabilities of the state's classes from the scores of a path.

        They are the softmax at the scale that was fitted on held-out images, or at the model's own where there were
        none. A fused score is its `weighted_mean` here: else it would be 1 + β times as sharp as either branch, and
        every answer would seem almost certain.
        """
        return self.answer_probabilities(self.weighted_mean(scores) if path == "fused" else scores, path)

    @torch.inference_mode()
    def answer_probabilities(self, scores: Float[Tensor, "batch some"], path: Path) -> Float[Tensor, "batch some"]:
        """Compute the same among some of the classes, from scores as they are answered: a fused one is the mean."""
        return probabilities(scores, logit_scale=self.scale(path))

    @torch.inference_mode()
    def weighted_mean(self, fused: Float[Tensor, "batch classes"]) -> Float[Tensor, "batch classes"]:
        """Compute (s_clip + β s_v) / (1 + β) from fused scores, which is on the scale of the two."""
        return fused / (1 + self.state.fusion_weight)

    def least_probability(self, path: Path, coverage: float) -> float | None:
        """Return the least probability of labels in a set that holds the right one with probability `coverage`.

        None where nothing is known of held-out images; 0 if they are too few.
        """
        held_out = self.state.held_out
        if held_out is None:
            return None
        odds = at(held_out.odds[path], self.scale(path), logit_scale=self.logit_scale)
        return least_probability(odds, coverage=coverage, images=held_out.images)

    @torch.inference_mode()
    def strangeness(self, scores: Scores) -> Float[Tensor, " batch"] | None:
        """Return how strange each image looks to the visual path (`segp_cl.unknown`); None: it cannot be told."""
        if self._strangeness is None or scores.length is None:
            return None
        return self._strangeness(scores.visual, scores.length)

    @torch.inference_mode()
    def unknown_scores(self, scores: Scores) -> list[float] | None:
        """Return the share of images of known classes that look less strange than each image; None: it cannot be told.

        An image of a known class exceeds 0.95 in 5 % of cases at most.
        """
        held_out, strange = self.state.held_out, self.strangeness(scores)
        if strange is None or held_out is None or held_out.strangeness is None:
            return None
        return share_less_strange(strange.cpu(), held_out.strangeness, images=held_out.images)

    @torch.inference_mode()
    def open_probabilities(
        self,
        taught: Float[Tensor, "batch taught"],
        visual: Float[Tensor, "batch taught"],
        text: Float[Tensor, "batch both"],
    ) -> Float[Tensor, "batch both"]:
        """Compute probabilities of some taught classes and of words that were never taught, the classes first.

        Args:
            taught: the classes' probabilities among themselves, each row summing to one.
            visual: their visual scores.
            text: cosines of the untouched text path with the classes' prompts, then with the words'.
        """
        return open_probabilities(
            taught,
            visual if self.has_visual_evidence else None,
            text,
            self.familiarity,
            logit_scale=self.logit_scale,
        )

    @torch.inference_mode()
    def probabilities(self, scores: Float[Tensor, "batch classes"]) -> Float[Tensor, "batch classes"]:
        """Compute the softmax of the text scores of any words, at the model's own logit scale."""
        return probabilities(scores, logit_scale=self.logit_scale)
