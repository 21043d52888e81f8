"""Cross-modal contributions: each score by hand, and held against all pairs."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from segp_cl.contributions import (
    MOST_EXACT,
    Contributions,
    Margin,
    Side,
    contributions,
    forgetting_pairs,
    image_spread,
    margins,
    mean_cosine,
    nearest_pairs,
    suggested_order,
)
from tests.tolerances import FLOAT64_REORDERED


def unit(rows: int, seed: int, joint: int = 5) -> Tensor:
    return F.normalize(torch.randn(rows, joint, generator=torch.Generator().manual_seed(seed)), dim=-1)


E1, E2, E3 = torch.eye(3).unbind()


def test_the_four_scores_by_hand() -> None:
    """Images of the first task: e₁ and e₂; its text e₁. The second task has one image e₂, and texts e₁ and e₃."""
    before = Side(images=torch.stack([E1, E2]), texts=E1[None])
    after = Side(images=E2[None], texts=torch.stack([E1, E3]))
    assert contributions(before, after) == Contributions(
        image_to_text=0.25, text_to_image=0.0, image_to_image=0.5, text_to_text=0.5
    )
    turned = contributions(after, before)
    assert (turned.image_to_text, turned.text_to_image) == (0.0, 0.25)


def test_mean_and_spread_are_those_of_all_pairs() -> None:
    one, other = unit(30, seed=0), unit(20, seed=1)
    pairs = (one.double() @ other.double().T).flatten()
    assert mean_cosine(one, other) == pytest.approx(float(pairs.mean()), abs=FLOAT64_REORDERED)
    assert image_spread(one, other) == pytest.approx(float(pairs.std(correction=0)), abs=1e-9)


def test_images_that_are_all_alike_have_no_spread() -> None:
    assert image_spread(E1.repeat(4, 1), E1.repeat(2, 1)) == 0.0
    assert image_spread(torch.stack([E1, E2]), E1[None]) == pytest.approx(0.5)


def test_the_least_margin_comes_first_and_is_negative_where_a_new_text_is_nearer() -> None:
    images = torch.stack([E1, F.normalize(E1 + 2 * E2, dim=0)])
    own = torch.stack([E1, E1])
    new = torch.stack([E3, E2])
    first, second = margins(images, own, new)
    assert (first.row, first.nearest) == (1, 1)
    assert first.margin == pytest.approx(-(5**-0.5))
    assert second == Margin(0, 0, 1.0)


def test_nearest_pairs_name_each_old_class_once() -> None:
    old, new = torch.stack([E1, E2, E3]), torch.stack([F.normalize(E1 + E2 / 2, dim=0), E3])
    assert nearest_pairs(old, new, most=2) == [(2, 1, 1.0), (0, 0, pytest.approx(2 / 5**0.5))]


def test_the_suggested_order_is_the_cheapest_of_all() -> None:
    scores = torch.rand(6, 6, generator=torch.Generator().manual_seed(3))
    order = suggested_order(scores)

    def cost(tasks: tuple[int, ...]) -> float:
        return float(sum(scores[a, b] for a, b in itertools.pairwise(tasks)))

    assert sorted(order) == list(range(6))
    assert cost(order) == pytest.approx(min(map(cost, itertools.permutations(range(6)))))


def test_many_tasks_are_ordered_greedily() -> None:
    """Each task costs nothing after the one before it by number, and one after any other."""
    tasks = MOST_EXACT + 3
    scores = torch.ones(tasks, tasks)
    scores[torch.arange(tasks - 1), torch.arange(1, tasks)] = 0
    assert suggested_order(scores) == tuple(range(tasks))


def test_nothing_has_an_empty_order() -> None:
    assert suggested_order(torch.empty(0, 0)) == ()


def test_what_was_forgotten_by_each_task_by_hand() -> None:
    accuracies = torch.tensor([[0.9, 0.0, 0.0], [0.7, 0.8, 0.0], [0.75, 0.5, 1.0]])
    pairs, fallen = forgetting_pairs(accuracies)
    assert pairs.tolist() == [[0, 1], [0, 2], [1, 2]]
    assert fallen.tolist() == pytest.approx([0.2, -0.05, 0.3])
