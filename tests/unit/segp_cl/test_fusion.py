"""Beta from kept-back images: which are kept, and that the weight goes to the path that knows better."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from segp_cl.fusion import choose_fusion_weight, keep_back

LABELS = torch.arange(40) % 4


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def knowing(right: Tensor) -> Tensor:
    """Cosines that are 0.02 for the true class of the images in `right`, and for the next one of all others; else 0."""
    scores = torch.zeros(len(LABELS), 4)
    scores[torch.arange(len(LABELS)), torch.where(right, LABELS, (LABELS + 1) % 4)] = 0.02
    return scores


ALL = torch.ones(40, dtype=torch.bool)
HALF = torch.arange(40) % 8 < 4


def choose(text: Tensor, visual: Tensor, labels: Tensor = LABELS, expected: float = 2.0) -> float:
    return choose_fusion_weight(text, visual, labels, torch.ones(len(labels)), expected=expected, logit_scale=20.0)


def test_weight_moves_to_the_path_that_is_right() -> None:
    assert choose(knowing(HALF), knowing(ALL)) > 2.0
    assert choose(knowing(ALL), knowing(HALF)) < 2.0


def test_few_images_move_it_less_than_many() -> None:
    few = choose(knowing(HALF)[:8], knowing(ALL)[:8], LABELS[:8])
    assert 2.0 <= few <= choose(knowing(HALF), knowing(ALL))


def test_equal_paths_leave_the_expected_weight() -> None:
    assert choose(knowing(HALF), knowing(HALF)) == 2.0


def test_without_images_or_without_a_visual_path_nothing_is_chosen() -> None:
    assert choose(torch.zeros(0, 4), torch.zeros(0, 4), LABELS[:0]) == 2.0
    assert choose(knowing(HALF), knowing(ALL), expected=0.0) == 0.0


def test_every_class_with_enough_images_gives_its_share() -> None:
    labels = [0] * 20 + [1] * 5 + [2] * 4
    kept = keep_back(labels, fraction=0.1, min_images=5, generator=generator())
    assert [labels[position] for position in kept] == [0, 0, 1]
    assert list(kept) == sorted(set(kept))
    assert kept == keep_back(labels, fraction=0.1, min_images=5, generator=generator())


@pytest.mark.parametrize("labels", [[], [0, 1, 2]])
def test_nothing_is_kept_of_too_few(labels: list[int]) -> None:
    assert keep_back(labels, fraction=0.5, min_images=5, generator=generator()) == ()


def test_nothing_is_kept_at_fraction_zero() -> None:
    assert keep_back([0] * 50, fraction=0.0, min_images=5, generator=generator()) == ()
