"""The two branches' scores, their fusion and the prediction (5)(6)(30)-(32)."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from segp_cl.types import Scores

Whitener = Callable[[Float[Tensor, "batch raw"]], Float[Tensor, "batch raw"]]
"""Maps unit features to the space where the visual branch compares directions. Lengths there are of any size."""


def text_scores(
    image_features: Float[Tensor, "batch joint"], text_features: Float[Tensor, "classes joint"]
) -> Float[Tensor, "batch classes"]:
    """s_clip(x, c) = v̄·u_c (eq. 5): a plain cosine, so both arguments must have unit norm."""
    return image_features @ text_features.T


def visual_scores(
    raw: Float[Tensor, "batch raw"], prototypes: Float[Tensor, "classes raw"], whitening: Whitener | None = None
) -> Float[Tensor, "batch classes"]:
    """s_v(x, c) = r̄·μ_c (eq. 6): `raw` is normalised here, `prototypes` must have unit norm.

    With `whitening` the cosine is taken in the whitened space, and `prototypes` must be in that space.
    """
    return directions(raw, whitening)[0] @ prototypes.T


def directions(
    raw: Float[Tensor, "batch raw"], whitening: Whitener | None
) -> tuple[Float[Tensor, "batch raw"], Float[Tensor, " batch"] | None]:
    """Return unit features in the space of the visual branch, and how long they were there before."""
    unit = F.normalize(raw, dim=-1)
    if whitening is None:
        return unit, None
    mapped = whitening(unit)
    return F.normalize(mapped, dim=-1), mapped.norm(dim=-1)


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
    whitening: Whitener | None = None,
) -> Scores:
    """Compute both branches and their fusion (eqs. 5, 6, 30). Only `raw` may have any norm."""
    text = text_scores(image_features, text_features)
    compared, length = directions(raw, whitening)
    visual = compared @ prototypes.T
    fused = fused_scores(text, visual, fusion_weight=fusion_weight)
    return Scores(text=text, visual=visual, fused=fused, length=length)


def predict(scores: Float[Tensor, "batch classes"]) -> Int64[Tensor, " batch"]:
    """argmax over all seen classes (eqs. 31, 32): the position of each image's best class."""
    return scores.argmax(dim=-1)


def probabilities(scores: Float[Tensor, "batch classes"], *, logit_scale: float) -> Float[Tensor, "batch classes"]:
    """softmax(logit_scale * scores), each row summing to one."""
    return torch.softmax(logit_scale * scores, dim=-1)
