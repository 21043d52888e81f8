"""Corrections in closed form: moves are exact, and what is taken from the scatter never leaves less than nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from segp_cl.corrections import (
    MOST_TAKEN,
    CorrectedImages,
    expected_mistakes,
    with_corrections,
    without_mistakes,
)
from segp_cl.statistics import ClassSums, MomentSums
from tests.tolerances import SIX_DECIMALS

CLASSES, WIDTH = 4, 12


def images(each: int = 20, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(CLASSES).repeat_interleave(each)
    centres = F.normalize(torch.randn(CLASSES, WIDTH, generator=generator), dim=-1)
    noise = 0.2 * torch.randn(len(labels), WIDTH, generator=generator)
    return F.normalize(centres[labels] + noise, dim=-1), labels


def sums_of(features: torch.Tensor, labels: torch.Tensor, classes: int = CLASSES) -> ClassSums:
    moments = MomentSums(classes)
    moments.add(features, labels)
    return moments.total()


def assert_same(one: ClassSums, other: ClassSums) -> None:
    assert torch.equal(one.counts, other.counts)
    assert (one.sums - other.sums).abs().max() < SIX_DECIMALS
    assert one.scatter is not None
    assert other.scatter is not None
    assert (one.scatter - other.scatter).abs().max() < SIX_DECIMALS


def test_an_image_that_was_taught_wrongly_is_moved_exactly() -> None:
    features, labels = images()
    taught = labels.clone()
    taught[[0, 21]] = torch.tensor([3, 0])
    corrected = CorrectedImages(F.normalize(features[[0, 21]].double(), dim=-1), [0, 1], [3, 0])
    assert_same(with_corrections(sums_of(features, taught), corrected), sums_of(features, labels))


def test_an_image_that_was_not_taught_is_added_and_may_begin_a_class() -> None:
    features, labels = images()
    extra = F.normalize(torch.ones(1, WIDTH).double(), dim=-1)
    found = with_corrections(sums_of(features, labels), CorrectedImages(extra, [CLASSES], [None]))
    both = torch.cat([features, extra.float()]), torch.cat([labels, torch.tensor([CLASSES])])
    assert_same(found, sums_of(*both, classes=CLASSES + 1))


def test_what_cannot_have_been_taught_is_not_taken_away() -> None:
    features, labels = images(each=2)  # 8 images in 12 dimensions: no others fit in
    before = sums_of(features, labels)
    strange = F.normalize(torch.randn(1, WIDTH, generator=torch.Generator().manual_seed(9)).double(), dim=-1)
    found = with_corrections(before, CorrectedImages(strange, [0], [1]))
    assert found.counts.tolist() == [3, 2, 2, 2]
    alone = ClassSums(torch.tensor([1, 3]), before.sums[:2], before.scatter)
    found = with_corrections(alone, CorrectedImages(F.normalize(alone.sums[:1], dim=-1), [1], [0]))
    assert found.counts.tolist() == [1, 4]  # a class keeps its only image


def test_without_a_scatter_sums_are_moved_alone() -> None:
    features, labels = images()
    plain = replace(sums_of(features, labels), scatter=None)
    corrected = CorrectedImages(F.normalize(features[:1].double(), dim=-1), [1], [0])
    found = with_corrections(plain, corrected)
    assert found.scatter is None
    assert found.counts.tolist() == [19, 21, 20, 20]
    assert without_mistakes(found, torch.ones(4, 4, dtype=torch.float64)) is found


def test_expected_mistakes_by_hand() -> None:
    # two found, of pairs (0, 1) and (1, 0); tasks {0, 1, 2} and {3}; 6 ordered pairs, each with a prior of 0.1
    found = expected_mistakes([(0, 1), (1, 0)], [1, 1, 1, 2], [100, 100, 100, 100], stands_for=13.0)
    assert found.sum() == pytest.approx(26.0)
    assert found[0, 1] == pytest.approx(26 * 1.1 / 2.6)
    assert found[0, 2] == found[2, 1] == pytest.approx(26 * 0.1 / 2.6)
    assert not found[3].any()
    assert not found[:, 3].any()
    assert not found.diagonal().any()
    capped = expected_mistakes([(0, 1), (1, 0)], [1, 1, 1, 2], [4, 100, 100, 100], stands_for=13.0)
    assert capped[0].sum() == pytest.approx(2.0)
    assert torch.equal(capped[1], found[1])


def test_a_single_mistake_s_own_share_of_the_scatter_is_what_goes() -> None:
    """Where the variance is large beside it, one pair loses g d dᵀ, shrunk as the whitening shrinks it."""
    means = torch.zeros(2, 3, dtype=torch.float64)
    means[0, 0], means[1, 1] = 0.01, 0.01
    scatter = torch.eye(3, dtype=torch.float64) * 100
    expected = torch.zeros(2, 2, dtype=torch.float64)
    expected[0, 1] = 2.0
    found = without_mistakes(ClassSums(torch.tensor([10, 10]), 10 * means, scatter), expected)
    assert found.scatter is not None
    apart = means[0] - means[1]
    gone = 2 * 10 / (10 - 2) * torch.outer(apart, apart) / 4  # W (W + λI)⁻¹ is one half here, on either side
    assert (scatter - found.scatter - gone).abs().max() < 1e-5 * gone.abs().max()


def test_no_direction_loses_more_than_allowed() -> None:
    features, labels = images()
    before = sums_of(features, labels)
    expected = 0.5 * before.counts.double()[:, None] * torch.ones(CLASSES, CLASSES, dtype=torch.float64) / CLASSES
    after = without_mistakes(before, 1e3 * expected.fill_diagonal_(0).clamp(max=9))
    assert before.scatter is not None
    assert after.scatter is not None
    assert torch.linalg.eigvalsh(after.scatter).min() > 0
    assert torch.linalg.eigvalsh(after.scatter - (1 - MOST_TAKEN) * before.scatter).min() > -1e-9
    assert torch.linalg.eigvalsh(before.scatter - after.scatter).min() > -1e-9
    assert torch.equal(after.sums, before.sums)
