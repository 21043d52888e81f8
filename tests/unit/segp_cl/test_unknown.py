"""Strangeness: by its formula, and whether it tells images of other classes from images of known ones."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from segp_cl.odds import quantiles
from segp_cl.scores import dual_path_scores
from segp_cl.statistics import ClassSums, MomentSums, visual_space
from segp_cl.types import Scores
from segp_cl.unknown import NOBODY_SPREAD, Strangeness, share_less_strange

WIDTH = 48


class World:
    """Classes around a common middle, which spread more in some directions than in others."""

    def __init__(self, classes: int, seed: int = 0, *, apart: float = 1.0) -> None:
        self._generator = torch.Generator().manual_seed(seed)
        self._spread = torch.linspace(0.2, 1.5, WIDTH)
        self.middles = 2.0 + apart * self._random(classes, WIDTH)

    def images(self, rows: list[int], each: int) -> tuple[Tensor, Tensor]:
        labels = torch.tensor(rows).repeat_interleave(each)
        return self.middles[labels] + self._spread * self._random(len(labels), WIDTH), labels

    def far(self, count: int) -> Tensor:
        """Images of no such world: around its middle, and in every direction half as far again as images lie."""
        return self.middles.mean(dim=0) + 1.5 * self._spread * self._random(count, WIDTH)

    def _random(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self._generator)


def sums_of(raw: Tensor, labels: Tensor, classes: int) -> ClassSums:
    sums = MomentSums(classes)
    sums.add(raw, labels)
    return sums.total()


def scores_of(sums: ClassSums, raw: Tensor) -> Scores:
    whitening, prototypes = visual_space(sums)
    image, text = raw[:, :1] * 0, torch.zeros(len(prototypes), 1)
    return dual_path_scores(raw, image, text, prototypes, fusion_weight=1.0, whitening=whitening)


def strangeness_of(sums: ClassSums, raw: Tensor, nobody_spread: float = NOBODY_SPREAD) -> Tensor:
    strange = Strangeness.of(sums, *visual_space(sums), nobody_spread=nobody_spread)
    scores = scores_of(sums, raw)
    assert strange is not None
    assert scores.length is not None
    return strange(scores.visual, scores.length)


@pytest.mark.parametrize("nobody_spread", [1.0, NOBODY_SPREAD])
def test_it_is_the_likelihood_ratio_of_the_model(nobody_spread: float) -> None:
    """Against densities from torch.distributions, for classes of different sizes."""
    world = World(4)
    raw, labels = world.images([0, 1, 2, 3, 3, 3], 6)
    sums = sums_of(raw, labels, 4)
    unseen, _ = world.images([0, 2], 5)
    whitening, _ = visual_space(sums)
    assert whitening is not None
    means = whitening((sums.sums / sums.counts[:, None]).float())
    images, classes, counts = 36, 4, sums.counts.double()
    matrix = whitening.matrix.double()
    within = ((matrix @ sums.scatter) * matrix).sum() / images  # type: ignore[operator]
    within = within / (1 - within / images) * images / (images - classes) / WIDTH
    between = (means.double().pow(2).sum(dim=1) / WIDTH - within / counts).mean()
    mapped = whitening(F.normalize(unseen, dim=-1)).double()
    wide = nobody_spread * (within + between)
    nobody = torch.distributions.Normal(0.0, wide.sqrt()).log_prob(mapped).sum(dim=1)  # type: ignore[no-untyped-call]
    ratios = []
    for mean, count in zip(means.double(), counts, strict=True):
        known = between / (between + within / count)
        spread = within + between * (1 - known)
        density = torch.distributions.Normal(known * mean, spread.sqrt())
        ratios.append(density.log_prob(mapped).sum(dim=1) - nobody)  # type: ignore[no-untyped-call]
    expected = -2 * torch.stack(ratios).amax(dim=0) * within / (wide - within) / WIDTH
    assert torch.allclose(strangeness_of(sums, unseen, nobody_spread).double(), expected, atol=1e-4)


@pytest.mark.parametrize("each", [2, 30])
def test_images_of_other_classes_look_stranger(each: int) -> None:
    world = World(20)
    sums = sums_of(*world.images(list(range(10)), each), 10)
    known = strangeness_of(sums, world.images(list(range(10)), 20)[0])
    other = strangeness_of(sums, world.images(list(range(10, 20)), 20)[0])
    assert (known[:, None] < other).float().mean() > 0.9


def test_what_is_far_from_alike_classes_looks_strange() -> None:
    """Classes hardly further apart than their images: by w + λ, what is far from all is nearly as likely of one."""
    world = World(10, apart=0.05)
    sums = sums_of(*world.images(list(range(10)), 200), 10)
    known, far = world.images(list(range(10)), 20)[0], world.far(200)

    def told(nobody_spread: float) -> float:
        stranger = strangeness_of(sums, known, nobody_spread)[:, None] < strangeness_of(sums, far, nobody_spread)
        return stranger.float().mean().item()

    assert told(NOBODY_SPREAD) > 0.9 > told(1.0)


def test_it_means_the_same_with_few_images_and_with_many() -> None:
    """Few images span fewer directions than there are, and seem to spread less than they do."""
    world = World(10)
    few, many = (sums_of(*world.images(list(range(10)), each), 10) for each in (4, 100))
    unseen, _ = world.images(list(range(10)), 30)
    medians = [strangeness_of(sums, unseen).median().item() for sums in (few, many)]
    assert medians[0] == pytest.approx(medians[1], abs=0.4)


def test_classes_of_single_images_leave_it_open() -> None:
    sums = sums_of(*World(3).images([0, 1, 2], 1), 3)
    assert Strangeness.of(sums, *visual_space(sums)) is None


def test_without_a_scatter_there_is_none() -> None:
    sums = sums_of(*World(3).images([0, 1, 2], 5), 3)
    plain = ClassSums(sums.counts, sums.sums, None)
    assert Strangeness.of(plain, *visual_space(plain)) is None


def test_the_share_that_is_less_strange() -> None:
    of_known = quantiles(torch.linspace(0, 1, 101, dtype=torch.float64)[None])[0]
    found = share_less_strange(torch.tensor([-1.0, 0.5, 2.0]), of_known, images=99)
    assert found == pytest.approx([0.0, 0.495, 0.99])


def test_known_images_exceed_a_share_as_rarely_as_it_says() -> None:
    world = World(10)
    sums = sums_of(*world.images(list(range(10)), 40), 10)
    of_known = quantiles(strangeness_of(sums, world.images(list(range(10)), 40)[0]).double()[None])[0]
    shares = share_less_strange(strangeness_of(sums, world.images(list(range(10)), 100)[0]), of_known, images=400)
    exceeding = sum(share > 0.95 for share in shares) / len(shares)
    assert exceeding == pytest.approx(0.05, abs=0.03)
