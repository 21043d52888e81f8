"""Closed-form heads: each against a direct computation, and learning task after task against learning at once."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.accuracy.heads import kinds
from benchmarks.accuracy.heads.gda import gda
from benchmarks.accuracy.heads.incremental import Incremental, Labelled
from benchmarks.accuracy.heads.kinds import HEADS
from benchmarks.accuracy.heads.ranpac import RandomFeatures
from benchmarks.accuracy.heads.ridge import Ridge
from benchmarks.accuracy.heads.sums import Sums
from benchmarks.accuracy.heads.tally import Tally
from benchmarks.accuracy.heads.whitened import Whitened

SMALL = {name: replace(kind, width=kind.width and 40) for name, kind in HEADS.items()}
"""The same heads with 40 random features."""


def labelled(images_per_class: int, *, classes: int = 4, dim: int = 6, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Unit-norm features around a mean of each class, with noise that is larger in some directions."""
    generator = torch.Generator().manual_seed(seed)
    means = torch.randn(classes, dim, generator=torch.Generator().manual_seed(99))
    labels = torch.arange(classes).repeat_interleave(images_per_class)
    noise = torch.randn(len(labels), dim, generator=generator) * torch.linspace(0.1, 1.2, dim)
    return F.normalize((means[labels] + noise).double(), dim=1), labels


def one_hot(labels: Tensor, classes: int = 4) -> Tensor:
    return F.one_hot(labels, classes).double()


@pytest.mark.parametrize("images", [1, 5], ids=["fewer images than dimensions", "more"])
def test_sums_are_what_they_say(images: int) -> None:
    z, y = labelled(images)

    sums = Sums.of(z, y, classes=4)

    assert sums.counts.tolist() == [images] * 4
    assert torch.allclose(sums.totals, one_hot(y).T @ z)
    assert torch.allclose(sums.products, z.T @ z)
    assert (sums.images, sums.dim, len(sums.root)) == (4 * images, 6, min(4 * images, 6))
    assert math.isclose(sums.trace, len(z))
    centred = z - sums.means[y]
    assert torch.allclose(sums.scatter(), centred.T @ centred)


def test_sums_of_two_sets_are_added_and_later_classes_come_last() -> None:
    z, y = labelled(3)
    first = y < 2

    added = Sums.of(z[first], y[first], classes=2) + Sums.of(z[~first], y[~first], classes=4)

    whole = Sums.of(z, y, classes=4)
    assert torch.equal(added.counts, whole.counts)
    assert torch.allclose(added.totals, whole.totals)
    assert torch.allclose(added.products, whole.products)
    assert len(added.root) <= added.dim


def test_a_root_holds_no_feature() -> None:
    z, y = labelled(2)

    root = F.normalize(Sums.of(z[:4], y[:4], classes=2).root, dim=1)

    assert float((root @ z[:4].T).abs().max()) < 0.999


@pytest.mark.parametrize("images", [1, 5], ids=["fewer images than dimensions", "more"])
def test_ridge_is_the_least_squares_solution_with_a_penalty(images: int) -> None:
    z, y = labelled(images)
    strength = 0.3
    root = math.sqrt(strength * len(z) / 6)  # tr G = N for unit-norm features

    found = Ridge(Sums.of(z, y, classes=4)).weights(strength)

    penalised = torch.cat([z, root * torch.eye(6, dtype=torch.float64)])
    targets = torch.cat([one_hot(y), torch.zeros(6, 4, dtype=torch.float64)])
    assert torch.allclose(found, torch.linalg.lstsq(penalised, targets).solution, atol=1e-10)
    some, _ = labelled(2, seed=8)
    assert torch.allclose(Ridge(Sums.of(z, y, classes=4)).scores(some, strength), some @ found, atol=1e-10)


def test_ridge_of_two_orthogonal_images_by_hand() -> None:
    # G = I, tr G / d = 1, S = I: B = I / (1 + lambda)
    sums = Sums.of(torch.eye(2), torch.tensor([0, 1]), classes=2)

    assert torch.allclose(Ridge(sums).weights(0.25), torch.eye(2, dtype=torch.float64) / 1.25)


