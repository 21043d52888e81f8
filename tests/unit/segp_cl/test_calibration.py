"""Multipliers that make a softmax a probability, and how far from one it is."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from segp_cl.calibration import OCTAVES, PRIOR_IMAGES, expected_calibration_error, fit_scale


def drawn(scale: float, images: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Cosines of images of ten classes, and labels that are drawn by their softmax at `scale`."""
    generator = torch.Generator().manual_seed(seed)
    scores = 0.3 * torch.randn(images, 10, generator=generator)
    return scores, torch.multinomial(torch.softmax(scale * scores, dim=1), 1, generator=generator)[:, 0]


@pytest.mark.parametrize("scale", [4.0, 15.0, 60.0])
@pytest.mark.parametrize("expected", [10.0, 30.0])
def test_the_scale_by_which_labels_were_drawn_is_found(scale: float, expected: float) -> None:
    scores, labels = drawn(scale, 20_000)
    assert fit_scale(scores, labels, expected=expected) == pytest.approx(scale, rel=0.05)


def test_it_is_the_least_of_surprise_and_prior() -> None:
    scores, labels = drawn(15.0, 30)

    def cost(scale: float) -> float:
        surprise = F.cross_entropy(scale * scores.double(), labels, reduction="sum").item()
        return surprise + PRIOR_IMAGES / 2 * math.log(scale / 20.0) ** 2

    found = fit_scale(scores, labels, expected=20.0)
    assert all(cost(found) <= cost(20.0 * 2.0 ** (step / 50)) + 1e-9 for step in range(-200, 201))


def test_images_that_are_all_right_do_not_make_it_certain() -> None:
    scores, labels = torch.eye(5), torch.arange(5)
    assert 20.0 * 0.999 < fit_scale(scores, labels, expected=20.0) < 20.0 * 2**OCTAVES
    assert fit_scale(scores, labels, expected=1.0) < 10


def test_without_images_it_is_what_was_expected() -> None:
    found = fit_scale(torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64), expected=20.0)
    assert found == pytest.approx(20.0, rel=1e-4)


def test_images_that_are_gone_count_as_if_they_were_there() -> None:
    scores, labels = drawn(15.0, 400)

    def gone(scale: float) -> float:
        return F.cross_entropy(scale * scores[100:].double(), labels[100:], reduction="sum").item()

    found = fit_scale(scores[:100], labels[:100], expected=20.0, gone=gone)
    assert found == pytest.approx(fit_scale(scores, labels, expected=20.0), rel=1e-4)


def test_calibration_error_by_hand() -> None:
    """Three images of probability 0.9, two of them right, and one of 0.6 that is right: (|2 - 2.7| + |1 - 0.6|) / 4."""
    probabilities = torch.tensor([[0.9, 0.1], [0.9, 0.1], [0.1, 0.9], [0.4, 0.6]], dtype=torch.float64)
    assert expected_calibration_error(probabilities, torch.tensor([0, 1, 1, 1])) == pytest.approx(1.1 / 4)


def test_a_calibrated_softmax_has_less_error_than_a_sharp_one() -> None:
    scores, labels = drawn(15.0, 20_000)
    sharp, calibrated = (torch.softmax(scale * scores, dim=1) for scale in (60.0, 15.0))
    assert expected_calibration_error(calibrated, labels) < 0.02
    assert expected_calibration_error(sharp, labels) > 0.1
