"""Beta from kept-back images: which are kept, and that the weight goes to the path that knows better."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from segp_cl.fusion import choose_fusion_weight, expected_fusion_weight

LABELS = torch.arange(40) % 4


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def knowing(right: Tensor) -> Tensor:
    """Cosines that are 0.02 for the true class of the images in `right`, and for the next one of all others; else 0."""
    scores = torch.zeros(len(right), 4)
    labels = LABELS[: len(right)]
    scores[torch.arange(len(right)), torch.where(right, labels, (labels + 1) % 4)] = 0.02
    return scores


ALL = torch.ones(40, dtype=torch.bool)
HALF = torch.arange(40) % 8 < 4


def choose(text: Tensor, visual: Tensor, *, expected: float, weights: Tensor | None = None) -> float:
    ones = torch.ones(len(text))
    weights = ones if weights is None else weights
    return choose_fusion_weight(text, visual, LABELS[: len(text)], weights, expected=expected)


def test_weight_moves_to_the_path_that_is_right() -> None:
    assert choose(knowing(HALF), knowing(ALL), expected=0.75) == 1.5
    assert choose(knowing(ALL), knowing(HALF), expected=1.5) == 0.75


def test_a_path_that_leads_already_keeps_its_weight() -> None:
    assert choose(knowing(HALF), knowing(ALL), expected=4.0) == 4.0


def test_few_images_do_not_move_it() -> None:
    """Two of six are gained, 0.33 with a standard error of 0.19: less than twice that."""
    right = torch.tensor([True, True, True, True, False, False])
    assert choose(knowing(right), knowing(ALL[:6]), expected=0.75) == 0.75
    many = right.repeat(6)[:36]
    assert choose(knowing(many), knowing(ALL[:36]), expected=0.75) == 1.5


def test_an_image_that_stands_for_many_can_object() -> None:
    """The visual path gains twenty images and loses one that stands for thirty."""
    text, visual = knowing(HALF), knowing(torch.arange(40) != 0)
    assert bool(HALF[0])
    assert choose(text, visual, expected=0.75) == 1.5
    heavy = torch.ones(40)
    heavy[0] = 30.0
    assert choose(text, visual, expected=0.75, weights=heavy) == 0.75


def test_equal_paths_leave_the_expected_weight() -> None:
    assert choose(knowing(HALF), knowing(HALF), expected=2.0) == 2.0


def test_without_images_or_without_a_visual_path_nothing_is_chosen() -> None:
    assert choose(torch.zeros(0, 4), torch.zeros(0, 4), expected=2.0) == 2.0
    assert choose(knowing(HALF), knowing(ALL), expected=0.0) == 0.0


@pytest.mark.parametrize(
    ("images", "weight"),
    [
        ([6], 12 * 6 / 24),
        ([18, 18], 6.0),
        ([2] + [18] * 20, 6.0),  # one class of twenty may have fewer
        ([2, 18], 12 * 2 / 20),  # one of two may not
        ([], 12.0),
        ([10**9], 12.0),
    ],
)
def test_the_weight_follows_the_images_that_most_classes_have(images: list[int], weight: float) -> None:
    assert expected_fusion_weight(images, limit=12.0, half_images=18.0) == pytest.approx(weight)


def test_without_images_and_without_a_half_the_limit_holds() -> None:
    assert expected_fusion_weight([0], limit=12.0, half_images=0.0) == 12.0
