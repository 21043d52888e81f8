"""What is kept of every class's features: sums, means, one covariance, whitening and draws."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from segp_cl.scores import visual_scores
from segp_cl.statistics import (
    FeatureSampler,
    MomentSums,
    Whitening,
    merge_covariances,
    merge_prototypes,
    visual_space,
)
from tests.tolerances import FLOAT32_REORDERED


def unit(*shape: int, seed: int) -> Tensor:
    drawn = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return F.normalize(drawn, dim=-1)


def test_merged_prototypes_by_hand() -> None:
    # 3 (1, 0) + 4 (0, 1) = (3, 4), so (0.6, 0.8)
    merged = merge_prototypes(torch.tensor([1.0, 0.0]), 3, torch.tensor([0.0, 1.0]), 4)
    assert merged.tolist() == pytest.approx([0.6, 0.8])


def test_merging_with_no_images_changes_nothing() -> None:
    old, new = unit(5, seed=0), unit(5, seed=1)
    assert torch.allclose(merge_prototypes(old, 4, new, 0), old)
    assert torch.allclose(merge_prototypes(old, 0, new, 4), new)


def test_merging_depends_on_the_ratio_of_counts_only() -> None:
    old, new = unit(5, seed=0), unit(5, seed=1)
    assert torch.allclose(merge_prototypes(old, 2, new, 6), merge_prototypes(old, 10, new, 30))


def test_prototypes_that_cancel_out_keep_the_old_one() -> None:
    old = torch.tensor([1.0, 0.0])
    assert torch.equal(merge_prototypes(old, 2, -old, 2), old)


def test_covariance_is_that_within_the_classes_whatever_the_batches() -> None:
    generator = torch.Generator().manual_seed(0)
    raw, labels = torch.randn(30, 4, generator=generator), torch.arange(30) % 3
    unit = F.normalize(raw, dim=1)
    centred = torch.cat([unit[labels == c] - unit[labels == c].mean(dim=0) for c in range(3)])
    sums = MomentSums(3)
    for part in torch.split(torch.arange(30), 7):
        sums.add(5 * raw[part], labels[part])
    assert torch.allclose(sums.moments().covariance, centred.T @ centred / 30, atol=FLOAT32_REORDERED)
    assert sums.counts.tolist() == [10, 10, 10]


def test_merged_covariances_weigh_by_their_images() -> None:
    merged = merge_covariances(torch.eye(2), 3, 5 * torch.eye(2), 1)
    assert torch.equal(merged, 2 * torch.eye(2))


def test_drawn_features_have_the_stored_mean_covariance_and_norm() -> None:
    generator = torch.Generator().manual_seed(0)
    spread = torch.randn(3, 3, generator=generator)
    covariance = spread @ spread.T
    covariance *= 0.36 / covariance.trace()
    prototypes = F.normalize(torch.randn(2, 3, generator=generator), dim=1)
    drawn = FeatureSampler(prototypes, covariance).draw(
        torch.ones(20_000, dtype=torch.int64), torch.tensor(5.0), generator=generator
    )
    # 20,000 draws: five standard errors of a mean, and more of a covariance
    assert torch.allclose(drawn.mean(dim=0) / 5, 0.8 * prototypes[1], atol=0.02)
    assert torch.allclose(torch.cov(drawn.T) / 25, covariance, atol=0.02)


def test_without_a_covariance_the_prototypes_themselves_are_drawn() -> None:
    drawn = FeatureSampler(torch.eye(3), None).draw(
        torch.tensor([2, 0]), torch.tensor(4.0), generator=torch.Generator().manual_seed(0)
    )
    assert torch.equal(drawn, 4 * torch.eye(3)[[2, 0]])


def test_whitening_by_hand() -> None:
    """Variances 3 and 1, shrunk by once their mean 2: 5 and 3, so axes are scaled by 1/sqrt(5) and 1/sqrt(3)."""
    whitening = Whitening.of(torch.diag(torch.tensor([3.0, 1.0])), shrinkage=1.0)
    assert whitening is not None
    assert torch.allclose(whitening.matrix, torch.diag(torch.tensor([5.0, 3.0]).rsqrt()))
    assert torch.allclose(whitening(torch.tensor([[1.0, 1.0]])), torch.tensor([[3.0, 5.0]]).sqrt() / 8**0.5)


def test_whitened_scores_are_cosines_in_the_metric_of_the_inverse_covariance() -> None:
    generator = torch.Generator().manual_seed(0)
    spread, raw, prototypes = (torch.randn(5, 5, generator=generator) for _ in range(3))
    prototypes = F.normalize(prototypes, dim=1)
    covariance = spread.T @ spread
    whitening, moved = visual_space(prototypes, covariance)
    assert whitening is not None
    metric = torch.linalg.inv(covariance + covariance.diagonal().mean() * torch.eye(5))
    unit = F.normalize(raw, dim=1)
    norms = [((side @ metric) * side).sum(dim=1).sqrt() for side in (unit, prototypes)]
    expected = unit @ metric @ prototypes.T / norms[0][:, None] / norms[1]
    assert torch.allclose(visual_scores(raw, moved, whitening), expected, atol=FLOAT32_REORDERED)


def test_without_variance_the_plain_cosine_is_taken() -> None:
    prototypes = torch.eye(3)
    assert visual_space(prototypes, torch.zeros(3, 3)) == (None, prototypes)
    assert visual_space(prototypes, None) == (None, prototypes)
