"""What is kept of every class's features: sums, means, one covariance, whitening and draws."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from segp_cl.scores import visual_scores
from segp_cl.statistics import (
    ClassSums,
    FeatureSampler,
    LeaveOneOut,
    MomentSums,
    Whitening,
    visual_space,
    visual_space_of_old,
)
from tests.tolerances import FLOAT32_REORDERED, FLOAT64_REORDERED


def unit(*shape: int, seed: int) -> Tensor:
    drawn = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return F.normalize(drawn, dim=-1)


def sums_of(features: Tensor, labels: Sequence[int] | Tensor, classes: int) -> ClassSums:
    sums = MomentSums(classes)
    sums.add(features, torch.as_tensor(labels))
    return sums.total()


def assert_same(one: ClassSums, other: ClassSums) -> None:
    assert torch.equal(one.counts, other.counts)
    assert torch.allclose(one.sums, other.sums, atol=FLOAT64_REORDERED)
    assert one.scatter is not None
    assert other.scatter is not None
    assert torch.allclose(one.scatter, other.scatter, atol=FLOAT64_REORDERED)


def test_sums_by_hand() -> None:
    """(1, 0) and (0, 1): their sum is (1, 1), and both lie (0.5, -0.5) from their mean."""
    sums = sums_of(torch.tensor([[2.0, 0.0], [0.0, 3.0]]), [0, 0], 1)
    assert sums.counts.tolist() == [2]
    assert sums.sums.tolist() == [[1.0, 1.0]]
    assert sums.scatter is not None
    assert sums.scatter.flatten().tolist() == pytest.approx([0.5, -0.5, -0.5, 0.5])
    assert sums.means.flatten().tolist() == pytest.approx([0.5**0.5, 0.5**0.5])


@pytest.mark.parametrize("rows", [[0, 1], [2, 3], [1, 2], [4, 0]])
def test_what_was_added_can_be_taken_away_again(rows: list[int]) -> None:
    first, second = (sums_of(unit(20, 6, seed=seed), torch.arange(20) % 2, 2) for seed in (1, 2))
    rest = first.plus(second, rows).minus(first, [0, 1])
    assert rest.counts[rows].tolist() == second.counts.tolist()
    assert int(rest.counts.sum()) == 20
    assert torch.allclose(rest.sums[rows], second.sums, atol=FLOAT64_REORDERED)
    assert rest.scatter is not None
    assert second.scatter is not None
    assert torch.allclose(rest.scatter, second.scatter, atol=FLOAT64_REORDERED)


def test_what_is_no_part_cannot_be_taken_away() -> None:
    small, large = (sums_of(unit(images, 6, seed=0), [0] * images, 1) for images in (3, 4))
    with pytest.raises(ValueError, match="not part of"):
        small.minus(large, [0])


@pytest.mark.parametrize("rows", [[0, 1], [2, 3], [1, 2], [4, 0]])
def test_parts_add_up_to_the_whole_whichever_classes_they_share(rows: list[int]) -> None:
    features = unit(40, 6, seed=0)
    labels = torch.cat([torch.arange(24) % 2, torch.tensor(rows).repeat(8)])
    first = sums_of(features[:24], labels[:24], 2)
    second = sums_of(features[24:], torch.arange(16) % 2, 2)
    both = first.plus(second, rows)
    present = torch.unique(labels)
    place = {int(label): i for i, label in enumerate(present)}
    whole = sums_of(features, [place[int(label)] for label in labels], len(present))
    known = both.counts > 0
    assert_same(ClassSums(both.counts[known], both.sums[known], both.scatter), whole)


def test_the_order_in_which_parts_are_added_does_not_matter() -> None:
    parts = [sums_of(unit(9, 5, seed=seed), torch.arange(9) % 3, 3) for seed in range(3)]
    one, two = (parts[a].plus(parts[b], [0, 1, 2]).plus(parts[c], [1, 2, 0]) for a, b, c in ((0, 1, 2), (1, 0, 2)))
    assert_same(one, two)


def test_what_a_side_did_not_keep_is_taken_to_be_like_the_other() -> None:
    known = sums_of(unit(8, 4, seed=0), torch.arange(8) % 2, 2)
    unknown = replace(sums_of(unit(24, 4, seed=1), torch.arange(24) % 2, 2), scatter=None)
    for both in (known.plus(unknown, [2, 3]), unknown.plus(known, [2, 3])):
        assert both.covariance is not None
        assert known.covariance is not None
        assert torch.allclose(both.covariance, known.covariance, atol=FLOAT32_REORDERED)
    assert unknown.plus(unknown, [0, 1]).scatter is None


def test_sums_are_estimated_from_prototypes_and_covariance() -> None:
    """Classes of equally wide spread: the estimate is what they were."""
    generator = torch.Generator().manual_seed(0)
    features = torch.cat(
        [F.normalize(torch.eye(5)[c] + 0.3 * torch.randn(2000, 5, generator=generator)) for c in (0, 1)]
    )
    sums = sums_of(features, torch.arange(2).repeat_interleave(2000), 2)
    estimate = ClassSums.estimate(sums.means, sums.covariance, sums.counts)
    assert torch.allclose(estimate.sums / 2000, sums.sums / 2000, atol=0.01)
    assert estimate.scatter is not None
    assert sums.scatter is not None
    assert torch.allclose(estimate.scatter / 4000, sums.scatter / 4000, atol=FLOAT32_REORDERED)


def test_moved_sums_have_new_directions_and_their_old_lengths() -> None:
    sums = sums_of(unit(6, 4, seed=0), torch.arange(6) % 2, 2)
    directions = unit(2, 4, seed=1)
    moved = sums.towards(directions)
    assert torch.allclose(moved.sums.norm(dim=1), sums.sums.norm(dim=1))
    assert torch.allclose(moved.means, directions.float(), atol=FLOAT32_REORDERED)
    assert moved.scatter is sums.scatter


def test_mapped_sums_are_those_of_the_mapped_features() -> None:
    features, labels = unit(9, 4, seed=0).double(), torch.arange(9) % 2
    matrix = torch.eye(4, dtype=torch.float64) + 0.1 * unit(4, 4, seed=1).double()
    noise = torch.eye(4, dtype=torch.float64) / 7
    mapped, moved = sums_of(features, labels, 2).mapped(matrix, noise), features @ matrix
    centred = torch.cat([moved[labels == c] - moved[labels == c].mean(dim=0) for c in range(2)])
    assert mapped.scatter is not None
    assert torch.allclose(mapped.sums, torch.stack([moved[labels == c].sum(dim=0) for c in range(2)]))
    assert torch.allclose(mapped.scatter, centred.T @ centred + 9 * noise, rtol=0, atol=FLOAT32_REORDERED)


def test_mapped_sums_without_a_scatter_stay_without() -> None:
    sums = ClassSums(torch.tensor([2]), torch.ones(1, 4, dtype=torch.float64), None)
    identity = torch.eye(4, dtype=torch.float64)
    assert sums.mapped(2 * identity, identity).scatter is None


def test_covariance_is_that_within_the_classes_whatever_the_batches() -> None:
    generator = torch.Generator().manual_seed(0)
    raw, labels = torch.randn(30, 4, generator=generator), torch.arange(30) % 3
    unit = F.normalize(raw, dim=1)
    centred = torch.cat([unit[labels == c] - unit[labels == c].mean(dim=0) for c in range(3)])
    sums = MomentSums(3)
    for part in torch.split(torch.arange(30), 7):
        sums.add(5 * raw[part], labels[part])
    total = sums.total()
    assert total.covariance is not None
    assert torch.allclose(total.covariance, centred.T @ centred / 30, atol=FLOAT32_REORDERED)
    assert total.counts.tolist() == [10, 10, 10]


def test_drawn_features_have_the_stored_mean_covariance_and_norm() -> None:
    generator = torch.Generator().manual_seed(0)
    spread = torch.randn(3, 3, generator=generator)
    covariance = spread @ spread.T
    covariance *= 0.36 / covariance.trace()
    prototypes = F.normalize(torch.randn(2, 3, generator=generator), dim=1)
    drawn = FeatureSampler(prototypes, covariance).draw(
        torch.ones(20_000, dtype=torch.int64), torch.tensor(5.0), generator=generator
    )
    # 20,000 draws: five standard errors of a mean, and more of a covariance
    assert torch.allclose(drawn.mean(dim=0) / 5, 0.8 * prototypes[1], atol=0.02)
    assert torch.allclose(torch.cov(drawn.T) / 25, covariance, atol=0.02)


def test_without_a_covariance_the_prototypes_themselves_are_drawn() -> None:
    drawn = FeatureSampler(torch.eye(3), None).draw(
        torch.tensor([2, 0]), torch.tensor(4.0), generator=torch.Generator().manual_seed(0)
    )
    assert torch.equal(drawn, 4 * torch.eye(3)[[2, 0]])


def test_whitening_by_hand() -> None:
    """Variances 3 and 1, shrunk by once their mean 2: 5 and 3, so axes are scaled by 1/sqrt(5) and 1/sqrt(3)."""
    whitening = Whitening.of(torch.diag(torch.tensor([3.0, 1.0])), shrinkage=1.0)
    assert whitening is not None
    assert torch.allclose(whitening.matrix, torch.diag(torch.tensor([5.0, 3.0]).rsqrt()))
    direction = F.normalize(whitening(torch.tensor([[1.0, 1.0]])), dim=-1)
    assert torch.allclose(direction, torch.tensor([[3.0, 5.0]]).sqrt() / 8**0.5)


def test_whitened_scores_are_cosines_in_the_metric_of_the_inverse_covariance() -> None:
    generator = torch.Generator().manual_seed(0)
    spread, raw, prototypes = (torch.randn(5, 5, generator=generator) for _ in range(3))
    prototypes = F.normalize(prototypes, dim=1)
    covariance = spread.T @ spread
    whitening, moved = visual_space_of_old(prototypes, covariance)
    assert whitening is not None
    metric = torch.linalg.inv(covariance + covariance.diagonal().mean() * torch.eye(5))
    unit = F.normalize(raw, dim=1)
    norms = [((side @ metric) * side).sum(dim=1).sqrt() for side in (unit, prototypes)]
    expected = unit @ metric @ prototypes.T / norms[0][:, None] / norms[1]
    assert torch.allclose(visual_scores(raw, moved, whitening), expected, atol=FLOAT32_REORDERED)


def test_without_variance_the_plain_cosine_is_taken() -> None:
    prototypes = torch.eye(3)
    assert visual_space_of_old(prototypes, torch.zeros(3, 3)) == (None, prototypes)
    assert visual_space_of_old(prototypes, None) == (None, prototypes)
    one_each = sums_of(prototypes, [0, 1, 2], 3)
    for sums in (one_each, replace(one_each, scatter=None)):
        whitening, moved = visual_space(sums)
        assert whitening is None
        assert torch.equal(moved, prototypes)


def test_the_middle_of_all_classes_is_the_origin_of_the_whitened_space() -> None:
    sums = sums_of(unit(30, 6, seed=0), torch.arange(30) % 3, 3)
    whitening, vectors = visual_space(sums)
    assert whitening is not None
    means = (sums.sums / sums.counts[:, None]).float()
    assert torch.allclose(whitening(means.mean(dim=0)[None]), torch.zeros(1, 6), atol=FLOAT32_REORDERED)
    assert torch.allclose(vectors.norm(dim=1), torch.ones(3), atol=FLOAT32_REORDERED)  # equally many images
    expected = F.normalize((means - means.mean(dim=0)) @ whitening.matrix.T, dim=1)
    assert torch.allclose(vectors, expected, atol=FLOAT32_REORDERED)


def test_one_class_alone_is_not_moved_to_the_origin() -> None:
    whitening, vectors = visual_space(sums_of(unit(9, 4, seed=0), torch.zeros(9, dtype=torch.int64), 1))
    assert whitening is not None
    assert whitening.offset is None
    assert torch.allclose(vectors.norm(dim=1), torch.ones(1), atol=FLOAT32_REORDERED)


def test_a_class_of_two_images_beside_large_ones_is_found_as_often_as_beside_small_ones() -> None:
    """Twenty classes of a common part, one of their own and noise; accuracy on the one class that has two images."""
    generator = torch.Generator().manual_seed(0)

    def drawn(classes: Tensor) -> Tensor:
        noise = torch.randn(len(classes), 64, generator=generator)
        return F.normalize(3 + middles[classes] + 2.0 * noise, dim=1)

    found: dict[int, list[Tensor]] = {2: [], 100: []}
    for _ in range(20):
        middles = torch.randn(20, 64, generator=generator)
        unseen = drawn(torch.zeros(200, dtype=torch.int64))
        few = drawn(torch.zeros(2, dtype=torch.int64))
        for images, accuracies in found.items():
            labels = torch.arange(1, 20).repeat(images)
            sums = sums_of(torch.cat([few, drawn(labels)]), torch.cat([torch.zeros(2, dtype=torch.int64), labels]), 20)
            whitening, vectors = visual_space(sums)
            accuracies.append((visual_scores(unseen, vectors, whitening).argmax(dim=1) == 0).float().mean())
    small, large = (torch.stack(accuracies).mean() for accuracies in found.values())
    assert small > 0.3
    assert large > small - 0.05


LABELS_OF_FEW = [0] * 7 + [1] * 2 + [2] * 3 + [3] * 2 + [4]


@pytest.mark.parametrize(
    "labels", [LABELS_OF_FEW, [0] * 6, [0, 0, 1], [0, 0, 0, 1]], ids=["uneven", "one-class", "nothing-left", "two"]
)
@pytest.mark.parametrize("whitened", [True, False])
def test_an_image_left_out_is_scored_as_by_sums_that_never_had_it(labels: list[int], whitened: bool) -> None:
    raw = 3 * unit(len(labels), 9, seed=1).float()
    rows = torch.tensor(labels)

    def sums_over(kept: Tensor) -> ClassSums:
        sums = sums_of(raw[kept], rows[kept], max(labels) + 1)
        return sums if whitened else replace(sums, scatter=None)

    left = LeaveOneOut(sums_over(torch.ones(len(labels), dtype=torch.bool)))
    asked = [image for image, row in enumerate(labels) if labels.count(row) > 1]
    found = left.scores(raw[asked], rows[asked])
    assert left.scores(raw[:0], rows[:0]).shape == (0, max(labels) + 1)
    for image, scores in zip(asked, found, strict=True):
        kept = torch.arange(len(labels)) != image
        whitening, vectors = visual_space(sums_over(kept))
        expected = visual_scores(raw[image : image + 1], vectors, whitening)[0]
        assert torch.allclose(scores, expected, atol=FLOAT32_REORDERED)


def test_sums_without_an_image_are_the_sums_of_the_others() -> None:
    raw, labels = unit(12, 5, seed=2), torch.arange(12) % 3
    found = sums_of(raw, labels, 3).without(F.normalize(raw[4].double(), dim=-1), 1)
    expected = sums_of(raw[torch.arange(12) != 4], labels[torch.arange(12) != 4], 3)
    assert_same(found, expected)


def kept_apart(features: Tensor, labels: Tensor, classes: int, *, batch: int = 7) -> ClassSums:
    """Sums that know each class's own part of the scatter."""
    sums = MomentSums(classes, keep_own=True)
    for start in range(0, len(features), batch):
        sums.add(features[start : start + batch], labels[start : start + batch])
    return sums.total()


