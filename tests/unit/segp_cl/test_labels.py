"""Confident learning against what `cleanlab` 2.9.0 finds, and pictures that are nearly the same."""

from __future__ import annotations

import pytest
import torch

from segp_cl.labels import confident_classes, nearly_same, thresholds

PROBABILITIES = torch.tensor(
    [
        [0.66, 0.09, 0.25], [0.62, 0.28, 0.10], [0.50, 0.09, 0.41], [0.93, 0.05, 0.02], [0.22, 0.63, 0.15],
        [0.04, 0.89, 0.07], [0.14, 0.73, 0.13], [0.27, 0.65, 0.08], [0.13, 0.86, 0.01], [0.23, 0.51, 0.26],
        [0.05, 0.18, 0.77], [0.18, 0.09, 0.73], [0.05, 0.04, 0.91], [0.03, 0.25, 0.72], [0.05, 0.45, 0.50],
    ],
    dtype=torch.float64,
)  # fmt: skip
LABELS = torch.tensor([0, 2, 0, 0, 0, 1, 1, 0, 1, 1, 2, 2, 1, 2, 2])
# cleanlab.count.get_confident_thresholds and compute_confident_joint(calibrate=False), of the same
THRESHOLDS = [0.516, 0.606, 0.564]
JOINT = [[2, 2, 0], [0, 3, 1], [1, 0, 3]]
OFF_DIAGONAL = [1, 4, 7, 12]


def test_thresholds_are_those_of_cleanlab() -> None:
    assert thresholds(PROBABILITIES, LABELS).tolist() == pytest.approx(THRESHOLDS)


def test_the_confident_joint_and_its_off_diagonal_are_those_of_cleanlab() -> None:
    found = confident_classes(PROBABILITIES, LABELS)
    assert found.wrong.nonzero().flatten().tolist() == OFF_DIAGONAL
    counted = (thresholds(PROBABILITIES, LABELS) <= PROBABILITIES).any(dim=1)
    joint = torch.zeros(3, 3, dtype=torch.int64)
    joint.index_put_((LABELS[counted], found.rows[counted]), torch.ones(int(counted.sum()), dtype=torch.int64), True)
    assert joint.tolist() == JOINT


def test_a_class_without_images_is_hard_to_be_taken_for() -> None:
    probabilities = torch.tensor([[0.9, 0.1, 0.0], [0.6, 0.2, 0.2], [0.1, 0.2, 0.7], [0.05, 0.05, 0.9]])
    labels = torch.tensor([0, 0, 1, 1])
    assert thresholds(probabilities, labels).tolist() == pytest.approx([0.75, 0.125, 0.75])
    assert confident_classes(probabilities, labels).wrong.tolist() == [False, True, False, True]
    assert confident_classes(probabilities, labels).rows.tolist() == [0, 1, 1, 2]


@pytest.mark.parametrize("block", [1, 2, 100])
def test_nearly_the_same_in_two_classes(block: int) -> None:
    common = torch.tensor([0.0, 0.0, 50.0])  # what all have in common makes no two of them alike
    features = torch.tensor([[9.0, 0, 0], [9, 0.1, 0], [0, 9, 0], [-9, 0, 0], [0.1, 9, 0], [0, -9, 0]]) + common
    labels = torch.tensor([0, 1, 1, 0, 0, 1])
    found = nearly_same(features, labels, least_cosine=0.99, block=block)
    assert [(one, other) for one, other, _ in found] == [(0, 1), (2, 4)]
    assert all(0.999 < cosine < 1 for _, _, cosine in found)
    assert nearly_same(features, torch.zeros(6, dtype=torch.int64), least_cosine=0.99, block=block) == []
