"""The drift map: a rotation is recovered, what no pair speaks of stays, and batches do not matter."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from segp_cl.drift import Drift, DriftSums
from tests.tolerances import FLOAT32_REORDERED, FLOAT64_REORDERED

RAW = 6


def pairs(count: int, *, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Features, the same rotated, and the rotation."""
    generator = torch.Generator().manual_seed(seed)
    rotation = torch.linalg.qr(torch.randn(RAW, RAW, generator=generator))[0]
    before = torch.randn(count, RAW, generator=generator)
    return before, before @ rotation, rotation


def solved(before: Tensor, after: Tensor, ridge: float) -> Drift:
    sums = DriftSums()
    sums.add(before, after)
    return sums.solve(ridge=ridge)


def fitted(before: Tensor, after: Tensor, ridge: float) -> Tensor:
    return solved(before, after, ridge).matrix


def test_by_hand_in_one_direction() -> None:
    """z = e1 twice, z' = e2: Σ zᵀz = diag(2, 0), λ = 2 · 1, M11 = 1 - 2 / (2 + λ), e = (-1, 1) / 2."""
    before, after = torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.tensor([[0.0, 3.0], [0.0, 1.0]])
    drift = solved(before, after, ridge=2.0)
    assert torch.allclose(drift.matrix, torch.tensor([[0.5, 0.5], [0.0, 1.0]], dtype=torch.float64))
    assert torch.allclose(drift.noise, torch.tensor([[0.25, -0.25], [-0.25, 0.25]], dtype=torch.float64))


def test_a_rotation_of_the_space_is_recovered_from_enough_pairs() -> None:
    before, after, rotation = pairs(200)
    assert torch.allclose(fitted(before, after, 1e-9), rotation.double(), rtol=0, atol=FLOAT32_REORDERED)


def test_directions_that_no_pair_has_stay_where_they_were() -> None:
    before, after, _ = pairs(50)
    before[:, RAW // 2 :] = 0
    matrix = fitted(before, after, 0.1)
    assert torch.equal(matrix[RAW // 2 :], torch.eye(RAW, dtype=torch.float64)[RAW // 2 :])


def test_without_drift_the_map_is_the_identity_bit_for_bit() -> None:
    before, *_ = pairs(20)
    drift = solved(before, before, 1.0)
    assert torch.equal(drift.matrix, torch.eye(RAW).double())
    assert not drift.noise.any()


def test_a_larger_ridge_is_nearer_to_the_identity() -> None:
    before, after, _ = pairs(50)
    gaps = [float((fitted(before, after, ridge) - torch.eye(RAW)).norm()) for ridge in (0.1, 1.0, 10.0, 1e6)]
    assert gaps == sorted(gaps, reverse=True)
    assert gaps[-1] < 1e-4


def test_neither_batches_nor_norms_matter() -> None:
    before, after, _ = pairs(30)
    sums = DriftSums()
    for part in torch.split(torch.arange(30), 7):
        sums.add(3 * before[part], 0.5 * after[part])
    drift, expected = sums.solve(ridge=1.0), solved(F.normalize(before, dim=-1), F.normalize(after, dim=-1), 1.0)
    assert torch.allclose(drift.matrix, expected.matrix, rtol=0, atol=FLOAT32_REORDERED)
    assert torch.allclose(drift.noise, expected.noise, rtol=0, atol=FLOAT32_REORDERED)


def test_noise_is_what_the_map_leaves_of_the_pairs() -> None:
    before, after, _ = pairs(40)
    after = after + 0.3 * torch.randn(after.shape, generator=torch.Generator().manual_seed(1))
    drift = solved(before, after, 1.0)
    left = F.normalize(after.double(), dim=-1) - F.normalize(before.double(), dim=-1) @ drift.matrix
    assert torch.allclose(drift.noise, left.T @ left / 40, rtol=0, atol=FLOAT64_REORDERED)


@pytest.mark.parametrize("ridge", [0.1, 10.0])
def test_the_solution_is_the_minimum(ridge: float) -> None:
    before, after, _ = pairs(40)
    old, new = F.normalize(before.double(), dim=-1), F.normalize(after.double(), dim=-1)
    matrix = fitted(before.double(), after.double(), ridge).requires_grad_()
    penalty = ridge * (old.T @ old).diagonal().mean()
    loss = (old @ matrix - new).square().sum() + penalty * (matrix - torch.eye(RAW)).square().sum()
    (gradient,) = torch.autograd.grad(loss, matrix)
    assert float(gradient.abs().max()) < FLOAT64_REORDERED
