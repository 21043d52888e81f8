"""The training losses: cross-entropy over the task (15), ACGD (16)-(18), TSGR (19)-(21) and their sum (22)."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor


def task_cross_entropy(
    image_features: Float[Tensor, "batch joint"],
    text_features: Float[Tensor, "new joint"],
    targets: Int64[Tensor, " batch"],
    *,
    logit_scale: float,
    log_prior: Float[Tensor, " new"] | None = None,
) -> Float[Tensor, ""]:
    """L_cls (eq. 15): mean cross-entropy over the current task's classes only, at the model's own logit scale.

    `log_prior` is added to the logits: what is learned then does not favour classes of many images (logit adjustment,
    Menon et al. 2021, arXiv 2007.07314). Not in the paper, whose classes have equally many.

    Args:
        image_features: v̄, unit norm.
        text_features: u_c of the task's classes, unit norm.
        targets: position of each image's class in `text_features`.
        logit_scale: the multiplier of cosines, not its logarithm.
        log_prior: the logarithm of each class's share of the images; None: all are equal.
    """
    logits = logit_scale * image_features @ text_features.T
    return F.cross_entropy(logits if log_prior is None else logits + log_prior, targets)


def acgd_logits(
    image_features: Float[Tensor, "anchor joint"],
    text_features: Float[Tensor, "old joint"],
    *,
    logit_scale: float,
    form: Literal["scaled", "cosine"],
) -> Float[Tensor, "anchor old"]:
    """s(x, c) of (eqs. 16, 17): `logit_scale * cos` when `scaled`, the paper's literal `cos` when `cosine`."""
    cosines = image_features @ text_features.T
    return logit_scale * cosines if form == "scaled" else cosines


def acgd_log_distribution(logits: Float[Tensor, "anchor old"], *, tau: float) -> Float[Tensor, "anchor old"]:
    """log π^τ (eq. 16 with the teacher's logits, eq. 17 with the student's): log-softmax of logits / τ over C_<t."""
    return F.log_softmax(logits / tau, dim=-1)


def acgd_loss(
    student: Float[Tensor, "anchor old"], teacher: Float[Tensor, "anchor old"], *, tau: float
) -> Float[Tensor, ""]:
    """ACGD (eq. 18): tau^2 * mean KL(teacher || student) over old classes. Logits in, gradient to `student` only."""
    divergence = F.kl_div(
        acgd_log_distribution(student, tau=tau),
        acgd_log_distribution(teacher.detach(), tau=tau),
        reduction="batchmean",
        log_target=True,
    )
    return tau**2 * divergence


def text_neighbours(
    pretrained_text: Float[Tensor, "seen joint"], new_classes: Int64[Tensor, " new"], *, k: int
) -> Int64[Tensor, "new near"]:
    """N_k(c) (eq. 19): for each new class the k nearest of all seen classes by cosine in G^0's space, itself excluded.

    Args:
        pretrained_text: u^0 of all seen classes, unit norm.
        new_classes: rows of `pretrained_text` that are the task's classes.
        k: neighbours per class; min(k, seen - 1) are returned, which may be 0.

    Returns:
        Rows of `pretrained_text`, nearest first; equally near ones in their order there.
    """
    cosines = pretrained_text[new_classes] @ pretrained_text.T
    cosines.scatter_(1, new_classes[:, None], -torch.inf)
    near = min(k, len(pretrained_text) - 1)
    return cosines.sort(dim=-1, descending=True, stable=True).indices[:, :near]


def neighbour_log_distribution(
    text_features: Float[Tensor, "seen joint"],
    new_classes: Int64[Tensor, " new"],
    neighbours: Int64[Tensor, "new near"],
    *,
    tau: float,
) -> Float[Tensor, "new near"]:
    """log φ(j|c) (eq. 20): log-softmax over c's neighbours of u_c·u_j / τ_T."""
    centres = text_features[new_classes]
    cosines = torch.einsum("cd,cjd->cj", centres, text_features[neighbours])
    return F.log_softmax(cosines / tau, dim=-1)


def tsgr_loss(
    student_text: Float[Tensor, "seen joint"],
    pretrained_text: Float[Tensor, "seen joint"],
    new_classes: Int64[Tensor, " new"],
    neighbours: Int64[Tensor, "new near"],
    *,
    tau: float,
) -> Float[Tensor, ""]:
    """TSGR (eq. 21): mean over new classes of KL(φ_0 || φ_S). Gradient to `student_text` only.

    A single seen class has no neighbours: the loss is exactly 0, and still has a graph.
    """
    if neighbours.numel() == 0:
        return (student_text * 0).sum()
    return F.kl_div(
        neighbour_log_distribution(student_text, new_classes, neighbours, tau=tau),
        neighbour_log_distribution(pretrained_text.detach(), new_classes, neighbours, tau=tau),
        reduction="batchmean",
        log_target=True,
    )


def total_loss(
    classification: Float[Tensor, ""],
    acgd: Float[Tensor, ""],
    tsgr: Float[Tensor, ""],
    *,
    lambda_acgd: float,
    lambda_tsgr: float,
) -> Float[Tensor, ""]:
    """L = L_cls + λ_ACGD L_ACGD + λ_GR L_GR (eq. 22)."""
    return classification + lambda_acgd * acgd + lambda_tsgr * tsgr
