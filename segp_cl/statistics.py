"""Statistics of raw features by class: sums, means, one covariance, whitening, and sampling from them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from segp_cl.config import WHITENING_SHRINKAGE
from segp_cl.errors import InvalidTaskError


@dataclass(frozen=True)
class ClassMoments:
    """`means`: a unit-norm prototype per class. `covariance`: of normalised features around their class's mean."""

    means: Float[Tensor, "new raw"]
    covariance: Float[Tensor, "raw raw"]


class MomentSums:
    """Sums over a stream of raw features from which `class_means` (eq. 23) and the covariance follow at any time.

    They are stored in double precision, so the batch size has no influence. A feature of norm zero adds nothing; if a
    class has no other, its prototype is zero and its visual score 0 for every image.
    """

    def __init__(self, classes: int) -> None:
        self.counts = torch.zeros(classes, dtype=torch.int64)
        self._sums = torch.empty(0)
        self._products = torch.empty(0)
        self._like = torch.empty(0)

    def add(self, raw: Float[Tensor, "batch raw"], labels: Int64[Tensor, " batch"]) -> None:
        """Add a batch: raw features of any norm, and each image's class in [0, classes)."""
        if self._sums.numel() == 0:
            self._sums = torch.zeros(len(self.counts), raw.shape[-1], dtype=torch.float64)
            self._products = torch.zeros(raw.shape[-1], raw.shape[-1], dtype=torch.float64)
            self._like = raw.new_empty(0)
        labels = labels.cpu()
        unit = F.normalize(raw.detach().cpu().double(), dim=-1)
        self._sums.index_add_(0, labels, unit)
        self._products += unit.T @ unit
        self.counts += torch.bincount(labels, minlength=len(self.counts))

    def moments(self) -> ClassMoments:
        """Compute means and covariance of the features so far, on their device and in their precision.

        Raises:
            InvalidTaskError: a class had no image.
        """
        if not bool((self.counts > 0).all()):
            missing = (self.counts == 0).nonzero().flatten().tolist()
            raise InvalidTaskError(f"every class needs an image for its prototype; got none for classes {missing}")
        between = self._sums.T @ (self._sums / self.counts[:, None])
        return ClassMoments(
            means=F.normalize(self._sums, dim=-1).to(self._like),
            covariance=((self._products - between) / self.counts.sum()).to(self._like),
        )


class FeatureSampler:
    """Samples raw features of classes from their stored statistics: N(|m| μ_c, Σ) in the space of unit features.

    Within a class, unit features have a mean m shorter than 1 and covariance Σ, with |m|² = 1 - tr Σ.

    Args:
        prototypes: μ_c, unit norm.
        covariance: Σ; None: samples are the prototypes themselves.
    """

    def __init__(self, prototypes: Float[Tensor, "old raw"], covariance: Float[Tensor, "raw raw"] | None) -> None:
        self._means, self._factor = prototypes, None
        if covariance is not None:
            values, vectors = torch.linalg.eigh(covariance.double())
            self._factor = (vectors * values.clamp(min=0).sqrt()).to(prototypes)
            self._means = prototypes * (1 - covariance.trace()).clamp(min=0).sqrt()

    def draw(
        self, classes: Int64[Tensor, " drawn"], norm: Float[Tensor, ""], *, generator: torch.Generator
    ) -> Float[Tensor, "drawn raw"]:
        """Sample one feature for each entry of `classes`, scaled to the raw features' usual `norm`."""
        means = self._means[classes.to(self._means.device)]
        if self._factor is None:
            return norm * means
        noise = torch.randn(means.shape, generator=generator).to(means)
        drawn: Tensor = norm * (means + noise @ self._factor.T)
        return drawn


def merge_prototypes(
    old: Float[Tensor, " raw"], old_count: int, new: Float[Tensor, " raw"], new_count: int
) -> Float[Tensor, " raw"]:
    """normalise(n_old μ_old + n_new μ_new): the prototype of a known class that received more images.

    Each is weighted by its number of images. If the two cancel out exactly, the old one is kept.
    """
    merged = old_count * old + new_count * new
    return F.normalize(merged, dim=-1) if bool(merged.any()) else old


def merge_covariances(
    old: Float[Tensor, "raw raw"], old_count: int, new: Float[Tensor, "raw raw"], new_count: int
) -> Float[Tensor, "raw raw"]:
    """(n_old Σ_old + n_new Σ_new) / (n_old + n_new): each is weighted by its number of images."""
    return (old_count * old + new_count * new) / (old_count + new_count)


@dataclass(frozen=True)
class Whitening:
    """The space in which features vary equally in all directions within a class.

    Directions in which images of one class differ (lighting, pose) count for less there than in the raw space. Not in
    the paper; see docs/adr/0009.
    """

    matrix: Float[Tensor, "raw raw"]

    @classmethod
    def of(cls, covariance: Float[Tensor, "raw raw"], *, shrinkage: float) -> Whitening | None:
        """Compute the inverse Cholesky factor of Σ + `shrinkage` * mean variance * I; None if there is no variance."""
        variance = covariance.diagonal().mean()
        if not bool(variance > 0):
            return None
        identity = torch.eye(len(covariance), dtype=covariance.dtype, device=covariance.device)
        factor = torch.linalg.cholesky(covariance + shrinkage * variance * identity)
        return cls(torch.linalg.solve_triangular(factor, identity, upper=False))

    def __call__(self, unit: Float[Tensor, "batch raw"]) -> Float[Tensor, "batch raw"]:
        """Map normalised features or prototypes to this space and normalise them there."""
        return F.normalize(unit @ self.matrix.T, dim=-1)


def visual_space(
    prototypes: Float[Tensor, "classes raw"], covariance: Float[Tensor, "raw raw"] | None
) -> tuple[Whitening | None, Float[Tensor, "classes raw"]]:
    """Return the whitening of the visual branch, if there is one, and the prototypes in that space."""
    if covariance is None:
        return None, prototypes
    whitening = Whitening.of(covariance, shrinkage=WHITENING_SHRINKAGE)
    return whitening, prototypes if whitening is None else whitening(prototypes)
