"""Which other class of a version is nearest to each, by what the visual path compares, and by texts."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from segp_cl.statistics import visual_space, visual_space_of_old
from segp_cl.types import LearnerState


@dataclass(frozen=True)
class Nearest:
    """The class in this row of the state, and its cosine in [-1, 1]."""

    row: int
    cosine: float


@dataclass(frozen=True)
class NearestClasses:
    """The nearest other class of each class, in the state's order."""

    visual: tuple[Nearest, ...]
    text: tuple[Nearest, ...]


def nearest_classes(state: LearnerState) -> NearestClasses:
    """Return the nearest other class of each class; nothing for a state with fewer than two.

    The visual cosine is that of what features of images are compared with: whitened means where there is a covariance.
    """
    if len(state.classes) < 2:
        return NearestClasses((), ())
    if state.sums is None:
        _, prototypes = visual_space_of_old(state.prototypes, state.covariance)
    else:
        _, prototypes = visual_space(state.sums)
    return NearestClasses(_nearest(prototypes), _nearest(state.text_features))


def _nearest(vectors: Float[Tensor, "classes width"]) -> tuple[Nearest, ...]:
    unit = F.normalize(vectors.float(), dim=-1)
    cosines = unit @ unit.T
    cosines.fill_diagonal_(-torch.inf)
    best = cosines.max(dim=1)
    found = zip(best.indices.tolist(), best.values.tolist(), strict=True)
    return tuple(Nearest(row, max(-1.0, min(1.0, cosine))) for row, cosine in found)
