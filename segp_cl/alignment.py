"""Trains the projection head to separate all seen classes, on features sampled from their stored statistics.

Not in the paper; see docs/adr/0010.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from segp_cl.types import OnProgress, Progress

Draw = Callable[[Tensor], Tensor]


def align_head(
    project: Callable[[Tensor], Tensor],
    head: Sequence[nn.Parameter],
    draw: Draw,
    text_features: Float[Tensor, "seen joint"],
    *,
    logit_scale: float,
    steps: int,
    batch_size: int,
    learning_rate: float,
    generator: torch.Generator,
    on_progress: OnProgress | None = None,
) -> None:
    """Train `head` to separate all seen classes, by Adam with a cosine decay of the learning rate to zero.

    The task's cross-entropy (eq. 15) never compares old classes with new ones. Here all seen classes are equally likely
    and no images are needed: time and memory do not depend on the number of images, and only one product per step
    depends on that of classes. This is the classifier alignment of SLCA (Zhang et al., 2023, arXiv 2303.05118) for a
    head that all classes share.

    Args:
        project: what is drawn to the joint space, unit norm, through `head`.
        head: the parameters to train, in place.
        draw: samples one feature for each entry of the classes that it is given, scaled to the usual norm; or what the
            part of the head that is not trained makes of it.
        text_features: u_c of all seen classes, unit norm, on the device.
        logit_scale: the multiplier of cosines.
        steps: number of steps.
        batch_size: features per step.
        learning_rate: at the first step.
        generator: the source of all randomness (a CPU generator).
        on_progress: called after every step with phase `align`.
    """
    optimizer = torch.optim.Adam(head, lr=learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for step in range(1, steps + 1):
        classes = torch.randint(len(text_features), (batch_size,), generator=generator)
        images = project(draw(classes))
        loss = F.cross_entropy(logit_scale * images @ text_features.T, classes.to(images.device))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
        if on_progress is not None:
            on_progress(Progress("align", step, steps, {"alignment": loss.item()}))
