"""What two branches learned, put together: each formula by hand."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from segp_cl.branches import (
    MergeError,
    adds_exactly,
    averaged,
    classes_of_both,
    familiarity_of_both,
    fusion_weight_of_both,
    mean_product,
    shares,
    sums_of_both,
)
from segp_cl.fusion import expected_fusion_weight
from segp_cl.statistics import ClassSums, MomentSums
from segp_cl.types import Familiarity, LearnedClass, LearnerState, LoraFactors, LoraState, ModelSpec
from tests.tolerances import FLOAT32_REORDERED, FLOAT64_REORDERED

RAW = 6


def drawn(count: int, seed: int) -> Tensor:
    features = torch.randn(count, RAW, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return F.normalize(features, dim=-1)


def sums_of(features: Tensor, labels: Sequence[int]) -> ClassSums:
    sums = MomentSums(max(labels) + 1)
    sums.add(features, torch.tensor(labels))
    return sums.total()


def state_of(classes: Sequence[LearnedClass], sums: ClassSums | None = None, *, tasks: int = 1) -> LearnerState:
    count = len(classes)
    sums = sums or ClassSums(torch.zeros(count, dtype=torch.int64), torch.zeros(count, RAW, dtype=torch.float64), None)
    return LearnerState(
        model=ModelSpec(),
        weights_digest="0",
        classes=tuple(classes),
        prototypes=sums.means,
        text_features=torch.zeros(count, 2),
        lora=None,
        fusion_weight=1.0,
        tasks=tasks,
        sums=sums if count else None,
    )


def known(name: str, task: int, images: int) -> LearnedClass:
    return LearnedClass(name, f"a photo of a {name}.", task, images)


def factors(b: Sequence[Sequence[float]], a: Sequence[Sequence[float]]) -> LoraFactors:
    return LoraFactors(a=torch.tensor(a), b=torch.tensor(b))


def test_classes_of_both_are_ours_and_then_theirs() -> None:
    base = state_of([known("cat", 1, 10)], tasks=1)
    ours = state_of([known("cat", 1, 12), known("owl", 2, 4)], tasks=2)
    theirs = state_of([known("cat", 1, 15), known("jay", 2, 3), known("owl", 2, 6)], tasks=2)
    assert classes_of_both(base, ours, theirs) == (known("cat", 1, 17), known("owl", 2, 10), known("jay", 3, 3))


def test_sums_of_two_branches_are_those_of_all_images_at_once() -> None:
    features = drawn(40, seed=1)
    cats, owls, more_cats, jays = features[:10], features[10:20], features[20:26], features[26:]
    base = state_of([known("cat", 1, 10)], sums_of(cats, [0] * 10))
    ours = state_of([known("cat", 1, 10), known("owl", 2, 10)], sums_of(features[:20], [0] * 10 + [1] * 10))
    branch = sums_of(torch.cat([cats, more_cats, jays]), [0] * 16 + [1] * 14)
    theirs = state_of([known("cat", 1, 16), known("jay", 2, 14)], branch)
    assert adds_exactly(base, ours, theirs)
    merged = sums_of_both(base, ours, theirs)
    whole = sums_of(torch.cat([cats, more_cats, owls, jays]), [0] * 16 + [1] * 10 + [2] * 14)
    assert torch.equal(merged.counts, whole.counts)
    assert torch.allclose(merged.sums, whole.sums, atol=FLOAT64_REORDERED)
    assert merged.scatter is not None
    assert whole.scatter is not None
    assert torch.allclose(merged.scatter, whole.scatter, atol=FLOAT64_REORDERED)


def test_where_a_tower_moved_theirs_are_scaled_to_their_own_images() -> None:
    features = drawn(30, seed=2)
    base = state_of([known("cat", 1, 10)], sums_of(features[:10], [0] * 10))
    moved = LoraState(1, 1.0, {"image.layer.weight": factors([[1.0]], [[1.0]])})
    ours = replace(base, lora=moved)
    theirs = state_of([known("cat", 1, 10), known("jay", 2, 20)], sums_of(features, [0] * 10 + [1] * 20))
    assert not adds_exactly(base, ours, theirs)
    merged = sums_of_both(base, ours, theirs)
    assert merged.counts.tolist() == [10, 20]
    assert theirs.sums is not None
    assert torch.allclose(merged.sums[1], theirs.sums.sums[1])
    assert base.sums is not None
    assert base.sums.scatter is not None
    assert theirs.sums.scatter is not None
    assert merged.scatter is not None
    assert torch.allclose(merged.scatter, base.sums.scatter + theirs.sums.scatter * (2 / 3))


def test_a_branch_without_a_class_of_the_base_or_with_fewer_images_cannot_be_merged() -> None:
    features = drawn(10, seed=3)
    base = state_of([known("cat", 1, 10)], sums_of(features, [0] * 10))
    ours = base
    with pytest.raises(MergeError, match="the class 'cat' of their common ancestor is missing"):
        sums_of_both(base, ours, state_of([known("jay", 2, 10)], sums_of(features, [0] * 10)))
    with pytest.raises(MergeError, match="fewer images"):
        sums_of_both(base, ours, state_of([known("cat", 1, 5)], sums_of(features[:5], [0] * 5)))


def test_shares_follow_the_tasks_of_each_branch() -> None:
    base, ours, theirs = (state_of([], tasks=tasks) for tasks in (4, 5, 7))
    assert shares(base, ours, theirs) == (0.25, 0.75)


def test_the_mean_of_products_with_one_a_is_the_mean_of_b() -> None:
    ours, theirs = factors([[1.0], [0.0]], [[2.0, 4.0]]), factors([[3.0], [-4.0]], [[2.0, 4.0]])
    mean = mean_product(ours, theirs, (0.5, 0.5))
    assert torch.equal(mean.a, ours.a)
    assert mean.b.tolist() == [[2.0], [-2.0]]


def test_the_mean_of_products_with_different_a_is_the_nearest_of_that_rank() -> None:
    """½ (4 e₁e₁ᵀ + 2 e₂e₂ᵀ) has the singular values 2 and 1; of rank one, 2 e₁e₁ᵀ is the nearest."""
    ours, theirs = factors([[4.0], [0.0]], [[1.0, 0.0]]), factors([[0.0], [2.0]], [[0.0, 1.0]])
    mean = mean_product(ours, theirs, (0.5, 0.5))
    assert mean.a.shape == (1, 2)
    assert torch.allclose(mean.b @ mean.a, torch.tensor([[2.0, 0.0], [0.0, 0.0]]), atol=FLOAT32_REORDERED)


def test_products_of_enough_rank_are_averaged_exactly() -> None:
    generator = torch.Generator().manual_seed(0)
    one, two = torch.randn(5, 2, generator=generator), torch.randn(5, 2, generator=generator)
    a, b = torch.randn(2, 7, generator=generator), torch.randn(2, 7, generator=generator)
    wide = LoraFactors(a=torch.cat([a, torch.zeros(2, 7)]), b=torch.cat([one, torch.zeros(5, 2)], dim=1))
    mean = mean_product(wide, LoraFactors(a=b, b=two), (0.25, 0.75))
    assert torch.allclose(mean.b @ mean.a, 0.25 * one @ a + 0.75 * two @ b, atol=FLOAT32_REORDERED)


def test_an_adapter_that_one_side_lacks_counts_as_zero() -> None:
    only = LoraState(1, 1.0, {"text.w": factors([[2.0]], [[3.0]])})
    for ours, theirs, expected in ((only, None, 0.5), (None, only, 1.5), (only, LoraState(1, 1.0, {}), 0.5)):
        merged = averaged(ours, theirs, (0.25, 0.75))
        assert merged is not None
        assert merged.factors["text.w"].b.tolist() == [[expected]]
    assert averaged(None, None, (0.5, 0.5)) is None


def test_adapters_of_other_scales_or_shapes_do_not_merge() -> None:
    ours = LoraState(1, 1.0, {"text.w": factors([[2.0]], [[3.0]])})
    with pytest.raises(MergeError, match="different scales, 1 and 2"):
        averaged(ours, replace(ours, scale=2.0), (0.5, 0.5))
    with pytest.raises(MergeError, match="different shapes"):
        mean_product(ours.factors["text.w"], factors([[2.0], [1.0]], [[3.0]]), (0.5, 0.5))


def test_beta_follows_the_images_and_what_the_branches_found_on_held_out_ones() -> None:
    """Both have 16 images a class; ours chose twice, theirs eight times what that gives: four times, on average."""
    usual = expected_fusion_weight([16], limit=5.0, half_images=128.0)
    ours = replace(state_of([known("cat", 1, 16)]), fusion_weight=2 * usual)
    theirs = replace(state_of([known("jay", 1, 16)]), fusion_weight=8 * usual)
    weight = fusion_weight_of_both(ours, theirs, [16, 16], limit=5.0, half_images=128.0)
    assert math.isclose(weight, 4 * usual)
    assert fusion_weight_of_both(state_of([]), state_of([]), [16], limit=5.0, half_images=128.0) == usual


def test_familiarity_is_the_mean_by_held_out_images() -> None:
    ours = replace(state_of([]), familiarity=Familiarity(visual=1.0, text=2.0, offset=0.0, images=30))
    theirs = replace(state_of([]), familiarity=Familiarity(visual=5.0, text=2.0, offset=4.0, images=10))
    assert familiarity_of_both(ours, theirs) == Familiarity(visual=2.0, text=2.0, offset=1.0, images=40)
    assert familiarity_of_both(ours, state_of([])) == ours.familiarity
    assert familiarity_of_both(state_of([]), state_of([])) is None
