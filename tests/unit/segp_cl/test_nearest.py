"""The nearest other class, by images and by texts."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from segp_cl.nearest import nearest_classes
from segp_cl.types import LearnedClass
from tests.contract.states import learned


def test_it_is_the_other_class_of_the_largest_cosine() -> None:
    classes = tuple(LearnedClass(name, name, 1, 5) for name in "abc")
    texts = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]])
    prototypes = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]])
    state = replace(learned(3), classes=classes, prototypes=prototypes, text_features=texts, sums=None, covariance=None)
    found = nearest_classes(state)
    assert [near.row for near in found.text] == [1, 0, 1]
    assert [near.cosine for near in found.text] == pytest.approx([0.8, 0.8, 0.6])
    assert [near.row for near in found.visual] == [2, 2, 1]


@pytest.mark.parametrize("classes", [0, 1])
def test_there_is_none_among_fewer_than_two(classes: int) -> None:
    found = nearest_classes(learned(classes))
    assert (found.visual, found.text) == ((), ())
