"""A learned state made runnable: what server and worker score images with."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from segp_cl.errors import IncompatibleStateError, KeepsightError
from segp_cl.runtime.packed import HasTowers, pack_model, packed_whitening
from segp_cl.runtime.passes import ImagePass, PassSettings
from segp_cl.scores import Whitener, dual_path_scores, probabilities
from segp_cl.statistics import visual_space
from segp_cl.types import LearnerState, LoraState, Scores


class NoClassesError(KeepsightError):
    """Scores over a state's classes were asked for, and the state has learned none yet."""


@dataclass(frozen=True)
class Features:
    """What one forward pass of the image tower yields: `raw` before the projection, `image` after it (unit norm)."""

    raw: Float[Tensor, "batch raw"]
    image: Float[Tensor, "batch joint"]


@runtime_checkable
class ServableModel(Protocol):
    """What the classifier needs of a base model; `segp_cl.models.backbone.Backbone` is one."""

    @property
    def weights_digest(self) -> str: ...
    @property
    def logit_scale(self) -> float: ...
    @property
    def device(self) -> torch.device: ...

    def raw_features(self, pixels: Tensor) -> Tensor: ...
    def project(self, raw: Tensor) -> Tensor: ...
    def text_features(self, prompts: Sequence[str]) -> Tensor: ...
    def with_lora(self, lora: LoraState | None) -> ServableModel: ...


def embedding_space(state: LearnerState) -> str:
    """Names the joint space: 16 hex digits of the SHA-256 of base weights and adapters.

    States with one name give an image or a text the same vector; those of others must not be compared.
    """
    digest = hashlib.sha256(state.weights_digest.encode())
    if state.lora is not None:
        digest.update(repr(state.lora.scale).encode())
        for target, factors in sorted(state.lora.factors.items()):
            digest.update(target.encode())
            for factor in (factors.a, factors.b):
                digest.update(factor.contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


class Classifier:
    """A learned state made runnable: immutable, without gradients, safe to use from many threads.

    The state's adapters are merged into a copy of the base model, which itself stays as it was. Pixels may be 8-bit or
    floats in [0, 1]; they are moved to the model's device, and results stay there. `passes` says how the image tower is
    run; features and scores are float32 whatever it says.

    Raises:
        IncompatibleStateError: the state was learned on other base weights, or its tensors do not fit its classes.
    """

    def __init__(self, base: ServableModel, state: LearnerState, *, passes: PassSettings | None = None) -> None:
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
        self.state = state
        passes = passes or PassSettings()
        self._model = base.with_lora(state.lora)
        if passes.packed:
            assert isinstance(base, HasTowers), "only towers have weights to lay out"
            assert isinstance(self._model, HasTowers)
            pack_model(self._model, base)
        self._pass = ImagePass(self._model, passes)
        covariance = None if state.covariance is None else state.covariance.to(base.device)
        whitening, self._prototypes = visual_space(state.prototypes.to(base.device), covariance)
        self._whitening: Whitener | None = whitening
        if whitening is not None and passes.packed:
            self._whitening = packed_whitening(whitening)
        self._text_features = state.text_features.to(base.device)

    @property
    def logit_scale(self) -> float:
        """The multiplier of cosines in the model's own softmax."""
        return self._model.logit_scale

    @property
    def device(self) -> torch.device:
        """Where the model runs and results lie."""
        return self._model.device

    @torch.inference_mode()
    def features(
        self, pixels: UInt8[Tensor, "batch 3 height width"] | Float[Tensor, "batch 3 height width"]
    ) -> Features:
        """One forward pass, from which the scores of every path follow without another."""
        raw = self._pass(pixels)
        return Features(raw=raw, image=self._model.project(raw))

    @torch.inference_mode()
    def features_of(self, raw: Float[Tensor, "batch raw"]) -> Features:
        """What follows from raw features that were computed before."""
        raw = raw.to(self.device)
        return Features(raw=raw, image=self._model.project(raw))

    @torch.inference_mode()
    def scores_of(self, features: Features) -> Scores:
        """Scores over the state's classes, in their order.

        Raises:
            NoClassesError: the state has none.
        """
        if not self.state.classes:
            raise NoClassesError("this version has learned no classes yet: teach it some, or ask with labels")
        return dual_path_scores(
            features.raw,
            features.image,
            self._text_features,
            self._prototypes,
            fusion_weight=self.state.fusion_weight,
            whitening=self._whitening,
        )

    def scores(self, pixels: UInt8[Tensor, "batch 3 height width"] | Float[Tensor, "batch 3 height width"]) -> Scores:
        """`scores_of(features(pixels))`.

        Raises:
            NoClassesError: the state has no classes.
        """
        return self.scores_of(self.features(pixels))

    @torch.inference_mode()
    def encode_prompts(self, prompts: Sequence[str]) -> Float[Tensor, "prompts joint"]:
        """Unit-norm text features of full sentences, by the adapted text tower."""
        return self._model.text_features(prompts)

    @torch.inference_mode()
    def fused_probabilities(self, fused: Float[Tensor, "batch classes"]) -> Float[Tensor, "batch classes"]:
        """Softmax of fused scores as the weighted mean of two cosines, (s_clip + β s_v) / (1 + β), at the logit scale.

        Fused scores as they are would be 1 + β times as sharp as either branch, and every answer all but certain.
        """
        return probabilities(fused / (1 + self.state.fusion_weight), logit_scale=self.logit_scale)

    @torch.inference_mode()
    def probabilities(self, scores: Float[Tensor, "batch classes"]) -> Float[Tensor, "batch classes"]:
        """Softmax at the model's own logit scale."""
        return probabilities(scores, logit_scale=self.logit_scale)
