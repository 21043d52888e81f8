"""Which labels of a data set are likely wrong, from probabilities that did not know them: confident learning.

Northcutt, Jiang and Chuang, Confident Learning: Estimating Uncertainty in Dataset Labels, 2021, arXiv 1911.00068. The
rule is theirs that takes the images off the diagonal of the confident joint (their method 2, section 3.2).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor


@dataclass(frozen=True)
class Confident:
    """The class that each image confidently belongs to, by its probabilities and not by its label.

    Attributes:
        rows: that class; the label where there is none.
        wrong: whether there is one, and it is not the label.
    """

    rows: Int64[Tensor, " images"]
    wrong: Bool[Tensor, " images"]


def thresholds(
    probabilities: Float[Tensor, "images classes"], labels: Int64[Tensor, " images"]
) -> Float[Tensor, " classes"]:
    """t_j (eq. 2): the mean probability of class j over the images that are labelled so.

    A class without any has the highest of all others': the paper has none such, and an image that is labelled
    otherwise ought not to be taken for one of it easily.
    """
    counts = torch.bincount(labels, minlength=probabilities.shape[1])
    own = probabilities.gather(1, labels[:, None])[:, 0]
    means = torch.zeros(probabilities.shape[1], dtype=own.dtype).index_add(0, labels, own) / counts.clamp(min=1)
    return torch.where(counts > 0, means, means.max())


def confident_classes(probabilities: Float[Tensor, "images classes"], labels: Int64[Tensor, " images"]) -> Confident:
    """Return the class that each image is counted for in the confident joint (eq. 1), and whether it is another one.

    That is the likeliest of the classes j with p(j | x) >= t_j. An image without any is not counted. Whose class is not
    its label lies off the diagonal, and its label is likely wrong.

    Args:
        probabilities: of each image by a model that did not learn from it.
        labels: as they were given; one image at least.
    """
    reached = probabilities >= thresholds(probabilities, labels)
    best = torch.where(reached, probabilities, -torch.inf).argmax(dim=1)
    rows = torch.where(reached.any(dim=1), best, labels)
    return Confident(rows, rows != labels)


def nearly_same(
    features: Float[Tensor, "images raw"], labels: Int64[Tensor, " images"], *, least_cosine: float, block: int = 1024
) -> list[tuple[int, int, float]]:
    """Return pairs of images in different classes whose features have at least that cosine, the nearest first.

    Cosines are taken around the middle of all features, so that what all images of a model have in common does not make
    them alike.

    Args:
        features: of any norm.
        labels: the class of each.
        least_cosine: of a pair that is returned.
        block: images that are compared with all others at a time.
    """
    unit = F.normalize(features, dim=-1)
    unit = F.normalize(unit - unit.mean(dim=0), dim=-1)
    found = []
    for start in range(0, len(unit), block):
        cosines = unit[start : start + block] @ unit.T
        near = (cosines >= least_cosine) & (labels[start : start + block, None] != labels[None])
        for row, other in near.nonzero().tolist():
            if start + row < other:
                found.append((start + row, other, float(cosines[row, other])))
    return sorted(found, key=lambda pair: -pair[2])
