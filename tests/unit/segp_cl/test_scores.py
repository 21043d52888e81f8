"""Scores of the two branches, their fusion and the prediction."""

from __future__ import annotations

import math

import pytest
import torch
from jaxtyping import TypeCheckError
from torch import Tensor

from segp_cl.scores import dual_path_scores, fused_scores, predict, probabilities, text_scores, visual_scores


def test_text_scores_are_cosines_of_unit_features() -> None:
    # (0.6, 0.8)·(1, 0) = 0.6; (0.6, 0.8)·(0, 1) = 0.8
    assert text_scores(torch.tensor([[0.6, 0.8]]), torch.eye(2)).tolist() == [[pytest.approx(0.6), pytest.approx(0.8)]]


def test_visual_scores_normalise_the_raw_features() -> None:
    # (3, 4) / 5 = (0.6, 0.8)
    raw = torch.tensor([[3.0, 4.0]])
    scores = visual_scores(raw, torch.eye(2))
    assert scores.tolist() == [[pytest.approx(0.6), pytest.approx(0.8)]]
    assert torch.allclose(visual_scores(7 * raw, torch.eye(2)), scores)


def test_fusion_adds_beta_times_the_visual_branch() -> None:
    # 0.2 + 0.5 * 0.6 = 0.5
    assert fused_scores(torch.tensor([[0.2]]), torch.tensor([[0.6]]), fusion_weight=0.5).item() == pytest.approx(0.5)


def test_dual_path_scores_by_hand() -> None:
    scores = dual_path_scores(
        torch.tensor([[3.0, 4.0]]), torch.tensor([[1.0, 0.0]]), torch.eye(2), torch.eye(2), fusion_weight=2.0
    )
    assert torch.allclose(scores.text, torch.tensor([[1.0, 0.0]]))
    assert torch.allclose(scores.visual, torch.tensor([[0.6, 0.8]]))
    assert torch.allclose(scores.fused, torch.tensor([[2.2, 1.6]]))
    assert predict(scores.text).tolist() == [0]
    assert predict(scores.visual).tolist() == [1]
    assert predict(scores.fused).tolist() == [0]


def test_without_fusion_weight_the_fused_path_is_the_text_path() -> None:
    generator = torch.Generator().manual_seed(0)
    raw, image, text, prototypes = (torch.randn(5, 4, generator=generator) for _ in range(4))
    scores = dual_path_scores(raw, image, text, prototypes, fusion_weight=0.0)
    assert torch.equal(scores.fused, scores.text)


def test_reordering_classes_reorders_scores() -> None:
    generator = torch.Generator().manual_seed(1)
    raw, image, text, prototypes = (torch.randn(5, 4, generator=generator) for _ in range(4))
    order = torch.tensor([3, 1, 4, 0, 2])
    scores = dual_path_scores(raw, image, text, prototypes, fusion_weight=0.7)
    moved = dual_path_scores(raw, image, text[order], prototypes[order], fusion_weight=0.7)
    assert torch.allclose(moved.fused, scores.fused[:, order])


def test_scores_are_differentiable() -> None:
    generator = torch.Generator().manual_seed(2)
    arguments = [torch.randn(3, 4, generator=generator, dtype=torch.float64, requires_grad=True) for _ in range(4)]

    def fused(raw: Tensor, image: Tensor, text: Tensor, prototypes: Tensor) -> Tensor:
        return dual_path_scores(raw, image, text, prototypes, fusion_weight=0.5).fused

    assert torch.autograd.gradcheck(fused, arguments)


def test_probabilities_by_hand() -> None:
    # scale 10 and cosines 0.3, 0.1: the odds are e^2 : 1
    row = probabilities(torch.tensor([[0.3, 0.1]]), logit_scale=10.0)[0]
    assert row[0].item() == pytest.approx(math.exp(2) / (1 + math.exp(2)), rel=1e-5)
    assert row.sum().item() == pytest.approx(1.0)


def test_shapes_that_do_not_fit_are_refused_by_name() -> None:
    with pytest.raises(TypeCheckError):
        text_scores(torch.zeros(2, 3), torch.zeros(2, 4))
