"""The engine that is always there: PyTorch, on CPUs and GPUs."""

from __future__ import annotations

from segp_cl.runtime.engines.interface import EngineName, ServableModel
from segp_cl.runtime.passes import ImagePass, PassSettings
from segp_cl.types import LoraState


class TorchEngine:
    """Runs image towers with PyTorch, as the settings of passes say."""

    def __init__(self, passes: PassSettings | None = None) -> None:
        self._passes = passes or PassSettings()

    @property
    def name(self) -> EngineName:
        return "torch"

    @property
    def warm(self) -> tuple[int, ...]:
        """Those of the settings."""
        return self._passes.warm

    @property
    def passes_ahead(self) -> int:
        """Those of the settings."""
        return self._passes.ahead

    def image_pass(self, base: ServableModel, lora: LoraState | None) -> ImagePass:
        """Make a pass over a copy of the base model with the adapters merged in; without any, over the model itself."""
        return ImagePass(base if lora is None else base.with_lora(lora), self._passes)
