"""Aligned merging: every formula by hand, and what it must not change."""

from __future__ import annotations

import pytest
import torch

from segp_cl.merging import (
    MergeTarget,
    average,
    conflicts,
    merge_weight,
    misaligned,
    misaligned_share,
    reinitialised,
    top_mask,
)

HELD = torch.tensor([[4.0, -3.0], [0.0, 1.0]])
TASK = torch.tensor([[-1.0, -2.0], [5.0, -6.0]])


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
