"""Aligns the adapted head of a model on the statistics of all classes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from segp_cl.alignment import align_head
from segp_cl.config import ResolvedConfig
from segp_cl.models.backbone import Backbone
from segp_cl.models.lora import Adapters
from segp_cl.statistics import FeatureSampler
from segp_cl.types import HEAD, OnProgress

NOISE_ROWS = 4096
"""Rows of noise that are mapped once; twelve times as many samples are drawn by default (docs/adr/0010)."""


@runtime_checkable
class TwoPartHead(Protocol):
    """A head that is a linear layer, which adapters change, and what follows it."""

    @property
    def first(self) -> nn.Linear: ...

    def rest(self, mapped: Tensor) -> Tensor: ...


def align_adapted_head(
    model: Backbone,
    adapters: Adapters,
    sampler: FeatureSampler,
    text_features: Float[Tensor, "seen joint"],
    *,
    norm: Float[Tensor, ""],
    config: ResolvedConfig,
    generator: torch.Generator,
    on_progress: OnProgress | None = None,
) -> None:
    """Train the head's adapter to separate all seen classes (`segp_cl.alignment.align_head`).

    Only B is trained, so W r + b and A r of the samples are computed once, and a step works on these alone.

    Args:
        model: the model, with `adapters` attached and not merged.
        adapters: they adapt the head.
        sampler: samples features of all seen classes, on the model's device.
        text_features: u_c of all seen classes, unit norm, on the device.
        norm: the usual norm of raw features.
        config: steps, batch size and learning rate.
        generator: the source of all randomness (a CPU generator).
        on_progress: called after every step with phase `align`.
    """
    linear, rest = _parts(model.head)
    adapter = adapters.added_to(linear)
    a, b = adapter.a[0], adapter.b[0]
    outputs = linear.out_features
    with torch.no_grad():
        drawn = sampler.mapped(torch.cat([linear.weight, a]), norm, rows=NOISE_ROWS, generator=generator)
        if linear.bias is not None:
            drawn.means[:, :outputs] += linear.bias

    def project(mapped: Tensor) -> Tensor:
        adapted = mapped[:, :outputs] + F.linear(mapped[:, outputs:], adapter.scale * b)
        return F.normalize(rest(adapted), dim=-1)

    align_head(
        project,
        adapters.trainable_of(HEAD),
        lambda classes: drawn.draw(classes, generator=generator),
        text_features,
        logit_scale=model.logit_scale,
        steps=config.align_steps,
        batch_size=config.align_batch_size,
        learning_rate=config.learning_rate,
        generator=generator,
        on_progress=on_progress,
    )


def _parts(head: nn.Module) -> tuple[nn.Linear, Callable[[Tensor], Tensor]]:
    """Return a head's linear layer and what follows it."""
    if isinstance(head, nn.Linear):
        return head, lambda mapped: mapped
    assert isinstance(head, TwoPartHead), f"a {type(head).__name__} has no linear layer to adapt first"
    return head.first, head.rest