def test_random_features_follow_from_their_seed_alone() -> None:
    z, _ = labelled(2)
    torch.manual_seed(5)

    features = RandomFeatures(6, 50, seed=1)(z)

    torch.manual_seed(6)
    assert torch.equal(RandomFeatures(6, 50, seed=1)(z), features)
    assert not torch.equal(RandomFeatures(6, 50, seed=2)(z), features)
    assert features.shape == (8, 50)
    assert float(features.min()) == 0  # relu
    matrix = torch.randn(6, 50, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    assert torch.allclose(features, (z @ matrix).clamp(min=0))


def test_gda_is_the_dense_formula_of_the_paper_up_to_a_factor() -> None:
    z, y = labelled(5)

    head = gda(Sums.of(z, y, classes=4))

    means = torch.stack([z[y == c].mean(dim=0) for c in range(4)])
    within = (z - means[y]).T.cov()  # divided by N - 1
    precision = 6 * torch.linalg.inv((len(z) - 1) * within + within.trace() * torch.eye(6, dtype=torch.float64))
    paper = z @ precision @ means.T - 0.5 * ((means @ precision) * means).sum(dim=1)
    assert torch.allclose(head(z), paper * (len(z) - 1) / 6, rtol=1e-5, atol=1e-6)


def test_gda_of_one_image_a_class_is_the_nearest_image() -> None:
    z, y = labelled(1)

    assert torch.allclose(gda(Sums.of(z, y, classes=4))(z), z @ z.T - 0.5)


def test_the_whitened_cosine_is_the_dense_formula() -> None:
    z, y = labelled(5)
    alpha = 0.3

    found = Whitened(Sums.of(z, y, classes=4)).scores(z, alpha)

    means = torch.stack([z[y == c].mean(dim=0) for c in range(4)])
    centred = z - means[y]
    within = centred.T @ centred / (len(z) - 4)
    covariance = (1 - alpha) * within + alpha * within.trace() / 6 * torch.eye(6, dtype=torch.float64)
    values, vectors = torch.linalg.eigh(covariance)
    root = vectors @ torch.diag(values.rsqrt()) @ vectors.T  # the symmetric one
    assert torch.allclose(found, F.normalize(z @ root, dim=1) @ F.normalize(means @ root, dim=1).T)


@pytest.mark.parametrize(("images", "alpha"), [(5, 1.0), (1, 0.3)], ids=["shrunk to a sphere", "one image a class"])
def test_without_whitening_it_is_the_plain_cosine_with_the_mean(images: int, alpha: float) -> None:
    z, y = labelled(images)
    sums = Sums.of(z, y, classes=4)

    assert torch.allclose(Whitened(sums).scores(z, alpha), z @ F.normalize(sums.means, dim=1).T)


def test_the_likelihood_of_kept_back_images_follows_from_their_sums() -> None:
    z, y = labelled(5)
    kept, of = labelled(2, seed=1)
    whitened = Whitened(Sums.of(z, y, classes=4))
    means = Sums.of(z, y, classes=4).means

    def direct(alpha: float) -> float:
        covariance = torch.linalg.inv(whitened.root(alpha).T @ whitened.root(alpha))
        apart = kept - means[of]
        distances = (apart @ torch.linalg.inv(covariance) * apart).sum()
        return float(-0.5 * distances - 0.5 * len(kept) * torch.logdet(covariance))

    sums = Sums.of(kept, of, classes=4)
    assert whitened.log_likelihood(sums, 0.1) == pytest.approx(direct(0.1))
    assert whitened.log_likelihood(sums, 1.0) == pytest.approx(direct(1.0))


def test_a_tally_takes_the_value_with_the_most_right_answers_over_all_tasks() -> None:
    tally = Tally([1.0, 2.0, 3.0, 4.0, 5.0], default=2.0)
    assert tally.best() == 2.0

    for value, right in [(1.0, 5), (4.0, 3)]:
        tally.add(value, right)
    assert tally.best() == 1.0

    tally.add(4.0, 3)
    assert tally.best() == 4.0

    tally.add(3.0, 6)
    tally.add(5.0, 6)
    assert tally.best() == 4.0  # the middle of three that are equal


def learn(head: str, tasks: list[list[int]], *, kept_are_learned: bool = True) -> Incremental:
    """Two images of each class are kept back; text features are the classes' directions."""
    z, y = labelled(6, seed=3)
    back, of = labelled(2, seed=4)
    incremental = Incremental(SMALL[head], seed=7, kept_are_learned=kept_are_learned)
    for classes in tasks:
        parts = []
        for features, labels in ((z, y), (back, of)):
            chosen = torch.isin(labels, torch.tensor(classes))
            parts.append(Labelled(features[chosen], features[chosen], labels[chosen]))
        incremental.learn(*parts, classes=4, texts=F.normalize(torch.eye(6)[:4] + 0.1, dim=1))
    return incremental


@pytest.mark.parametrize("head", HEADS)
def test_the_order_of_tasks_makes_no_difference(head: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SMALL, head, replace(SMALL[head], grid=(SMALL[head].default,)))
    z, _ = labelled(3, seed=5)

    ways = [learn(head, tasks).solve().scores(z) for tasks in ([[0, 1], [2, 3]], [[3, 2], [1, 0]], [[0, 1, 2, 3]])]

    scale = float(ways[0].abs().max())
    assert float((ways[0] - ways[1]).abs().max()) < 1e-6 * scale
    assert float((ways[0] - ways[2]).abs().max()) < 1e-6 * scale


@pytest.mark.parametrize("head", HEADS)
def test_every_head_tells_classes_apart_and_says_what_it_chose(head: str) -> None:
    z, y = labelled(10, seed=6)

    solved = learn(head, [[0, 1], [2, 3]]).solve()

    assert float((solved.scores(z).argmax(dim=1) == y).double().mean()) > 0.75
    setting = HEADS[head].setting
    assert list(solved.chosen) == ([setting] if setting else [])
    assert set(solved.chosen.values()) <= set(HEADS[head].grid)
    assert solved.fusion_weight == (solved.chosen["beta"] if head == "gda+text" else 0.0)


@pytest.mark.parametrize("head", ["ridge", "whitened", "gda+text"])
def test_kept_back_images_are_a_part_of_the_answer_only_if_they_are_training_images(head: str) -> None:
    z, y = labelled(6, seed=3)
    back, of = labelled(2, seed=4)
    alone, joined = Sums.of(z, y, classes=4), Sums.of(torch.cat([z, back]), torch.cat([y, of]), classes=4)

    for kept_are_learned, sums in ((False, alone), (True, joined)):
        solved = learn(head, [[0, 1, 2, 3]], kept_are_learned=kept_are_learned).solve()
        value = next(iter(solved.chosen.values()))
        assert torch.allclose(solved.scores(z), HEADS[head].solver(sums).head(value)(z))


def test_without_kept_back_images_a_setting_has_its_default() -> None:
    z, y = labelled(3)
    images, none = Labelled(z, z, y), Labelled(z[:0], z[:0], y[:0])

    for name, kind in SMALL.items():
        head = Incremental(kind, seed=0, kept_are_learned=True)
        head.learn(images, none, classes=4, texts=torch.eye(6)[:4])
        assert list(head.solve().chosen.values()) == ([kind.default] if kind.setting else []), name


def test_text_that_knows_the_answers_gets_all_the_weight() -> None:
    y = torch.arange(4).repeat(3)
    noise = F.normalize(torch.randn(12, 6, generator=torch.Generator().manual_seed(0)), dim=1).double()
    knows = torch.eye(4, dtype=torch.float64)
    head = Incremental(HEADS["gda+text"], seed=0, kept_are_learned=True)

    head.learn(Labelled(noise, knows[y], y), Labelled(noise.flip(0), knows[y], y), classes=4, texts=knows)

    assert head.solve().fusion_weight < 0.1  # the values that spoil no answer


def test_grids_hold_the_defaults_and_rise() -> None:
    for kind in HEADS.values():
        assert kind.default in kind.grid
        assert list(kind.grid) == sorted(set(kind.grid))
    assert (kinds.RIDGE_GRID[0], kinds.RIDGE_GRID[-1]) == (1e-4, 100.0)
