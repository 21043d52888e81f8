"""Dual-path scores: the one implementation that the server and the worker share."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from segp_cl.config import WHITENING_SHRINKAGE
from segp_cl.errors import IncompatibleStateError, KeepsightError
from segp_cl.packed import PackedLinear, Packs
from segp_cl.passes import ImagePass, PassSettings
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
    """What the classifier needs of a base model; `segp_cl.backbone.Backbone` is one."""

    @property
    def weights_digest(self) -> str: ...
    @property
    def logit_scale(self) -> float: ...
    @property
    def device(self) -> torch.device: ...

    def raw_features(self, pixels: Tensor) -> Tensor: ...
    def project(self, raw: Tensor) -> Tensor: ...
    def text_features(self, prompts: Sequence[str]) -> Tensor: ...
    def with_lora(self, lora: LoraState | None, *, packed: bool = False) -> ServableModel: ...


def text_scores(
    image_features: Float[Tensor, "batch joint"], text_features: Float[Tensor, "classes joint"]
) -> Float[Tensor, "batch classes"]:
    """s_clip(x, c) = v̄·u_c (eq. 5): a plain cosine, so both arguments must have unit norm."""
    return image_features @ text_features.T


@dataclass(frozen=True)
class Whitening:
    """The space in which features vary alike in all directions within a class.

    Directions in which a class's own images differ (lighting, pose) count for less there than in the raw space. Not in
    the paper: docs/adr/0009.
    """

    matrix: Float[Tensor, "raw raw"]
    product: PackedLinear | None = None

    def packed(self) -> Whitening:
        """The same, with its matrix laid out for the CPU's kernels."""
        return Whitening(self.matrix, PackedLinear(Packs([]), self.matrix, None))

    @classmethod
    def of(cls, covariance: Float[Tensor, "raw raw"], *, shrinkage: float) -> Whitening | None:
        """The inverse Cholesky factor of Σ + `shrinkage` * mean variance * I; None where there is no variance."""
        variance = covariance.diagonal().mean()
        if not bool(variance > 0):
            return None
        identity = torch.eye(len(covariance), dtype=covariance.dtype, device=covariance.device)
        factor = torch.linalg.cholesky(covariance + shrinkage * variance * identity)
        return cls(torch.linalg.solve_triangular(factor, identity, upper=False))

    def __call__(self, unit: Float[Tensor, "batch raw"]) -> Float[Tensor, "batch raw"]:
        """Normalised features or prototypes, in this space and normalised there."""
        return F.normalize(unit @ self.matrix.T if self.product is None else self.product(unit), dim=-1)


def visual_scores(
    raw: Float[Tensor, "batch raw"], prototypes: Float[Tensor, "classes raw"], whitening: Whitening | None = None
) -> Float[Tensor, "batch classes"]:
    """s_v(x, c) = r̄·μ_c (eq. 6): `raw` is normalised here, `prototypes` must have unit norm.

    With `whitening` the cosine is taken in its space, in which `prototypes` must be given.
    """
    unit = F.normalize(raw, dim=-1)
    return (unit if whitening is None else whitening(unit)) @ prototypes.T


def fused_scores(
    text: Float[Tensor, "batch classes"], visual: Float[Tensor, "batch classes"], *, fusion_weight: float
) -> Float[Tensor, "batch classes"]:
    """ℓ(x, c) = s_clip(x, c) + β s_v(x, c) (eq. 30), β = `fusion_weight` >= 0."""
    return text + fusion_weight * visual


def dual_path_scores(
    raw: Float[Tensor, "batch raw"],
    image_features: Float[Tensor, "batch joint"],
    text_features: Float[Tensor, "classes joint"],
    prototypes: Float[Tensor, "classes raw"],
    *,
    fusion_weight: float,
    whitening: Whitening | None = None,
) -> Scores:
    """Both branches and their fusion (eqs. 5, 6, 30). Only `raw` may be of any norm."""
    text = text_scores(image_features, text_features)
    visual = visual_scores(raw, prototypes, whitening)
    return Scores(text=text, visual=visual, fused=fused_scores(text, visual, fusion_weight=fusion_weight))


def predict(scores: Float[Tensor, "batch classes"]) -> Int64[Tensor, " batch"]:
    """argmax over all seen classes (eqs. 31, 32): the position of each image's best class."""
    return scores.argmax(dim=-1)


def probabilities(scores: Float[Tensor, "batch classes"], *, logit_scale: float) -> Float[Tensor, "batch classes"]:
    """softmax(logit_scale * scores), each row summing to one."""
    return torch.softmax(logit_scale * scores, dim=-1)


def visual_space(
    prototypes: Float[Tensor, "classes raw"], covariance: Float[Tensor, "raw raw"] | None
) -> tuple[Whitening | None, Float[Tensor, "classes raw"]]:
    """Where the visual branch compares: the whitening, if there is one, and the prototypes in that space."""
    if covariance is None:
        return None, prototypes
    whitening = Whitening.of(covariance, shrinkage=WHITENING_SHRINKAGE)
    return whitening, prototypes if whitening is None else whitening(prototypes)


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
                f"The state was learned on base weights {state.weights_digest[:12]} ({state.model.name}), "
                f"but the model that was loaded has {base.weights_digest[:12]}."
            )
        if not len(state.classes) == len(state.prototypes) == len(state.text_features):
            raise IncompatibleStateError(
                f"The state names {len(state.classes)} classes, but holds {len(state.prototypes)} prototypes "
                f"and {len(state.text_features)} text features."
            )
        self.state = state
        passes = passes or PassSettings()
        self._model = base.with_lora(state.lora, packed=passes.packed)
        self._pass = ImagePass(self._model, passes)
        covariance = None if state.covariance is None else state.covariance.to(base.device)
        whitening, self._prototypes = visual_space(state.prototypes.to(base.device), covariance)
        self._whitening = whitening.packed() if whitening is not None and passes.packed else whitening
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
            raise NoClassesError("This version has learned no classes yet: teach it some, or ask with labels.")
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
    def label_scores_of(
        self, features: Features, label_features: Float[Tensor, "labels joint"]
    ) -> Float[Tensor, "batch labels"]:
        """Text-path scores (eq. 5) over labels that need not be classes of the state."""
        return text_scores(features.image, label_features)

    def label_scores(
        self,
        pixels: UInt8[Tensor, "batch 3 height width"] | Float[Tensor, "batch 3 height width"],
        label_features: Float[Tensor, "labels joint"],
    ) -> Float[Tensor, "batch labels"]:
        """`label_scores_of(features(pixels), label_features)`."""
        return self.label_scores_of(self.features(pixels), label_features)

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
