"""Prototypes: means of new classes, and old ones carried along with their anchors."""

from __future__ import annotations

import weakref
from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from segp_cl.errors import InvalidTaskError
from segp_cl.prototypes import (
    anchor_affinity,
    class_drift,
    class_means,
    drift,
    drift_gate,
    drift_weights,
    transfer_prototypes,
)
from tests.tolerances import FLOAT32_REORDERED, FLOAT64_REORDERED, SIX_DECIMALS


def random(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def unit(*shape: int, seed: int) -> Tensor:
    return F.normalize(random(*shape, seed=seed), dim=-1)


# class means (23)


def test_class_means_by_hand() -> None:
    # class 0: (3, 0) and (0, 5) become (1, 0) and (0, 1), their sum's direction is (0.7071, 0.7071)
    # class 1: (0, -2) alone becomes (0, -1)
    raw, labels = torch.tensor([[3.0, 0.0], [0.0, -2.0], [0.0, 5.0]]), torch.tensor([0, 1, 0])
    means = class_means([(raw, labels)], classes=2)
    assert torch.allclose(means, torch.tensor([[0.5**0.5, 0.5**0.5], [0.0, -1.0]]))
    assert means.dtype == torch.float32


def test_class_means_do_not_depend_on_batches_or_order() -> None:
    raw, labels = random(50, 6, seed=0).float(), torch.arange(50) % 4
    reference = class_means([(raw, labels)], classes=4)
    order = torch.randperm(50, generator=torch.Generator().manual_seed(1))
    streamed = class_means(((raw[i], labels[i]) for i in torch.split(order, 7)), classes=4)
    assert torch.allclose(streamed, reference, atol=FLOAT32_REORDERED)


def test_class_means_have_unit_norm_and_ignore_the_features_norms() -> None:
    raw, labels = random(20, 6, seed=0), torch.arange(20) % 3
    means = class_means([(raw, labels)], classes=3)
    lengths = torch.linspace(0.1, 10, 20, dtype=torch.float64)[:, None]
    assert torch.allclose(means.norm(dim=-1), torch.ones(3, dtype=torch.float64))
    assert torch.allclose(class_means([(lengths * raw, labels)], classes=3), means)


def test_class_means_let_go_of_every_batch() -> None:
    seen: list[weakref.ref[Tensor]] = []

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        for index in range(5):
            raw = random(2, 4, seed=index)
            seen.append(weakref.ref(raw))
            yield raw, torch.tensor([0, 1])
            del raw
            assert all(earlier() is None for earlier in seen[:-1])

    assert class_means(batches(), classes=2).shape == (2, 4)
    assert len(seen) == 5


def test_a_zero_feature_adds_nothing() -> None:
    raw, labels = torch.tensor([[0.0, 0.0], [0.0, 2.0], [0.0, 0.0]]), torch.tensor([0, 0, 1])
    means = class_means([(raw, labels)], classes=2)
    assert means.tolist() == [[0.0, 1.0], [0.0, 0.0]]


def test_a_class_without_images_is_an_error() -> None:
    with pytest.raises(InvalidTaskError, match=r"\[1\]"):
        class_means([(torch.ones(2, 3), torch.tensor([0, 2]))], classes=3)
    with pytest.raises(InvalidTaskError, match=r"\[0, 1\]"):
        class_means([], classes=2)


def test_class_means_keep_no_graph() -> None:
    raw = torch.ones(2, 3, requires_grad=True)
    assert not class_means([(raw, torch.tensor([0, 0]))], classes=1).requires_grad


# the drift of the anchors (24)-(28)


def test_drift_by_hand() -> None:
    # (0, 2) and (3, 0) become (0, 1) and (1, 0): the difference is (-1, 1)
    assert drift(torch.tensor([[0.0, 2.0]]), torch.tensor([[3.0, 0.0]])).tolist() == [[-1.0, 1.0]]


def test_anchor_affinity_by_hand() -> None:
    # (3, 4) / 5 = (0.6, 0.8): 0.8 with class 1's (0, 1), 0.6 with class 0's (1, 0)
    teacher = torch.tensor([[3.0, 4.0], [3.0, 4.0]])
    assert anchor_affinity(teacher, torch.eye(2), torch.tensor([1, 0])).tolist() == pytest.approx([0.8, 0.6])


def test_drift_weights_by_hand() -> None:
    # class 0: 0.6 and 0.2 sum to 0.8, so 0.75 and 0.25; class 1 has one anchor, so 1
    weights = drift_weights(torch.tensor([0.6, 0.5, 0.2]), torch.tensor([0, 1, 0]), classes=2)
    assert weights.tolist() == pytest.approx([0.75, 1.0, 0.25])


@pytest.mark.parametrize("affinity", [[0.2, -0.5], [0.0, 0.0], [0.3, -0.3]])
def test_drift_weights_are_zero_where_the_sum_is_not_positive(affinity: list[float]) -> None:
    assert drift_weights(torch.tensor(affinity), torch.tensor([0, 0]), classes=1).tolist() == [0.0, 0.0]


def test_class_drift_by_hand() -> None:
    # 0.75 (1, 0) + 0.25 (0, 1) = (0.75, 0.25); class 1 has no anchor
    drifts, weights = torch.eye(2), torch.tensor([0.75, 0.25])
    assert class_drift(drifts, weights, torch.tensor([0, 0]), classes=2).tolist() == [[0.75, 0.25], [0.0, 0.0]]


def test_drift_gate_by_hand() -> None:
    # class 0: (0.6 + 0.2) / 2 = 0.4; class 1 none; class 2: -0.5
    gate = drift_gate(torch.tensor([0.6, -0.5, 0.2]), torch.tensor([0, 2, 0]), classes=3)
    assert gate.tolist() == pytest.approx([0.4, 0.0, -0.5])


# the transfer (29)


def transfer_one_class(prototype: Tensor, student: Tensor, teacher: Tensor) -> Tensor:
    """The slow reference: (24)-(29) for one class, anchor by anchor, as the paper writes them."""
    if len(student) == 0:
        return prototype
    drifts = [s / s.norm() - t / t.norm() for s, t in zip(student, teacher, strict=True)]
    affinities = [float((t / t.norm()) @ prototype) for t in teacher]
    if sum(affinities) <= 0:
        return prototype
    delta = sum((a / sum(affinities) * d for a, d in zip(affinities, drifts, strict=True)), torch.zeros_like(prototype))
    moved = prototype + sum(affinities) / len(affinities) * delta
    return F.normalize(moved, dim=0)


def test_transfer_by_hand() -> None:
    # μ = (1, 0); one anchor moved from (0.8, 0.6) to (0, 1): d = (-0.8, 0.4), a = 0.8 = g, w = 1
    # μ + 0.8 d = (0.36, 0.32), of norm sqrt(0.232) = 0.481664, so (0.747409, 0.664364)
    moved = transfer_prototypes(
        torch.tensor([[1.0, 0.0]]),
        student_raw=torch.tensor([[0.0, 1.0]]),
        teacher_raw=torch.tensor([[0.8, 0.6]]),
        classes=torch.tensor([0]),
    )
    assert moved[0].tolist() == pytest.approx([0.747409, 0.664364], abs=SIX_DECIMALS)


def test_transfer_equals_the_slow_reference() -> None:
    prototypes = unit(7, 5, seed=0)
    classes = torch.tensor([0, 3, 3, 5, 1, 0, 6, 3, 5, 1, 1, 0])  # class 2 and 4 have none; interleaved
    teacher = 3 * (prototypes[classes] + 0.8 * random(12, 5, seed=1))
    teacher[6] = -prototypes[6]  # class 6: a negative sum
    student = teacher + random(12, 5, seed=2)
    moved = transfer_prototypes(prototypes, student_raw=student, teacher_raw=teacher, classes=classes)
    expected = torch.stack(
        [transfer_one_class(prototypes[c], student[classes == c], teacher[classes == c]) for c in range(7)]
    )
    assert torch.allclose(moved, expected, atol=FLOAT64_REORDERED)
    assert not torch.allclose(moved[[0, 1, 3, 5]], prototypes[[0, 1, 3, 5]], atol=1e-3)


def test_classes_without_anchors_keep_their_prototypes_bit_for_bit() -> None:
    prototypes = unit(4, 6, seed=0).float()
    moved = transfer_prototypes(
        prototypes,
        student_raw=random(2, 6, seed=1).float(),
        teacher_raw=prototypes[[1, 1]],
        classes=torch.tensor([1, 1]),
    )
    assert torch.equal(moved[[0, 2, 3]], prototypes[[0, 2, 3]])
    assert not torch.equal(moved[1], prototypes[1])


def test_no_anchors_at_all_change_nothing() -> None:
    prototypes = unit(3, 4, seed=0)
    none = torch.zeros(0, 4, dtype=torch.float64)
    no_classes = torch.zeros(0, dtype=torch.int64)
    moved = transfer_prototypes(prototypes, student_raw=none, teacher_raw=none, classes=no_classes)
    assert torch.equal(moved, prototypes)


def test_without_drift_the_prototypes_stay() -> None:
    prototypes, raw = unit(3, 4, seed=0), random(6, 4, seed=1)
    moved = transfer_prototypes(
        prototypes, student_raw=raw, teacher_raw=2 * raw, classes=torch.tensor([0, 1, 2, 0, 1, 2])
    )
    assert torch.allclose(moved, prototypes)


def test_the_transfer_ignores_the_order_of_anchors_and_keeps_unit_norm() -> None:
    prototypes = unit(3, 4, seed=0)
    classes = torch.tensor([0, 0, 1, 1, 2, 2])
    teacher, student = prototypes[classes] + 0.2 * random(6, 4, seed=1), random(6, 4, seed=2)
    order = torch.tensor([5, 1, 3, 0, 4, 2])
    moved = transfer_prototypes(prototypes, student_raw=student, teacher_raw=teacher, classes=classes)
    reordered = transfer_prototypes(
        prototypes, student_raw=student[order], teacher_raw=teacher[order], classes=classes[order]
    )
    assert torch.allclose(moved, reordered)
    assert torch.allclose(moved.norm(dim=-1), torch.ones(3, dtype=torch.float64))


def test_a_small_common_drift_is_followed() -> None:
    prototypes = unit(1, 8, seed=0)
    step = 0.05 * random(8, seed=1)
    teacher = prototypes + 0.1 * random(5, 8, seed=2)
    moved = transfer_prototypes(
        prototypes, student_raw=teacher + step, teacher_raw=teacher, classes=torch.zeros(5, dtype=torch.int64)
    )
    truth = F.normalize(prototypes + step, dim=-1)
    assert (moved * truth).sum() > (prototypes * truth).sum()
