"""Quantiles of log-odds: how they are taken, joined, carried to more classes, and turned into prediction sets."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from segp_cl.odds import (
    LARGEST,
    MULTIPLIERS,
    SHARES,
    at,
    grown,
    least_probability,
    log_odds,
    multipliers,
    pooled,
    quantiles,
    surprise,
)


def drawn(images: int, classes: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Scores, and labels that are drawn by their softmax at 20."""
    generator = torch.Generator().manual_seed(seed)
    scores = 0.2 * torch.randn(images, classes, generator=generator)
    return scores, torch.multinomial(torch.softmax(20 * scores, dim=1), 1, generator=generator)[:, 0]


def test_log_odds_are_those_of_the_softmax() -> None:
    scores, labels = drawn(30, 5)
    odds = log_odds(scores, labels, logit_scale=20.0)
    assert odds.shape == (MULTIPLIERS, 30)
    for scale, row in zip(multipliers(20.0), odds, strict=True):
        right = torch.softmax(scale * scores.double(), dim=1).gather(1, labels[:, None])[:, 0]
        # 1 - p is lost to rounding where p is nearly 1
        assert torch.allclose(torch.sigmoid(row), right, atol=1e-12)
    assert multipliers(20.0)[MULTIPLIERS // 2] == 20.0


def test_odds_against_some_classes_leave_the_others_out() -> None:
    scores, labels = torch.tensor([[0.1, 0.3, 0.2, 0.5]]), torch.tensor([3])
    odds = log_odds(scores, labels, logit_scale=10.0, among=1)
    expected = [scale * 0.4 for scale in multipliers(10.0)]
    assert torch.allclose(odds[:, 0], torch.tensor(expected, dtype=torch.float64))


def test_a_single_class_is_as_sure_as_can_be_stored() -> None:
    odds = log_odds(torch.tensor([[0.3]]), torch.tensor([0]), logit_scale=20.0)
    assert (odds == LARGEST).all()


def test_quantiles_of_two_groups_are_those_of_all_their_images() -> None:
    generator = torch.Generator().manual_seed(0)
    ours = torch.randn(2, 3000, generator=generator, dtype=torch.float64)
    theirs = 2 + 3 * torch.randn(2, 1000, generator=generator, dtype=torch.float64)
    found = pooled(quantiles(ours), quantiles(theirs), weights=(3, 1))
    truth = quantiles(torch.cat([ours, theirs], dim=1))
    assert torch.equal(found[:, [0, -1]], truth[:, [0, -1]])
    widest = truth.diff(dim=1).abs()[:, 2:-2].max()
    assert (found - truth)[:, 2:-2].abs().max() < widest
    assert (found - truth)[:, 2:-2].abs().mean() < 0.06
    itself = pooled(quantiles(ours), quantiles(ours), weights=(2, 5))
    assert torch.allclose(itself, quantiles(ours), atol=1e-9)


def test_odds_shrink_by_what_new_classes_add() -> None:
    """Two images against one class, odds 3 and 1 to 1; the same number of classes joins, which are as near."""
    odds = quantiles(torch.tensor([[1.0, 3.0]], dtype=torch.float64).log())
    against = torch.tensor([[1.0, 3.0]], dtype=torch.float64).log()
    found = grown(odds, against, old_classes=4, new_classes=4)
    assert torch.allclose(found[0, [0, -1]].exp(), torch.tensor([0.5, 1.5], dtype=torch.float64))
    # half as many add half as much
    found = grown(odds, against, old_classes=4, new_classes=2)
    assert torch.allclose(found[0, [0, -1]].exp(), torch.tensor([1 / 1.5, 3 / 1.5], dtype=torch.float64))


def test_without_new_images_every_class_adds_what_the_others_do() -> None:
    odds = quantiles(torch.tensor([[1.0, 3.0]], dtype=torch.float64).log())
    found = grown(odds, odds[:, :0], old_classes=3, new_classes=2)
    assert torch.allclose(found.exp(), odds.exp() / 2)


def test_no_new_class_changes_nothing() -> None:
    odds = quantiles(torch.randn(2, 9, dtype=torch.float64))
    assert grown(odds, odds, old_classes=3, new_classes=0) is odds


def test_growing_predicts_the_odds_of_images_that_are_gone() -> None:
    """Classes are exchangeable here, so images of the new ones say what happens to those of the old ones."""
    scores, labels = drawn(20_000, 30)
    old, new = labels < 20, labels >= 20
    before = quantiles(log_odds(scores[old][:, :20], labels[old], logit_scale=20.0))
    against = log_odds(scores[new], labels[new], logit_scale=20.0, among=20)
    found = at(grown(before, against, old_classes=20, new_classes=10), 20.0, logit_scale=20.0)
    truth = at(quantiles(log_odds(scores[old], labels[old], logit_scale=20.0)), 20.0, logit_scale=20.0)
    unchanged = at(before, 20.0, logit_scale=20.0)
    hardest, all_but_ends = slice(1, SHARES // 2), slice(1, -1)
    assert (found - truth)[hardest].abs().max() < 0.2
    assert (found - truth)[all_but_ends].abs().mean() < 0.5 * (unchanged - truth)[all_but_ends].abs().mean()


def test_between_octaves_quantiles_are_interpolated() -> None:
    odds = torch.arange(MULTIPLIERS, dtype=torch.float64)[:, None].repeat(1, SHARES)
    for place in (0, 3, MULTIPLIERS - 1):
        assert torch.allclose(at(odds, multipliers(7.0)[place], logit_scale=7.0), odds[place])
    between = math.sqrt(multipliers(7.0)[3] * multipliers(7.0)[4])
    assert torch.allclose(at(odds, between, logit_scale=7.0), odds[3] + 0.5)
    assert torch.allclose(at(odds, 7e6, logit_scale=7.0), odds[-1])


def test_surprise_is_the_mean_of_the_images() -> None:
    values = torch.randn(1, 5000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    truth = -torch.nn.functional.logsigmoid(values).mean().item()
    assert surprise(quantiles(values)[0]) == pytest.approx(truth, abs=0.01)


@pytest.mark.parametrize("coverage", [0.5, 0.8, 0.9, 0.95])
def test_sets_hold_the_right_label_as_often_as_asked(coverage: float) -> None:
    scores, labels = drawn(40_000, 10)
    odds = at(quantiles(log_odds(scores[:20_000], labels[:20_000], logit_scale=20.0)), 20.0, logit_scale=20.0)
    least = least_probability(odds, coverage=coverage, images=20_000)
    probabilities = torch.softmax(20 * scores[20_000:].double(), dim=1)
    held = (probabilities.gather(1, labels[20_000:, None]) >= least).double().mean().item()
    assert held == pytest.approx(coverage, abs=0.015)


def test_the_rank_is_that_of_split_conformal_prediction() -> None:
    """Of nine images, the ⌈10 * 0.8⌉ = 8th smallest of 1 - p, which is the second smallest p."""
    probabilities = torch.linspace(0.1, 0.9, 9, dtype=torch.float64)
    odds = quantiles(torch.logit(probabilities)[None])[0]
    assert least_probability(odds, coverage=0.8, images=9) == pytest.approx(0.2, abs=0.002)
    assert least_probability(odds, coverage=0.9, images=9) == pytest.approx(0.1)


def test_more_than_the_images_can_say_takes_every_label() -> None:
    odds = quantiles(torch.randn(1, 9, dtype=torch.float64))[0]
    assert least_probability(odds, coverage=0.91, images=9) == 0.0


def test_quantiles_ascend_whatever_is_joined() -> None:
    generator = torch.Generator().manual_seed(1)
    found = quantiles(torch.randn(3, 40, generator=generator, dtype=torch.float64))
    for _ in range(20):
        found = pooled(found, quantiles(torch.randn(3, 7, generator=generator, dtype=torch.float64)), weights=(9, 2))
    assert (np.diff(found.numpy()) >= 0).all()
