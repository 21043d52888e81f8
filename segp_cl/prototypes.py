"""Visual prototypes: means of new classes (23), and the anchors' drift carried over to the old ones (24)-(29)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from segp_cl.errors import InvalidTaskError


@dataclass(frozen=True)
class ClassMoments:
    """`means`: a unit-norm prototype per class. `covariance`: of normalised features around their class's mean."""

    means: Float[Tensor, "new raw"]
    covariance: Float[Tensor, "raw raw"]


class MomentSums:
    """Sums over a stream of raw features from which `class_means` (eq. 23) and the covariance follow at any time.

    They are kept in double precision, so the size of the batches has no influence. A feature of norm zero points
    nowhere and adds nothing; if a class has no other, its prototype is zero and its visual score 0 for every image.
    """

    def __init__(self, classes: int) -> None:
        self.counts = torch.zeros(classes, dtype=torch.int64)
        self._sums = torch.empty(0)
        self._products = torch.empty(0)
        self._like = torch.empty(0)

    def add(self, raw: Float[Tensor, "batch raw"], labels: Int64[Tensor, " batch"]) -> None:
        """Count a batch in: raw features of any norm, and each image's class in [0, classes)."""
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
        """Means and covariance of what was counted so far, where and as precise as the features were.

        Raises:
            InvalidTaskError: a class had no image.
        """
        if not bool((self.counts > 0).all()):
            missing = (self.counts == 0).nonzero().flatten().tolist()
            raise InvalidTaskError(f"Every class needs an image for its prototype; none came for {missing}.")
        between = self._sums.T @ (self._sums / self.counts[:, None])
        return ClassMoments(
            means=F.normalize(self._sums, dim=-1).to(self._like),
            covariance=((self._products - between) / self.counts.sum()).to(self._like),
        )


def class_means(
    batches: Iterable[tuple[Float[Tensor, "batch raw"], Int64[Tensor, " batch"]]], *, classes: int
) -> Float[Tensor, "new raw"]:
    """μ_{t,c} = normalise Σ r̄_t(x) (eq. 23), over batches of raw features and labels that are read once.

    Raises:
        InvalidTaskError: a class had no image.
    """
    sums = MomentSums(classes)
    for raw, labels in batches:
        sums.add(raw, labels)
    return sums.moments().means


class FeatureSampler:
    """Raw features of old classes, drawn from what is stored of them: N(|m| μ_c, Σ) in the space of unit features.

    Within a class, unit features have a mean m shorter than 1 and covariance Σ, with |m|² = 1 - tr Σ.

    Args:
        prototypes: μ_c, unit norm.
        covariance: Σ; None: the prototypes themselves are drawn.
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
        """One feature for each entry of `classes`, at the raw features' usual `norm`."""
        means = self._means[classes.to(self._means.device)]
        if self._factor is None:
            return norm * means
        noise = torch.randn(means.shape, generator=generator).to(means)
        drawn: Tensor = norm * (means + noise @ self._factor.T)
        return drawn


def drift(
    student_raw: Float[Tensor, "anchor raw"], teacher_raw: Float[Tensor, "anchor raw"]
) -> Float[Tensor, "anchor raw"]:
    """d(x) = r̄_t(x) - r̄^T(x) (eq. 24): how far the update moved each anchor. Normalised here."""
    return F.normalize(student_raw, dim=-1) - F.normalize(teacher_raw, dim=-1)


def anchor_affinity(
    teacher_raw: Float[Tensor, "anchor raw"],
    prototypes: Float[Tensor, "old raw"],
    anchor_classes: Int64[Tensor, " anchor"],
) -> Float[Tensor, " anchor"]:
    """a(x, c) = r̄^T(x)·μ_{t-1,c} (eq. 25): how much each anchor looks like its own class to the teacher."""
    return (F.normalize(teacher_raw, dim=-1) * prototypes[anchor_classes]).sum(dim=-1)