def products(sums: ClassSums) -> list[Tensor]:
    assert sums.own is not None
    return [factor.T @ factor for factor in sums.own if factor is not None]


def test_each_class_s_own_scatter_adds_up_to_the_whole() -> None:
    features, labels = unit(60, 5, seed=1), torch.arange(60) % 3
    sums = kept_apart(features, labels, 3)
    assert sums.scatter is not None
    assert torch.allclose(torch.stack(products(sums)).sum(dim=0), sums.scatter, atol=1e-12)
    assert sums.own is not None
    assert all(factor is not None and factor.shape == (5, 5) for factor in sums.own)
    assert all(torch.equal(factor, factor.triu()) for factor in sums.own if factor is not None)
    for other in (kept_apart(features, labels, 3, batch=60), kept_apart(features, labels, 3, batch=1)):
        for mine, theirs in zip(products(sums), products(other), strict=True):
            assert torch.allclose(mine, theirs, atol=1e-12)


def test_a_class_is_taken_away_as_if_it_had_never_been_there() -> None:
    features, labels = unit(60, 5, seed=2), torch.arange(60) % 3
    sums = kept_apart(features, labels, 3).forgotten(1)
    others = labels != 1
    never = kept_apart(features[others], labels[others] // 2, 2)
    assert_same(sums, never)
    for mine, theirs in zip(products(sums), products(never), strict=True):
        assert torch.allclose(mine, theirs, atol=1e-12)


def test_without_its_own_part_the_scatter_is_scaled() -> None:
    features, labels = unit(60, 5, seed=3), torch.arange(60) % 3
    sums = sums_of(features, labels, 3)
    left = sums.forgotten(0)
    assert sums.scatter is not None
    assert left.scatter is not None
    assert torch.allclose(left.scatter, sums.scatter * 2 / 3)
    assert (left.counts.tolist(), left.own) == ([20, 20], None)
    plain = ClassSums(sums.counts, sums.sums, None).forgotten(2)
    assert (plain.counts.tolist(), plain.scatter) == ([20, 20], None)


def test_two_classes_become_one_as_if_they_had_been_taught_so() -> None:
    features, labels = unit(60, 5, seed=4), torch.arange(60) % 3
    joined = kept_apart(features, labels, 3).joined(0, 2)
    one = kept_apart(features, torch.where(labels == 2, 0, labels), 2)
    assert_same(joined, one)
    for mine, theirs in zip(products(joined), products(one), strict=True):
        assert torch.allclose(mine, theirs, atol=1e-12)
    other_way = kept_apart(features, labels, 3).joined(2, 0)  # in the place of the later one
    assert other_way.counts.tolist() == [20, 40]
    assert sums_of(features, labels, 3).joined(0, 2).own is None


def test_what_is_added_without_its_own_part_has_none_from_then_on() -> None:
    features, labels = unit(40, 5, seed=5), torch.arange(40) % 2
    apart = kept_apart(features[:20], labels[:20], 2)
    both = apart.plus(sums_of(features[20:], labels[20:] * 0, 1), [1])
    assert both.own is not None
    assert [factor is None for factor in both.own] == [False, True]
    more = apart.plus(kept_apart(features[20:], labels[20:], 2), [0, 1])
    for mine, theirs in zip(products(more), products(kept_apart(features, labels, 2)), strict=True):
        assert torch.allclose(mine, theirs, atol=1e-12)
    new = apart.plus(sums_of(features[20:], labels[20:] * 0, 1), [2])
    assert new.own is not None
    assert [factor is None for factor in new.own] == [False, False, True]


def test_a_tower_that_moved_leaves_no_exact_part() -> None:
    sums = kept_apart(unit(20, 4, seed=6), torch.arange(20) % 2, 2)
    eye = torch.eye(4, dtype=torch.float64)
    assert sums.towards(sums.means).own is None
    assert sums.mapped(eye, 0 * eye).own is None
