"""Compares a base model's converted image tower with PyTorch's, and decides by measurement whether bfloat16 will do."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from segp_cl.models.backbone import Backbone
from segp_cl.runtime.engines.interface import EngineError

Run = Callable[[Tensor], Tensor]

MIN_COSINE: Final = 0.9999
"""Least cosine of raw features with PyTorch's in float32, of any picture."""
MIN_SAME_TOP1: Final = 0.998
"""Least share of pictures whose nearest reference picture stays the same in bfloat16."""
_REFERENCES: Final = 100
_PICTURES: Final = 500
_BATCH: Final = 8
_LONGEST_S: Final = 120.0


@dataclass(frozen=True)
class Comparison:
    """How far features of one arithmetic are from those of another.

    Attributes:
        pictures: how many were compared.
        cosine: the least cosine of raw features.
        same_top1: the share of pictures whose nearest of 100 others stays the same.
        complete: whether all pictures were compared in time.
    """

    pictures: int
    cosine: float
    same_top1: float
    complete: bool = True

    @property
    def will_do(self) -> bool:
        """Whether answers are the same for all that matters."""
        return self.complete and self.cosine >= MIN_COSINE and self.same_top1 >= MIN_SAME_TOP1

    def as_record(self) -> dict[str, Any]:
        """For a file of JSON."""
        return asdict(self)


def check(model: Backbone, run: Run, *, sizes: Sequence[int] = (2,), min_cosine: float = MIN_COSINE) -> float:
    """Compare a tower with PyTorch's, on batches of these sizes, and return the least cosine of raw features.

    Raises:
        EngineError: it is less than `min_cosine`.
    """
    batches = [_noise(model.preprocessing.size, size, seed=size) for size in sizes]
    with torch.inference_mode():
        cosine = min(_least_cosine(run(batch), model.raw_features(batch)) for batch in batches)
    if cosine < min_cosine:
        raise EngineError(
            f"the image tower's features have cosine {cosine:.5f} with PyTorch's, expected at least {min_cosine:g}"
        )
    return cosine


def compare_bfloat16(
    size: int, float32: Run, bfloat16: Run, *, count: int = _PICTURES, longest_s: float = _LONGEST_S
) -> Comparison:
    """Compare features in bfloat16 with those in float32, on `count` pictures of `size` pixels.

    It stops at the first batch whose cosine is too small, and after `longest_s` seconds.
    """
    references = torch.cat([float32(_noise(size, _BATCH, seed=-1 - at)) for at in range(-(-_REFERENCES // _BATCH))])
    centre = references.mean(dim=0)  # what all pictures have in common says nothing of which is nearest
    directions = F.normalize(references - centre, dim=-1)
    deadline = time.monotonic() + longest_s
    seen, same, cosine = 0, 0, 1.0
    while seen < count:
        batch = _noise(size, min(_BATCH, count - seen), seed=seen)
        exact, rough = float32(batch), bfloat16(batch)
        cosine = min(cosine, _least_cosine(rough, exact))
        nearest = [(F.normalize(raw - centre, dim=-1) @ directions.T).argmax(dim=-1) for raw in (exact, rough)]
        same += int((nearest[0] == nearest[1]).sum())
        seen += len(batch)
        if cosine < MIN_COSINE or (seen < count and time.monotonic() > deadline):
            return Comparison(seen, cosine, same / seen, complete=False)
    return Comparison(seen, cosine, same / seen)


def _noise(size: int, count: int, *, seed: int) -> Float[Tensor, "count 3 size size"]:
    """Generate pictures in [0, 1] with detail at every scale, coarse ones stronger, as photographs have it."""
    generator = torch.Generator().manual_seed(2**32 + seed)
    total = torch.zeros(count, 3, size, size)
    side, weight = 2, 1.0
    while side <= size:
        grid = torch.randn(count, 3, side, side, generator=generator)
        total += weight * F.interpolate(grid, size=(size, size), mode="bilinear", align_corners=False)
        side, weight = 2 * side, 0.6 * weight
    return torch.sigmoid(total)


def _least_cosine(one: Tensor, other: Tensor) -> float:
    found = float(F.cosine_similarity(one.float(), other.float(), dim=-1).min())
    return found if math.isfinite(found) else -1.0  # `min` would pass over a NaN
