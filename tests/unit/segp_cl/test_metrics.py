"""Last, Avg, BWT, FWT and Forgetting, on a matrix small enough to work by hand."""

from __future__ import annotations

import pytest

from segp_cl.metrics import (
    AccuracyMatrix,
    MetricsError,
    average_accuracy,
    backward_transfer,
    forgetting,
    forward_transfer,
    last_accuracy,
    seen_accuracy,
    summarise,
)

THREE = AccuracyMatrix.of([[0.9, 0.2, 0.1], [0.8, 0.7, 0.3], [0.6, 0.75, 0.5]], [10, 10, 20])


def test_last_weighs_tasks_by_their_test_images() -> None:
    # (10 * 0.6 + 10 * 0.75 + 20 * 0.5) / 40 = 23.5 / 40
    assert last_accuracy(THREE) == pytest.approx(0.5875)


def test_seen_accuracy_leaves_out_tasks_to_come() -> None:
    # after the second task: (10 * 0.8 + 10 * 0.7) / 20 = 0.75
    assert seen_accuracy(THREE, after=0) == pytest.approx(0.9)
    assert seen_accuracy(THREE, after=1) == pytest.approx(0.75)


def test_average_is_the_mean_over_steps() -> None:
    # (0.9 + 0.75 + 0.5875) / 3
    assert average_accuracy(THREE) == pytest.approx(2.2375 / 3)


def test_backward_transfer_by_hand() -> None:
    # ((0.6 - 0.9) + (0.75 - 0.7)) / 2 = -0.125
    assert backward_transfer(THREE) == pytest.approx(-0.125)


def test_forward_transfer_by_hand() -> None:
    # (R_12 + R_23) / 2 = (0.2 + 0.3) / 2
    assert forward_transfer(THREE) == pytest.approx(0.25)


def test_forgetting_by_hand() -> None:
    # ((0.9 - 0.6) + (0.75 - 0.75)) / 2 = 0.15
    assert forgetting(THREE) == pytest.approx(0.15)


def test_forgetting_looks_at_the_best_step_whichever_it_was() -> None:
    # task 1 was best after task 2: max(0.5, 0.8, 0.6) - 0.6 = 0.2; task 2: 0.7 - 0.4 = 0.3
    matrix = AccuracyMatrix.of([[0.5, 0.0, 0.0], [0.8, 0.7, 0.0], [0.6, 0.4, 0.9]], [1, 1, 1])
    assert forgetting(matrix) == pytest.approx(0.25)


def test_nothing_forgotten_is_zero() -> None:
    matrix = AccuracyMatrix.of([[0.5, 0.1], [0.5, 0.9]], [3, 3])
    assert forgetting(matrix) == 0
    assert backward_transfer(matrix) == 0


def test_the_summary_holds_all_five() -> None:
    summary = summarise(THREE)
    assert summary.last == last_accuracy(THREE)
    assert summary.average == average_accuracy(THREE)
    assert summary.backward_transfer == backward_transfer(THREE)
    assert summary.forward_transfer == forward_transfer(THREE)
    assert summary.forgetting == forgetting(THREE)


def test_one_task_has_a_last_and_an_average_only() -> None:
    one = AccuracyMatrix.of([[0.8]], [5])
    summary = summarise(one)
    assert (summary.last, summary.average) == (0.8, 0.8)
    assert (summary.backward_transfer, summary.forward_transfer, summary.forgetting) == (None, None, None)


@pytest.mark.parametrize("metric", [backward_transfer, forward_transfer, forgetting])
def test_what_compares_tasks_refuses_a_single_one(metric: object) -> None:
    assert callable(metric)
    with pytest.raises(MetricsError, match="at least two, got 1"):
        metric(AccuracyMatrix.of([[0.8]], [5]))


@pytest.mark.parametrize(
    ("accuracies", "images", "says"),
    [
        ([[0.5, 0.5]], [1, 1], r"expected at least one task and 2 x 2 accuracies; got rows of \[2\]"),
        ([[0.5], [0.5, 0.5]], [1, 1], r"got rows of \[1, 2\]"),
        ([[0.5]], [1, 1], r"got rows of \[1\]"),
        ([], [], r"got rows of \[\]"),
        ([[0.5]], [0], "at least one test image"),
        ([[1.5]], [1], r"after task 0 must be in \[0, 1\]; got 1.5"),
        ([[float("nan")]], [1], "got nan"),
    ],
)
def test_malformed_matrices_are_refused(accuracies: list[list[float]], images: list[int], says: str) -> None:
    with pytest.raises(MetricsError, match=says):
        AccuracyMatrix.of(accuracies, images)