def drift_weights(
    affinity: Float[Tensor, " anchor"], anchor_classes: Int64[Tensor, " anchor"], *, classes: int
) -> Float[Tensor, " anchor"]:
    """w = a / Σa over the anchors of the same class (eq. 26), summing to one in each class.

    Where Σa is not positive the anchors say nothing of their class: its weights are 0, and it is not moved.
    """
    total = _sum_by_class(affinity, anchor_classes, classes)[anchor_classes]
    speaks = total > 0
    return torch.where(speaks, affinity / torch.where(speaks, total, 1), 0)


def class_drift(
    drifts: Float[Tensor, "anchor raw"],
    weights: Float[Tensor, " anchor"],
    anchor_classes: Int64[Tensor, " anchor"],
    *,
    classes: int,
) -> Float[Tensor, "old raw"]:
    """Δ_c = Σ w d over the anchors of c (eq. 27); zero for a class without anchors."""
    return _sum_by_class(weights[:, None] * drifts, anchor_classes, classes)


def drift_gate(
    affinity: Float[Tensor, " anchor"], anchor_classes: Int64[Tensor, " anchor"], *, classes: int
) -> Float[Tensor, " old"]:
    """g_c = mean a over the anchors of c (eq. 28); zero for a class without anchors."""
    counts = torch.bincount(anchor_classes, minlength=classes)
    return _sum_by_class(affinity, anchor_classes, classes) / counts.clamp(min=1)


def transfer_prototypes(
    prototypes: Float[Tensor, "old raw"],
    *,
    student_raw: Float[Tensor, "anchor raw"],
    teacher_raw: Float[Tensor, "anchor raw"],
    classes: Int64[Tensor, " anchor"],
) -> Float[Tensor, "old raw"]:
    """μ_{t,c} = normalise(μ_{t-1,c} + g_c Δ_c) (eq. 29), for all old classes at once.

    A class without anchors, or with Σa <= 0, keeps its prototype bit for bit.

    Args:
        prototypes: μ_{t-1}, unit norm.
        student_raw: raw features of the anchors after the update, any norm.
        teacher_raw: the same anchors before it.
        classes: the row of `prototypes` that each anchor belongs to.
    """
    old = len(prototypes)
    affinity = anchor_affinity(teacher_raw, prototypes, classes)
    weights = drift_weights(affinity, classes, classes=old)
    delta = class_drift(drift(student_raw, teacher_raw), weights, classes, classes=old)
    gate = drift_gate(affinity, classes, classes=old)
    return torch.where((gate > 0)[:, None], F.normalize(prototypes + gate[:, None] * delta, dim=-1), prototypes)


def merge_prototypes(
    old: Float[Tensor, " raw"], old_count: int, new: Float[Tensor, " raw"], new_count: int
) -> Float[Tensor, " raw"]:
    """normalise(n_old μ_old + n_new μ_new): the prototype of a known class that was taught with more images.

    Each weighs as many images as it stands for. Where the two cancel out exactly, the old one is kept.
    """
    merged = old_count * old + new_count * new
    return F.normalize(merged, dim=-1) if bool(merged.any()) else old


def merge_covariances(
    old: Float[Tensor, "raw raw"], old_count: int, new: Float[Tensor, "raw raw"], new_count: int
) -> Float[Tensor, "raw raw"]:
    """(n_old Σ_old + n_new Σ_new) / (n_old + n_new): each weighs as many images as it was computed from."""
    return (old_count * old + new_count * new) / (old_count + new_count)


def _sum_by_class(
    values: Float[Tensor, "anchor ..."], anchor_classes: Int64[Tensor, " anchor"], classes: int
) -> Float[Tensor, "old ..."]:
    sums = torch.zeros((classes, *values.shape[1:]), dtype=values.dtype, device=values.device)
    return sums.index_add_(0, anchor_classes, values)
