"""How strange an image looks to the visual path: is it of none of the classes? Not in the paper.

Two-covariance model of classes (PLDA, Ioffe 2006): in the whitened space images spread around their class by w in every
direction, and classes around the middle of all by λ. The strangeness of an image is minus twice the log-likelihood
ratio of its nearest class, of which n images are known, to a class of which none is. See docs/adr/0030.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from segp_cl.statistics import ClassSums, Whitening, whitened_variance

NOBODY_SPREAD: Final = 1.05
"""Images of no class vary so much more than the model says, w + λ: they are also of what is unlike all classes.

By exactly w + λ, an image that is far from every class would hardly count as strange where there are many images.
"""


@dataclass(frozen=True)
class Strangeness:
    """Computes min_c `length` * (`length` * `square` - `slope` * s_c) + `bias` from the visual path's scores.

    In units of how much more images of no class vary than those of one, so that it means the same after every task.
    Above 0, a class that nobody taught is likelier than any that is known.
    """

    square: Float[Tensor, " classes"]
    slope: Float[Tensor, " classes"]
    bias: Float[Tensor, " classes"]

    @classmethod
    def of(
        cls,
        sums: ClassSums,
        whitening: Whitening | None,
        prototypes: Float[Tensor, "classes raw"],
        *,
        nobody_spread: float = NOBODY_SPREAD,
    ) -> Strangeness | None:
        """Compute the terms of every class; None where spreads cannot be told from the sums.

        Args:
            sums: of all classes.
            whitening: the visual space.
            prototypes: what features are compared with in it, both as `visual_space` returns them.
            nobody_spread: how many times w + λ images of no class vary.
        """
        images, classes, width = int(sums.counts.sum()), *sums.sums.shape
        if whitening is None or sums.scatter is None or images <= classes:
            return None
        counts, space = sums.counts.clamp(min=1).double(), whitening.to(sums.sums)
        means = space(sums.sums / counts[:, None])
        within = _spread_within(sums, space)
        between = float((means.pow(2).sum(dim=1) / width - within / counts).mean())
        if not (between > 0 and within > 0):
            return None
        known = between / (between + within / counts)
        spread = within + between * (1 - known)
        squares = means.pow(2).sum(dim=1)
        # s_c is the cosine times the length of the prototype
        per_score = squares.sqrt() / prototypes.double().norm(dim=1).clamp(min=torch.finfo(torch.float32).tiny)
        nobody = nobody_spread * (within + between)
        unit = within / (nobody - within) / width
        return cls(
            square=unit * (1 / spread - 1 / nobody),
            slope=unit * 2 * known * per_score / spread,
            bias=unit * (known**2 * squares / spread + width * (spread / nobody).log()),
        ).to(prototypes)

    def to(self, like: Tensor) -> Strangeness:
        """Return this on the device and in the precision of `like`."""
        return Strangeness(self.square.to(like), self.slope.to(like), self.bias.to(like))

    def __call__(
        self, visual: Float[Tensor, "batch classes"], length: Float[Tensor, " batch"]
    ) -> Float[Tensor, " batch"]:
        """Return each image's strangeness.

        Args:
            visual: the visual path's scores.
            length: of the images' features in the whitened space.
        """
        far = length[:, None]
        return (far * (far * self.square - visual * self.slope) + self.bias).amin(dim=1)


def _spread_within(sums: ClassSums, whitening: Whitening) -> float:
    """w: the variance of new images around their class, in a direction of the whitened space.

    Images that the space was made of spread less in it than others, the more so the fewer they were. Leaving each out
    in turn would give q / (1 - h), h their mean leverage (generalised cross-validation, Golub et al. 1979).
    """
    assert sums.scatter is not None
    images, classes, width = int(sums.counts.sum()), *sums.sums.shape
    total = float(whitened_variance(width, sums.scatter.diagonal().mean() / images, whitening.squared))
    return total / (1 - total / images) * images / (images - classes) / width


def share_less_strange(
    strangeness: Float[Tensor, " batch"], of_known: Float[Tensor, " shares"], *, images: int
) -> list[float]:
    """Return which share of known images looks less strange than each image, in [0, `images` / (`images` + 1)].

    An image of a known class exceeds a share x with probability 1 - x at most (conformal p-value).

    Args:
        strangeness: of the images.
        of_known: its quantiles over held-out images of known classes, at equal steps of the share.
        images: how many held-out images they are.
    """
    places, least = np.linspace(0, 1, len(of_known)), of_known.double().numpy()
    shares = np.interp(strangeness.double().numpy(), least, places, left=0.0, right=1.0)
    found: list[float] = (shares * (images / (images + 1))).tolist()
    return found
