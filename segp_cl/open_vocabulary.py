"""Taught classes beside words that were never taught: which of the two an image shows. Not in the paper.

See docs/adr/0031.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor

from segp_cl.scores import probabilities
from segp_cl.types import Familiarity

VISUAL_SCALE: Final = 20.0
"""The multiplier of whitened cosines in the visual evidence, near the usual calibrated one."""
EXPECTED: Final = Familiarity(visual=0.75, text=0.42, offset=-1.6, images=0)
"""The weights before any image was looked at, chosen on validation images of Caltech-101 and CIFAR-10."""
EXPECTED_BY_TEXT: Final = Familiarity(visual=0.0, text=0.45, offset=-0.4, images=0)
"""The same where the visual path's cosines are not whitened around the middle of the classes."""
DEVIATIONS: Final = (0.19, 0.1, 0.5)
"""How far the weights usually are from what was expected: standard deviations of the prior."""
SPLITS: Final = 16
"""How many times the task's classes are divided into taught and untaught ones."""


def expected_familiarity(comparable: bool) -> Familiarity:
    """Return the weights before any image was looked at; `comparable`: there is visual evidence."""
    return EXPECTED if comparable else EXPECTED_BY_TEXT


def evidence(
    visual: Float[Tensor, "images taught"] | None,
    taught_text: Float[Tensor, "images taught"],
    new_text: Float[Tensor, "images new"],
    *,
    logit_scale: float,
) -> Float64[Tensor, "images 3"]:
    """Return what speaks for an image to show a taught class, and a column of ones.

    First log mean exp(`VISUAL_SCALE` s_v) over the taught classes: the free energy by which Liu et al. (2020, arXiv
    2010.03759) detect unknown images, as a mean, so that it does not grow with the number of classes. Then, in logits,
    how much better the best taught name fits than the best new word.

    Args:
        visual: s_v (6) of the taught classes; None: not comparable between classes, and left out.
        taught_text: cosines with the names of the taught classes, by the untouched text path.
        new_text: the same with the new words.
        logit_scale: the multiplier of text cosines.
    """
    margin = logit_scale * (taught_text.amax(dim=1) - new_text.amax(dim=1)).double()
    energy = torch.zeros_like(margin)
    if visual is not None:
        energy = (VISUAL_SCALE * visual.double()).logsumexp(dim=1) - math.log(visual.shape[1])
    return torch.stack([energy, margin, torch.ones_like(margin)], dim=1)


def probability_of_taught(seen: Float64[Tensor, "images 3"], familiarity: Familiarity) -> Float64[Tensor, " images"]:
    """Return how likely each image shows one of the taught classes, not one of the new words, from its `evidence`."""
    return torch.sigmoid(seen @ _weights(familiarity))


def open_probabilities(
    taught: Float[Tensor, "images taught"],
    visual: Float[Tensor, "images taught"] | None,
    text: Float[Tensor, "images both"],
    familiarity: Familiarity,
    *,
    logit_scale: float,
) -> Float[Tensor, "images both"]:
    """Return P(c) = P(taught) p(c | taught) and P(w) = (1 - P(taught)) p(w | new), the taught classes first.

    Args:
        taught: p(c | taught), each row summing to one; at least one class.
        visual: s_v (6) of the same classes; None: see `evidence`.
        text: cosines with the names of the same classes and then the new words, by the untouched text path.
        familiarity: weights of the evidence for a taught class.
        logit_scale: the multiplier of text cosines, which also gives p(w | new).
    """
    classes = taught.shape[1]
    if text.shape[1] == classes:
        return taught
    known, new = text[:, :classes], text[:, classes:]
    share = probability_of_taught(evidence(visual, known, new, logit_scale=logit_scale), familiarity)[:, None]
    of_words = probabilities(new.double(), logit_scale=logit_scale)
    return torch.cat([share * taught.double(), (1 - share) * of_words], dim=1).to(taught.dtype)


def fit_familiarity(
    visual: Float[Tensor, "images seen"] | None,
    text: Float[Tensor, "images seen"],
    rows: Int64[Tensor, " images"],
    *,
    logit_scale: float,
    expected: Familiarity,
    generator: torch.Generator,
) -> Familiarity:
    """Fit the weights of the evidence on held-out images, some of whose classes are taken for untaught words in turn.

    Half of the task's classes, drawn anew `SPLITS` times, leave the taught classes, and their names become new words:
    their images must be told from the others'. Logistic regression, in which both kinds count alike, with a normal
    prior around `expected`.

    Args:
        visual: s_v of images that were neither trained on nor part of a prototype; None: see `evidence`.
        text: cosines of the same by the untouched text path.
        rows: their classes.
        logit_scale: the multiplier of text cosines.
        expected: the weights before these images.
        generator: draws the classes (a CPU generator).
    """
    seen, classes = sorted(set(rows.tolist())), text.shape[1]
    if classes < 2:
        return expected
    found, labels = [], []
    for split in range(SPLITS):
        new = _untaught(seen, classes, split, generator)
        taught = ~torch.isin(torch.arange(classes), new)
        of_taught = None if visual is None else visual[:, taught]
        found.append(evidence(of_taught, text[:, taught], text[:, ~taught], logit_scale=logit_scale))
        labels.append(taught[rows])
    weights = _regress(torch.cat(found), torch.cat(labels), images=len(rows), expected=expected)
    return Familiarity(*weights, images=len(rows))


def _untaught(seen: Sequence[int], classes: int, split: int, generator: torch.Generator) -> Int64[Tensor, " new"]:
    """Return the classes that count as new words in a split: half of those with images, never all classes."""
    if len(seen) > 1:
        return torch.tensor(seen)[torch.randperm(len(seen), generator=generator)[: len(seen) // 2]]
    if split % 2 == 0:
        return torch.tensor(seen)
    others = [row for row in range(classes) if row not in seen]
    return torch.tensor([others[int(torch.randint(len(others), (1,), generator=generator))]])


def _regress(
    found: Float64[Tensor, "cases 3"], taught: Bool[Tensor, " cases"], *, images: int, expected: Familiarity
) -> tuple[float, float, float]:
    from scipy.optimize import minimize  # here, because servers never fit and it takes long to import
    from scipy.special import expit

    x, y = found.numpy(), taught.double().numpy()
    balanced = np.where(y > 0, 1 / max(1.0, y.sum()), 1 / max(1.0, (1 - y).sum()))
    importance = images * balanced / balanced.sum()
    prior, precision = _weights(expected).numpy(), 1 / np.square(DEVIATIONS)

    def cost(weights: Float64[np.ndarray, " 3"]) -> tuple[float, Float64[np.ndarray, " 3"]]:
        logits, away = x @ weights, weights - prior
        surprise = importance @ (np.logaddexp(0, logits) - y * logits) + precision @ away**2 / 2
        return float(surprise), x.T @ (importance * (expit(logits) - y)) + precision * away

    visual, text, offset = minimize(cost, prior, jac=True, method="L-BFGS-B").x.tolist()
    return visual, text, offset


def _weights(familiarity: Familiarity) -> Float64[Tensor, " 3"]:
    return torch.tensor([familiarity.visual, familiarity.text, familiarity.offset], dtype=torch.float64)
