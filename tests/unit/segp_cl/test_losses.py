"""Every training loss: worked by hand, checked by finite differences, and held to its invariants."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from segp_cl.losses import (
    acgd_log_distribution,
    acgd_logits,
    acgd_loss,
    neighbour_log_distribution,
    task_cross_entropy,
    text_neighbours,
    total_loss,
    tsgr_loss,
)
from tests.tolerances import FLOAT64_REORDERED, SIX_DECIMALS


def unit(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(*shape, generator=generator, dtype=torch.float64), dim=-1)


def at_angles(*degrees: float) -> Tensor:
    angles = torch.tensor(degrees, dtype=torch.float64).deg2rad()
    return torch.stack([angles.cos(), angles.sin()], dim=-1)


def gradients(loss: Tensor, *inputs: Tensor) -> list[Tensor | None]:
    return list(torch.autograd.grad(loss, inputs, allow_unused=True))


# cross-entropy (15)


def test_task_cross_entropy_by_hand() -> None:
    # cosines 1 and 0 at scale 2: logits 2 and 0, so -log(e^2 / (e^2 + 1)) = log(1 + e^-2) = 0.126928
    loss = task_cross_entropy(at_angles(0), at_angles(0, 90), torch.tensor([0]), logit_scale=2.0)
    assert loss.item() == pytest.approx(math.log(1 + math.exp(-2)))
    assert loss.item() == pytest.approx(0.126928, abs=SIX_DECIMALS)


def test_a_prior_is_added_to_the_logits() -> None:
    # shares of 3/4 and 1/4: logits 2 + log 3/4 and 0 + log 1/4, so log(1 + e^-2 / 3)
    prior = torch.tensor([0.75, 0.25], dtype=torch.float64).log()
    loss = task_cross_entropy(at_angles(0), at_angles(0, 90), torch.tensor([0]), logit_scale=2.0, log_prior=prior)
    assert loss.item() == pytest.approx(math.log(1 + math.exp(-2) / 3))


def test_task_cross_entropy_is_a_mean_over_images() -> None:
    text = at_angles(0, 90)
    first = task_cross_entropy(at_angles(10), text, torch.tensor([0]), logit_scale=5.0)
    second = task_cross_entropy(at_angles(50), text, torch.tensor([0]), logit_scale=5.0)
    both = task_cross_entropy(at_angles(10, 50), text, torch.tensor([0, 0]), logit_scale=5.0)
    assert both.item() == pytest.approx((first.item() + second.item()) / 2)


def test_task_cross_entropy_gradient() -> None:
    image, text = unit(3, 4).requires_grad_(), unit(2, 4, seed=1).requires_grad_()
    targets = torch.tensor([0, 1, 1])
    assert torch.autograd.gradcheck(lambda i, t: task_cross_entropy(i, t, targets, logit_scale=3.0), (image, text))


def test_one_class_costs_nothing() -> None:
    assert task_cross_entropy(unit(3, 4), unit(1, 4), torch.zeros(3, dtype=torch.int64), logit_scale=20.0).item() == 0


# ACGD (16)-(18)


def test_acgd_logits_have_two_forms() -> None:
    image, text = at_angles(0), at_angles(60)
    assert acgd_logits(image, text, logit_scale=20.0, form="scaled").item() == pytest.approx(10.0)
    assert acgd_logits(image, text, logit_scale=20.0, form="cosine").item() == pytest.approx(0.5)


def test_acgd_distribution_by_hand() -> None:
    # logits (20 ln 3, 0) at tau 20: odds 3 : 1
    logits = torch.tensor([[20 * math.log(3), 0.0]], dtype=torch.float64)
    assert acgd_log_distribution(logits, tau=20.0).exp().tolist() == [[pytest.approx(0.75), pytest.approx(0.25)]]


def test_acgd_by_hand() -> None:
    # teacher (3/4, 1/4), student (1/2, 1/2): KL = 3/4 ln(3/2) + 1/4 ln(1/2) = 0.130812; times tau^2 = 4
    teacher = torch.tensor([[2 * math.log(3), 0.0]], dtype=torch.float64)
    student = torch.zeros(1, 2, dtype=torch.float64)
    by_hand = 4 * (0.75 * math.log(1.5) + 0.25 * math.log(0.5))
    assert by_hand == pytest.approx(0.523248, abs=SIX_DECIMALS)
    assert acgd_loss(student, teacher, tau=2.0).item() == pytest.approx(by_hand)


def test_acgd_is_a_mean_over_anchors() -> None:
    student, teacher = 5 * unit(2, 6), 5 * unit(2, 6, seed=1)
    rows = [acgd_loss(student[i : i + 1], teacher[i : i + 1], tau=3.0).item() for i in range(2)]
    assert acgd_loss(student, teacher, tau=3.0).item() == pytest.approx(sum(rows) / 2)


def test_acgd_gradient() -> None:
    student, teacher = (5 * unit(3, 4)).requires_grad_(), 5 * unit(3, 4, seed=1)
    assert torch.autograd.gradcheck(lambda s: acgd_loss(s, teacher, tau=4.0), (student,))


def test_acgd_gives_no_gradient_to_the_teacher() -> None:
    student, teacher = unit(3, 4).requires_grad_(), unit(3, 4, seed=1).requires_grad_()
    to_student, to_teacher = gradients(acgd_loss(student, teacher, tau=2.0), student, teacher)
    assert to_teacher is None
    assert to_student is not None
    assert to_student.abs().max() > 0


def test_acgd_of_equal_logits_is_zero_and_flat() -> None:
    logits = (20 * unit(4, 7)).requires_grad_()
    loss = acgd_loss(logits, logits, tau=20.0)
    (gradient,) = gradients(loss, logits)
    assert loss.item() == pytest.approx(0, abs=FLOAT64_REORDERED)
    assert gradient is not None
    assert gradient.abs().max() < FLOAT64_REORDERED


def test_acgd_is_never_negative_and_ignores_the_order_of_classes() -> None:
    student, teacher = 5 * unit(4, 6), 5 * unit(4, 6, seed=1)
    order = torch.tensor([4, 2, 0, 5, 1, 3])
    loss = acgd_loss(student, teacher, tau=2.0)
    assert loss.item() > 0
    assert acgd_loss(student[:, order], teacher[:, order], tau=2.0).item() == pytest.approx(loss.item())


def test_tau_squared_keeps_the_loss_nearly_free_of_tau() -> None:
    # to second order tau^2 KL = Var(student - teacher) / 2 under a flat distribution, whatever tau
    difference = torch.tensor([[0.3, -0.1, -0.2]], dtype=torch.float64)
    expected = difference.var(unbiased=False).item() / 2
    for tau in (10.0, 20.0, 100.0):
        loss = acgd_loss(difference, torch.zeros(1, 3, dtype=torch.float64), tau=tau)
        assert loss.item() == pytest.approx(expected, rel=0.02)


def test_the_scaled_form_weighs_the_square_of_the_scale_more_than_the_literal_one() -> None:
    image, text, other = unit(8, 16), unit(5, 16, seed=1), unit(8, 16, seed=2)

    def loss(form: str, scale: float) -> float:
        logits = [acgd_logits(x, text, logit_scale=scale, form=form) for x in (image, other)]  # type: ignore[arg-type]
        return acgd_loss(logits[0], logits[1], tau=20.0).item()

    assert loss("scaled", 2.0) == pytest.approx(4 * loss("cosine", 2.0), rel=0.05)


def test_acgd_stays_finite_for_extreme_logits() -> None:
    student = torch.tensor([[1000.0, -1000.0]], requires_grad=True)
    loss = acgd_loss(student, torch.tensor([[-1000.0, 1000.0]]), tau=1.0)
    (gradient,) = gradients(loss, student)
    assert loss.item() == pytest.approx(2000.0)
    assert gradient is not None
    assert gradient.isfinite().all()


# TSGR (19)-(21)


def test_text_neighbours_by_hand() -> None:
    # angles 0, 10, 25, 90: nearest to 0 are 10 and 25; nearest to 90 are 25 and 10
    text = at_angles(0, 10, 25, 90)
    assert text_neighbours(text, torch.tensor([0, 3]), k=2).tolist() == [[1, 2], [2, 1]]


def test_text_neighbours_are_never_the_class_itself() -> None:
    text = unit(9, 4)
    neighbours = text_neighbours(text, torch.arange(9), k=8)
    assert all(sorted([index, *row]) == list(range(9)) for index, row in enumerate(neighbours.tolist()))


def test_fewer_classes_than_neighbours_take_all_others() -> None:
    assert text_neighbours(unit(4, 5), torch.tensor([2, 3]), k=10).shape == (2, 3)


def test_equally_near_neighbours_come_in_class_order() -> None:
    text = at_angles(0, 20, -20, 20)
    assert text_neighbours(text, torch.tensor([0]), k=3).tolist() == [[1, 2, 3]]


def test_neighbour_distribution_by_hand() -> None:
    # cosines of 0 with 60 and 90 degrees: 1/2 and 0; at tau 1/2 the odds are e : 1
    row = neighbour_log_distribution(at_angles(0, 60, 90), torch.tensor([0]), torch.tensor([[1, 2]]), tau=0.5).exp()
    assert row[0, 0].item() == pytest.approx(math.e / (1 + math.e))
    assert row.sum().item() == pytest.approx(1)


def test_tsgr_by_hand() -> None:
    # G^0: cosines 1/2 and 0 at tau 1/2, so (e, 1)/(e + 1) = (0.731059, 0.268941)
    # student: both neighbours at 90 degrees, so (1/2, 1/2); KL = ln 2 - H(0.731059) = 0.693147 - 0.582203 = 0.110944
    pretrained, student = at_angles(0, 60, 90), at_angles(0, 90, 90)
    loss = tsgr_loss(student, pretrained, torch.tensor([0]), torch.tensor([[1, 2]]), tau=0.5)
    p = math.e / (1 + math.e)
    assert loss.item() == pytest.approx(math.log(2) + p * math.log(p) + (1 - p) * math.log(1 - p))
    assert loss.item() == pytest.approx(0.110944, abs=SIX_DECIMALS)


def test_tsgr_is_a_mean_over_new_classes() -> None:
    student, pretrained = unit(6, 4), unit(6, 4, seed=1)
    new = torch.tensor([4, 5])
    neighbours = text_neighbours(pretrained, new, k=3)
    rows = [tsgr_loss(student, pretrained, new[i : i + 1], neighbours[i : i + 1], tau=0.1).item() for i in range(2)]
    assert tsgr_loss(student, pretrained, new, neighbours, tau=0.1).item() == pytest.approx(sum(rows) / 2)


def test_tsgr_gradient() -> None:
    student, pretrained = unit(6, 4).requires_grad_(), unit(6, 4, seed=1)
    new = torch.tensor([4, 5])
    neighbours = text_neighbours(pretrained, new, k=3)
    assert torch.autograd.gradcheck(lambda s: tsgr_loss(s, pretrained, new, neighbours, tau=0.2), (student,))


def test_tsgr_of_the_pretrained_space_is_zero() -> None:
    text = unit(6, 4)
    new = torch.tensor([3, 4, 5])
    assert tsgr_loss(text, text, new, text_neighbours(text, new, k=10), tau=0.05).item() == pytest.approx(
        0, abs=FLOAT64_REORDERED
    )


def test_tsgr_ignores_a_rotation_of_the_whole_space() -> None:
    text = unit(6, 4)
    rotation = torch.linalg.qr(unit(4, 4, seed=3)).Q
    new = torch.tensor([4, 5])
    loss = tsgr_loss(text @ rotation, text, new, text_neighbours(text, new, k=4), tau=0.05)
    assert loss.item() == pytest.approx(0, abs=FLOAT64_REORDERED)


def test_tsgr_gives_no_gradient_to_the_pretrained_space() -> None:
    student, pretrained = unit(4, 3).requires_grad_(), unit(4, 3, seed=1).requires_grad_()
    new = torch.tensor([2, 3])
    loss = tsgr_loss(student, pretrained, new, text_neighbours(pretrained.detach(), new, k=2), tau=0.1)
    to_student, to_pretrained = gradients(loss, student, pretrained)
    assert to_pretrained is None
    assert to_student is not None
    assert to_student.abs().max() > 0


def test_a_single_class_has_no_neighbours_and_no_loss() -> None:
    student, pretrained = unit(1, 4).requires_grad_(), unit(1, 4, seed=1)
    new = torch.tensor([0])
    neighbours = text_neighbours(pretrained, new, k=10)
    assert neighbours.shape == (1, 0)
    loss = tsgr_loss(student, pretrained, new, neighbours, tau=0.05)
    (gradient,) = gradients(loss, student)
    assert loss.item() == 0
    assert gradient is not None
    assert gradient.abs().max() == 0


def test_a_single_neighbour_costs_nothing() -> None:
    student, pretrained = unit(2, 4), unit(2, 4, seed=1)
    new = torch.tensor([1])
    assert tsgr_loss(student, pretrained, new, text_neighbours(pretrained, new, k=10), tau=0.05).item() == 0


# the sum (22)


def test_total_loss_by_hand() -> None:
    # 1 + 5 * 0.2 + 2 * 0.25 = 2.5
    parts = [torch.tensor(value) for value in (1.0, 0.2, 0.25)]
    assert total_loss(*parts, lambda_acgd=5.0, lambda_tsgr=2.0).item() == pytest.approx(2.5)


def test_total_loss_without_weights_is_the_classification_loss() -> None:
    parts = [torch.tensor(value) for value in (1.5, 7.0, 9.0)]
    assert total_loss(*parts, lambda_acgd=0.0, lambda_tsgr=0.0).item() == 1.5


def test_total_loss_passes_the_weights_to_the_gradients() -> None:
    parts = [torch.tensor(value, requires_grad=True) for value in (1.0, 0.2, 0.25)]
    found = gradients(total_loss(*parts, lambda_acgd=5.0, lambda_tsgr=2.0), *parts)
    assert [gradient.item() for gradient in found if gradient is not None] == [1.0, 5.0, 2.0]
