"""A base model with a state's adapters, where texts are encoded and the head is aligned without an image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from segp_cl.config import LearnerConfig
from segp_cl.learn.heads import align_adapted_head
from segp_cl.models.backbone import Backbone
from segp_cl.statistics import ClassSums, FeatureSampler
from segp_cl.types import HEAD, LoraState, OnProgress


class Towers:
    """A copy of a base model that shares its weights, with adapters that may be aligned.

    Args:
        backbone: the base model, which does not change.
        lora: the adapters, or None.
        config: hyper-parameters of the alignment.
        generator: the source of all randomness (a CPU generator).
    """

    def __init__(
        self, backbone: Backbone, lora: LoraState | None, config: LearnerConfig, generator: torch.Generator
    ) -> None:
        self._model = backbone.shared_copy()
        self._given = lora
        self._config = backbone.resolve(config)
        self._generator = generator
        self._adapters = None
        if lora is not None:
            # the alignment trains the head alone, whatever the towers' rates
            frozen = config.model_copy(update={"image_rate": 0.0})
            self._adapters = self._model.adapt(frozen, lora, generator=generator)

    @torch.no_grad()
    def text_features(self, prompts: Sequence[str]) -> Float[Tensor, "prompts joint"]:
        """Encode prompts by the adapted text tower, on the CPU."""
        return self._model.text_features(list(prompts)).float().cpu()

    def align(
        self,
        sums: ClassSums,
        texts: Float[Tensor, "classes joint"],
        *,
        norm: Float[Tensor, ""],
        on_progress: OnProgress | None = None,
    ) -> int:
        """Align an adapted head on the sums of all classes, as after every task. Returns the number of steps made.

        Args:
            sums: of all classes.
            texts: their features, in the same order.
            norm: the usual norm of raw features.
            on_progress: called after every step. An exception from it ends the work.
        """
        config, covariance = self._config, sums.covariance
        if self._adapters is None or covariance is None or not config.align_steps or not self._has_head:
            return 0
        like = texts.to(self._model.device)
        align_adapted_head(
            self._model,
            self._adapters,
            FeatureSampler(sums.means.to(like), covariance.to(like)),
            like,
            norm=norm.to(like),
            config=config,
            generator=self._generator,
            on_progress=on_progress,
        )
        return config.align_steps

    def lora(self) -> LoraState | None:
        """Return the adapters as they are now: those that were given, and no others."""
        if self._given is None or self._adapters is None:
            return None
        trained = self._adapters.state()
        return replace(trained, factors={key: trained.factors[key] for key in self._given.factors})

    @property
    def _has_head(self) -> bool:
        return self._given is not None and any(target.startswith(f"{HEAD}.") for target in self._given.factors)
