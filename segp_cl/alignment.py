"""The projection head is told all classes apart, on features drawn from what is kept of each. Ours, not the paper's."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from segp_cl.statistics import FeatureSampler
from segp_cl.types import OnProgress, Progress


def align_head(
    project: Callable[[Tensor], Tensor],
    head: Sequence[nn.Parameter],
    sampler: FeatureSampler,
    text_features: Float[Tensor, "seen joint"],
    *,
    norm: Float[Tensor, ""],
    logit_scale: float,
    steps: int,
    batch_size: int,
    learning_rate: float,
    generator: torch.Generator,
    on_progress: OnProgress | None = None,
) -> None:
    """Train `head` to tell all seen classes apart, by Adam on a cosine to zero: docs/adr/0010.

    (eq. 15) never asks an image whether it is of an old or a new class. Here every class is as likely as any other, and
    none has an image: time and memory depend on neither images nor, but for one product a step, classes. It is the
    classifier alignment of SLCA (Zhang et al., 2023, arXiv 2303.05118) for a head that all classes share.

    Args:
        project: raw features to the joint space, unit norm, through `head`.
        head: what is trained, in place.
        sampler: of the features of all seen classes.
        text_features: u_c of all seen classes, unit norm, on the device.
        norm: of a usual raw feature.
        logit_scale: the multiplier of cosines.
        steps: how many.
        batch_size: features per step.
        learning_rate: at the first step.
        generator: the source of all randomness (a CPU generator).
        on_progress: called after every step with phase `align`.
    """
    optimizer = torch.optim.Adam(head, lr=learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for step in range(1, steps + 1):
        classes = torch.randint(len(text_features), (batch_size,), generator=generator)
        images = project(sampler.draw(classes, norm, generator=generator))
        loss = F.cross_entropy(logit_scale * images @ text_features.T, classes.to(images.device))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
        if on_progress is not None:
            on_progress(Progress("align", step, steps, {"alignment": loss.item()}))
