"""What an engine can do, and what it needs of a base model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol, runtime_checkable

from jaxtyping import Float, UInt8
from torch import Tensor, device

from segp_cl.errors import KeepsightError
from segp_cl.types import LoraState

EngineName = Literal["torch", "openvino"]
Wanted = Literal["auto", "torch", "openvino"]
Precision = Literal["auto", "float32", "bfloat16"]


class EngineError(KeepsightError):
    """An engine cannot run this model here. The message says why."""


class EngineUnavailableError(EngineError):
    """The engine is not installed, or not for this device or these settings."""


@runtime_checkable
class ServableModel(Protocol):
    """The part of a base model that serving uses; `segp_cl.models.backbone.Backbone` implements it."""

    @property
    def weights_digest(self) -> str: ...
    @property
    def logit_scale(self) -> float: ...
    @property
    def device(self) -> device: ...

    def raw_features(self, pixels: Tensor) -> Tensor: ...
    def project(self, raw: Tensor) -> Tensor: ...
    def text_features(self, prompts: Sequence[str]) -> Tensor: ...
    def check_lora(self, lora: LoraState | None) -> None: ...
    def with_lora(self, lora: LoraState | None) -> ServableModel: ...


@runtime_checkable
class Pass(Protocol):
    """Computes raw features, float32, on the model's device, with the image tower of one version. Thread-safe.

    Pixels may be 8-bit or floats in [0, 1].
    """

    @property
    def engine(self) -> EngineName:
        """The engine that runs it now."""
        ...

    def __call__(
        self, pixels: UInt8[Tensor, "batch 3 height width"] | Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch raw"]: ...

    def fall_back(self, why: str) -> bool:
        """Let PyTorch run it from now on. Returns whether another engine ran it before."""
        ...


@runtime_checkable
class Engine(Protocol):
    """Makes passes of image towers."""

    @property
    def name(self) -> EngineName: ...

    @property
    def warm(self) -> tuple[int, ...]:
        """Batch sizes that a version is run with before it is served."""
        ...

    @property
    def passes_ahead(self) -> int:
        """Full passes that may start while another runs, so that no core idles at its end."""
        ...

    def image_pass(self, base: ServableModel, lora: LoraState | None) -> Pass:
        """Make the pass of the base model's image tower with these adapters, which are the image tower's alone."""
        ...
