"""Aligned merging: every formula by hand, and what it must not change."""

from __future__ import annotations

import pytest
import torch

from segp_cl.errors import IncompatibleStateError
from segp_cl.merging import (
    MergeTarget,
    average,
    average_adapters,
    conflicts,
    merge_weight,
    misaligned,
    misaligned_share,
    reinitialised,
    top_mask,
)
from segp_cl.types import LoraFactors, LoraState

HELD = torch.tensor([[4.0, -3.0], [0.0, 1.0]])
TASK = torch.tensor([[-1.0, -2.0], [5.0, -6.0]])


def lora(a: float, b: float, *, scale: float = 1.0, key: str = "text.mlp.weight") -> LoraState:
    factors = LoraFactors(a=torch.full((1, 2), a), b=torch.full((2, 1), b))
    return LoraState(rank=1, scale=scale, factors={key: factors})


@pytest.mark.parametrize(
    ("share", "marked"),
    [
        (0.0, [[0, 0], [0, 0]]),
        (0.25, [[1, 0], [0, 0]]),
        (0.5, [[1, 1], [0, 0]]),
        (0.74, [[1, 1], [0, 0]]),  # rounded down
        (0.75, [[1, 1], [0, 1]]),
        (1.0, [[1, 1], [1, 1]]),
    ],
)
def test_top_mask_by_hand(share: float, marked: list[list[int]]) -> None:
    assert top_mask(HELD, share=share).int().tolist() == marked


def test_misaligned_by_hand() -> None:
    # 4 against -1 and 1 against -6; 0 has no sign
    assert misaligned(TASK, HELD).int().tolist() == [[1, 0], [0, 1]]


def test_conflicts_by_hand() -> None:
    assert conflicts(TASK, HELD, top_mask(HELD, share=0.5)).int().tolist() == [[1, 0], [0, 0]]
    assert conflicts(TASK, HELD, top_mask(HELD, share=1.0)).int().tolist() == [[1, 0], [0, 1]]


@pytest.mark.parametrize(("target", "first"), [("global", 4.0), ("zero", 0.0)])
def test_reinitialisation_by_hand(target: MergeTarget, first: float) -> None:
    conflicting = conflicts(TASK, HELD, top_mask(HELD, share=0.5))

    assert reinitialised(TASK, HELD, conflicting, target=target).tolist() == [[first, -2.0], [5.0, -6.0]]


@pytest.mark.parametrize("target", ["global", "zero"])
def test_without_conflicts_nothing_is_set_back(target: MergeTarget) -> None:
    task = HELD * torch.tensor([[0.5, 3.0], [7.0, 2.0]])
    conflicting = conflicts(task, HELD, top_mask(HELD, share=1.0))

    assert torch.equal(reinitialised(task, HELD, conflicting, target=target), task)


def test_merging_what_did_not_change_changes_nothing() -> None:
    matrix = torch.randn(7, 5, generator=torch.Generator().manual_seed(0))

    for weight in (0.0, 0.1, 1 / 3, 1.0):
        assert torch.equal(average(matrix, matrix.clone(), weight=weight), matrix)


def test_average_by_hand() -> None:
    assert average(HELD, TASK, weight=0.25).tolist() == [[2.75, -2.75], [1.25, -0.75]]


def test_with_the_weight_of_each_task_the_average_is_the_mean_of_all() -> None:
    tasks = [torch.tensor([value]) for value in (3.0, 5.0, -2.0, 6.0)]

    merged = tasks[0]
    for number, task in enumerate(tasks[1:], start=2):
        merged = average(merged, task, weight=merge_weight(number))

    assert merged.item() == pytest.approx(3.0)


def test_misaligned_share_by_hand() -> None:
    assert misaligned_share([TASK, torch.ones(4)], [HELD, torch.ones(4)]) == 2 / 8
    assert misaligned_share([], []) == 0.0


def test_averages_of_b_are_averages_of_the_weights_that_are_served() -> None:
    a = torch.randn(3, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    one, two = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    torch.testing.assert_close(average(one, two, weight=0.3) @ a, average(one @ a, two @ a, weight=0.3))


def test_adapters_are_averaged_matrix_by_matrix() -> None:
    merged = average_adapters(lora(2.0, 1.0), lora(2.0, 5.0), weight=0.25)

    (factors,) = merged.factors.values()
    assert factors.a.tolist() == [[2.0, 2.0]]
    assert factors.b.tolist() == [[2.0], [2.0]]


def test_what_one_side_did_not_adapt_counts_as_zero_there() -> None:
    merged = average_adapters(lora(2.0, 4.0), lora(3.0, 8.0, key="image.mlp.weight"), weight=0.25)

    assert {key: factors.b.tolist() for key, factors in merged.factors.items()} == {
        "text.mlp.weight": [[3.0], [3.0]],
        "image.mlp.weight": [[2.0], [2.0]],
    }


@pytest.mark.parametrize(("other", "says"), [(lora(3.0, 1.0), "do not share A"), (lora(2.0, 1.0, scale=0.5), "scale")])
def test_adapters_without_a_common_version_are_refused(other: LoraState, says: str) -> None:
    with pytest.raises(IncompatibleStateError, match=says):
        average_adapters(lora(2.0, 1.0), other, weight=0.5)
