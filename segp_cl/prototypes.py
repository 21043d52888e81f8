"""Visual prototypes: means of new classes (23), and old prototypes moved by their anchors' drift (24)-(29)."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from segp_cl.statistics import MomentSums


def class_means(
    batches: Iterable[tuple[Float[Tensor, "batch raw"], Int64[Tensor, " batch"]]], *, classes: int
) -> Float[Tensor, "new raw"]:
    """μ_{t,c} = normalise Σ r̄_t(x) (eq. 23), over batches of raw features and labels that are read once.

    Raises:
        InvalidTaskError: a class had no image.
    """
    sums, like = MomentSums(classes), torch.empty(0)
    for raw, labels in batches:
        sums.add(raw, labels)
        like = raw.new_empty(0)
    return F.normalize(sums.total().sums, dim=-1).to(like)


def drift(
    student_raw: Float[Tensor, "anchor raw"], teacher_raw: Float[Tensor, "anchor raw"]
) -> Float[Tensor, "anchor raw"]:
    """d(x) = r̄_t(x) - r̄^T(x) (eq. 24): how far the update moved each anchor. Inputs are normalised here."""
    return F.normalize(student_raw, dim=-1) - F.normalize(teacher_raw, dim=-1)


def anchor_affinity(
    teacher_raw: Float[Tensor, "anchor raw"],
    prototypes: Float[Tensor, "old raw"],
    anchor_classes: Int64[Tensor, " anchor"],
) -> Float[Tensor, " anchor"]:
    """a(x, c) = r̄^T(x)·μ_{t-1,c} (eq. 25): the teacher's similarity of each anchor to its class."""
    return (F.normalize(teacher_raw, dim=-1) * prototypes[anchor_classes]).sum(dim=-1)


def drift_weights(
    affinity: Float[Tensor, " anchor"], anchor_classes: Int64[Tensor, " anchor"], *, classes: int
) -> Float[Tensor, " anchor"]:
    """w = a / Σa over the anchors of the same class (eq. 26), summing to one in each class.

    If a class's Σa is not positive, its weights are 0 and its prototype is not moved.
    """
    total = _sum_by_class(affinity, anchor_classes, classes)[anchor_classes]
    positive = total > 0
    return torch.where(positive, affinity / torch.where(positive, total, 1), 0)


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
        teacher_raw: those of the same anchors before it.
        classes: the row of `prototypes` that each anchor belongs to.
    """
    old = len(prototypes)
    affinity = anchor_affinity(teacher_raw, prototypes, classes)
    weights = drift_weights(affinity, classes, classes=old)
    delta = class_drift(drift(student_raw, teacher_raw), weights, classes, classes=old)
    gate = drift_gate(affinity, classes, classes=old)
    return torch.where((gate > 0)[:, None], F.normalize(prototypes + gate[:, None] * delta, dim=-1), prototypes)


def _sum_by_class(
    values: Float[Tensor, "anchor ..."], anchor_classes: Int64[Tensor, " anchor"], classes: int
) -> Float[Tensor, "old ..."]:
    sums = torch.zeros((classes, *values.shape[1:]), dtype=values.dtype, device=values.device)
    return sums.index_add_(0, anchor_classes, values)
