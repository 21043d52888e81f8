"""DPGD: seeds are chosen by text, driven by both targets, and stay near their pictures."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segp_cl.anchors import (
    adversarial_loss,
    anchor_loss,
    choose_classes,
    choose_seeds,
    drive,
    generate_anchors,
    seed_scores,
    seeds_per_class,
    sign_step,
    visual_adversarial_loss,
)
from segp_cl.config import LearnerConfig, ResolvedConfig
from segp_cl.data.image_sets import TensorImages
from segp_cl.pixels import as_unit_pixels
from segp_cl.types import Progress
from tests.tolerances import FLOAT32_REORDERED, SIX_DECIMALS

OLD, RAW, JOINT, SIZE = 3, 12, 8, 16


class TinyTower(nn.Module):
    """A convolution, a pooling and a projection: in double precision inside, so that signs do not hang on rounding."""

    device = torch.device("cpu")

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.conv = nn.Conv2d(3, RAW, 4, stride=4, dtype=torch.float64)
            self.head = nn.Linear(RAW, JOINT, dtype=torch.float64)
        self.eval()

    def raw_features(self, pixels: Tensor) -> Tensor:
        return F.gelu(self.conv(pixels.double() - 0.5)).mean(dim=(2, 3)).float()

    def project(self, raw: Tensor) -> Tensor:
        return F.normalize(self.head(raw.double()), dim=-1).float()


class FloatTower(TinyTower):
    """The same in single precision, as autocast expects it."""

    def __init__(self) -> None:
        super().__init__()
        self.float()

    def raw_features(self, pixels: Tensor) -> Tensor:
        features: Tensor = self.conv(pixels - 0.5)
        return F.gelu(features).mean(dim=(2, 3))

    def project(self, raw: Tensor) -> Tensor:
        return F.normalize(self.head(raw), dim=-1)


def random(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def tower() -> TinyTower:
    return TinyTower()


@pytest.fixture
def images() -> TensorImages:
    generator = torch.Generator().manual_seed(1)
    return TensorImages(torch.randint(0, 256, (9, 3, SIZE, SIZE), generator=generator, dtype=torch.uint8), [0] * 9)


@pytest.fixture
def old_text() -> Tensor:
    return F.normalize(random(OLD, JOINT, seed=2), dim=-1)


@pytest.fixture
def prototypes() -> Tensor:
    return F.normalize(random(OLD, RAW, seed=3), dim=-1)


def settings(**changes: object) -> ResolvedConfig:
    return LearnerConfig.model_validate(
        {
            "k_seed": 2,
            "min_anchors": 0,
            "k_adv": 10,
            "step_size_pixels": 1.5e-3,
            "feature_batch_size": 4,
            "dpgd_batch_size": 4,
            **changes,
        }
    ).resolve(20.0)


def generate(tower: TinyTower, images: TensorImages, text: Tensor, protos: Tensor, **changes: object) -> Tensor:
    return generate_anchors(tower, images, old_text=text, prototypes=protos, config=settings(**changes)).pixels


# the equations


def test_seed_scores_by_hand() -> None:
    # (0.6, 0.8)·(1, 0) = 0.6 and ·(0, 1) = 0.8
    assert torch.allclose(seed_scores(torch.tensor([[0.6, 0.8]]), torch.eye(2)), torch.tensor([[0.6, 0.8]]))


def test_seeds_are_the_best_images_of_each_class_best_first() -> None:
    scores = torch.tensor([[0.1, 0.9], [0.3, 0.2], [0.2, 0.8]])
    assert choose_seeds(scores, k=2).tolist() == [[1, 2], [0, 2]]


def test_fewer_images_than_seeds_gives_all_of_them() -> None:
    assert choose_seeds(torch.tensor([[0.1], [0.3]]), k=5).tolist() == [[1, 0]]


def test_equal_scores_choose_the_earlier_image() -> None:
    assert choose_seeds(torch.tensor([[0.5], [0.7], [0.7], [0.7]]), k=2).tolist() == [[1, 2]]


def test_adversarial_loss_by_hand() -> None:
    # cosines 1 and 0 at tau 1/2: logits 2 and 0; -log softmax = log(1 + e^-2) for class 0, 2 more for class 1
    image = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    losses = adversarial_loss(image, torch.eye(2), torch.tensor([0, 1]), tau=0.5)
    assert losses.tolist() == pytest.approx([math.log(1 + math.exp(-2)), math.log(1 + math.exp(-2)) + 2], rel=1e-5)


def test_visual_adversarial_loss_by_hand() -> None:
    # r̄ = (0.6, 0.8): 1 - 0.6 and 1 - 0.8
    raw = torch.tensor([[3.0, 4.0], [3.0, 4.0]])
    assert visual_adversarial_loss(raw, torch.eye(2), torch.tensor([0, 1])).tolist() == pytest.approx([0.4, 0.2])


def test_anchor_loss_by_hand() -> None:
    # 2 + 0.5 * 0.4 = 2.2
    assert anchor_loss(torch.tensor([2.0]), torch.tensor([0.4]), lambda_p=0.5).tolist() == pytest.approx([2.2])


def test_losses_are_differentiable() -> None:
    image, raw = random(3, JOINT, seed=4).double().requires_grad_(), random(3, RAW, seed=5).double().requires_grad_()
    text, protos = random(OLD, JOINT, seed=6).double(), random(OLD, RAW, seed=7).double()
    targets = torch.tensor([2, 0, 1])

    def loss(image: Tensor, raw: Tensor) -> Tensor:
        return anchor_loss(
            adversarial_loss(image, text, targets, tau=0.7),
            visual_adversarial_loss(raw, protos, targets),
            lambda_p=0.5,
        )

    assert torch.autograd.gradcheck(loss, (image, raw))


def test_the_visual_loss_is_zero_on_the_prototype_and_ignores_the_norm() -> None:
    protos = F.normalize(random(OLD, RAW, seed=7), dim=-1)
    targets = torch.arange(OLD)
    assert torch.allclose(
        visual_adversarial_loss(5 * protos, protos, targets), torch.zeros(OLD), atol=FLOAT32_REORDERED
    )


def test_sign_step_by_hand() -> None:
    # 0 - 0.1 = -0.1; 0.25 + 0.1 = 0.35 is clipped to 0.3; a zero gradient moves nothing
    delta = torch.tensor([0.0, 0.25, 0.2]).view(1, 3, 1, 1)
    gradient = torch.tensor([7.0, -1e-9, 0.0]).view(1, 3, 1, 1)
    moved = sign_step(delta, gradient, step_size=0.1, epsilon=0.3)
    assert moved.flatten().tolist() == pytest.approx([-0.1, 0.3, 0.2])


# driving a batch


def target_probability(tower: TinyTower, pixels: Tensor, text: Tensor, targets: Tensor) -> Tensor:
    with torch.no_grad():
        logits = seed_scores(tower.project(tower.raw_features(pixels)), text) / 0.05
    return logits.softmax(dim=-1).gather(1, targets[:, None])[:, 0]


@pytest.mark.parametrize("target", range(OLD))
def test_driving_raises_the_targets_probability_and_its_prototypes_cosine(
    tower: TinyTower, images: TensorImages, old_text: Tensor, prototypes: Tensor, target: int
) -> None:
    seeds = as_unit_pixels(images.pixels(range(4)))
    targets = torch.full((4,), target)
    driven, _ = drive(tower, seeds, targets, old_text=old_text, prototypes=prototypes, config=settings())
    before, after = (target_probability(tower, pixels, old_text, targets) for pixels in (seeds, driven))
    assert (after > before).all()


def test_only_the_visual_target_moves_towards_the_prototype(
    tower: TinyTower, images: TensorImages, old_text: Tensor, prototypes: Tensor
) -> None:
    seeds, targets = as_unit_pixels(images.pixels(range(4))), torch.tensor([0, 1, 2, 0])
    config = settings(lambda_p=1000.0)
    driven, _ = drive(tower, seeds, targets, old_text=old_text, prototypes=prototypes, config=config)
    with torch.no_grad():
        before, after = (
            visual_adversarial_loss(tower.raw_features(pixels), prototypes, targets) for pixels in (seeds, driven)
        )
    assert (after < before).all()


def test_one_step_is_one_sign_step(
    tower: TinyTower, images: TensorImages, old_text: Tensor, prototypes: Tensor
) -> None:
    seeds, targets = as_unit_pixels(images.pixels([0])), torch.tensor([1])
    inner = seeds.clamp(0.1, 0.9)  # nothing to clamp
    driven, loss = drive(tower, inner, targets, old_text=old_text, prototypes=prototypes, config=settings(k_adv=1))
    assert loss is not None
    assert set((driven - inner).mul(1e4).round().flatten().tolist()) <= {-15.0, 0.0, 15.0}
    # a finite difference along the step: the loss falls by about the gradient's L1 norm times gamma
    with torch.no_grad():
        raw = tower.raw_features(driven)
        after = anchor_loss(
            adversarial_loss(tower.project(raw), old_text, targets, tau=0.05),
            visual_adversarial_loss(raw, prototypes, targets),
            lambda_p=0.5,
        )
    assert after.item() < loss


# the whole of it


def test_anchors_are_kept_with_their_classes_in_order(
    tower: TinyTower, images: TensorImages, old_text: Tensor, prototypes: Tensor
) -> None:
    anchors = generate_anchors(tower, images, old_text=old_text, prototypes=prototypes, config=settings())
    assert anchors.classes == (0, 0, 1, 1, 2, 2)
    assert anchors.pixels.shape == (6, 3, SIZE, SIZE)
    assert anchors.pixels.dtype == torch.float32
    assert not anchors.pixels.requires_grad


def test_anchors_stay_within_the_ball_and_the_picture(
    tower: TinyTower, images: TensorImages, old_text: Tensor, prototypes: Tensor
) -> None:
    seeds = generate(tower, images, old_text, prototypes, k_adv=0)
    driven = generate(tower, images, old_text, prototypes, epsilon_pixels=0.004)
    assert (driven - seeds).abs().max().item() == pytest.approx(0.004, abs=SIX_DECIMALS)
    assert driven.min() >= 0
    assert driven.max() <= 1


def test_without_steps_the_anchors_are_the_seeds(
    tower: TinyTower, images: TensorImages, old_text: Tensor, prototypes: Tensor
) -> None:
    with torch.no_grad():
        features = tower.project(tower.raw_features(as_unit_pixels(images.pixels(range(9)))))
    chosen = choose_seeds(seed_scores(features, old_text), k=2).flatten().tolist()
    anchors = generate(tower, images, old_text, prototypes, k_adv=0)
    assert torch.equal(anchors, as_unit_pixels(images.pixels(chosen)))


@pytest.mark.parametrize("size", [1, 5, 100])
def test_batch_sizes_change_nothing(
    tower: TinyTower, images: TensorImages, old_text: Tensor, prototypes: Tensor, size: int
) -> None:
    reference = generate(tower, images, old_text, prototypes)
    other = generate(tower, images, old_text, prototypes, dpgd_batch_size=size, feature_batch_size=size)
    assert (other - reference).abs().max() <= FLOAT32_REORDERED


def test_the_same_input_gives_the_same_anchors(
    tower: TinyTower, images: TensorImages, old_text: Tensor, prototypes: Tensor
) -> None:
    first, second = (generate(tower, images, old_text, prototypes) for _ in range(2))
    assert torch.equal(first, second)


def test_fewer_images_than_k_seed_give_fewer_anchors(
    tower: TinyTower, images: TensorImages, old_text: Tensor, prototypes: Tensor
) -> None:
    single = TensorImages(images.pixels([3]), [0])
    anchors = generate_anchors(tower, single, old_text=old_text, prototypes=prototypes, config=settings(k_seed=5))
    assert anchors.classes == (0, 1, 2)


def test_a_single_old_class_is_driven_by_its_prototype_alone(
    tower: TinyTower, images: TensorImages, old_text: Tensor, prototypes: Tensor
) -> None:
    seeds = generate(tower, images, old_text[:1], prototypes[:1], k_adv=0)
    driven = generate(tower, images, old_text[:1], prototypes[:1])
    with torch.no_grad():
        before, after = (tower.raw_features(pixels) for pixels in (seeds, driven))
    target = torch.zeros(2, dtype=torch.int64)
    assert (
        visual_adversarial_loss(after, prototypes[:1], target) < visual_adversarial_loss(before, prototypes[:1], target)
    ).all()


@pytest.mark.parametrize("trained", [True, False])
def test_the_models_parameters_and_gradients_stay_as_they_are(
    tower: TinyTower, images: TensorImages, old_text: Tensor, prototypes: Tensor, trained: bool
) -> None:
    tower.requires_grad_(trained)
    weights = [parameter.detach().clone() for parameter in tower.parameters()]
    gradients = [torch.full_like(parameter, 3.0) for parameter in tower.parameters()]
    for parameter, gradient in zip(tower.parameters(), gradients, strict=True):
        parameter.grad = gradient.clone()
    generate(tower, images, old_text, prototypes)
    for parameter, weight, gradient in zip(tower.parameters(), weights, gradients, strict=True):
        assert torch.equal(parameter, weight)
        assert parameter.grad is not None
        assert torch.equal(parameter.grad, gradient)
        assert parameter.requires_grad == trained


def test_parameters_are_trainable_again_after_a_cancel(
    tower: TinyTower, images: TensorImages, old_text: Tensor, prototypes: Tensor
) -> None:
    def cancel(progress: Progress) -> None:
        raise InterruptedError(progress.phase)

    with pytest.raises(InterruptedError, match="anchors"):
        generate_anchors(tower, images, old_text=old_text, prototypes=prototypes, config=settings(), on_progress=cancel)
    assert all(parameter.requires_grad for parameter in tower.parameters())


def test_progress_counts_every_batch_of_both_passes(
    tower: TinyTower, images: TensorImages, old_text: Tensor, prototypes: Tensor
) -> None:
    seen: list[Progress] = []
    generate_anchors(
        tower, images, old_text=old_text, prototypes=prototypes, config=settings(), on_progress=seen.append
    )
    # 9 images by 4 are 3 batches, 6 anchors by 4 are 2
    assert [(progress.phase, progress.step, progress.steps) for progress in seen] == [
        ("anchors", step, 5) for step in range(1, 6)
    ]
    assert [set(progress.losses) for progress in seen] == [set(), set(), set(), {"anchor"}, {"anchor"}]


class CountingImages:
    """An image source that remembers the largest batch it was asked for."""

    def __init__(self, images: TensorImages) -> None:
        self.images, self.largest = images, 0

    @property
    def labels(self) -> Sequence[int]:
        return self.images.labels

    def pixels(self, indices: Sequence[int]) -> Tensor:
        self.largest = max(self.largest, len(indices))
        return self.images.pixels(indices)


def test_images_are_streamed_in_batches(
    tower: TinyTower, images: TensorImages, old_text: Tensor, prototypes: Tensor
) -> None:
    source = CountingImages(images)
    generate_anchors(tower, source, old_text=old_text, prototypes=prototypes, config=settings())
    assert source.largest == 4


def test_half_precision_forward_passes_still_reach_the_target(
    images: TensorImages, old_text: Tensor, prototypes: Tensor
) -> None:
    tower = FloatTower()
    anchors = generate_anchors(
        tower, images, old_text=old_text, prototypes=prototypes, config=settings(), dtype=torch.bfloat16
    )
    seeds = generate(tower, images, old_text, prototypes, k_adv=0)
    targets = torch.tensor(anchors.classes)
    before, after = (target_probability(tower, pixels, old_text, targets) for pixels in (seeds, anchors.pixels))
    assert anchors.pixels.dtype == torch.float32
    assert after.mean() > before.mean()


def test_half_precision_storage_is_within_a_fraction_of_a_step(
    tower: TinyTower, images: TensorImages, old_text: Tensor, prototypes: Tensor
) -> None:
    full = generate(tower, images, old_text, prototypes)
    half = generate_anchors(
        tower, images, old_text=old_text, prototypes=prototypes, config=settings(), storage=torch.float16
    ).pixels
    assert half.dtype == torch.float16
    assert (half.float() - full).abs().max() < 2.5e-4  # float16 below 1 rounds by 2.44e-4 at most


def test_no_old_classes_is_refused(tower: TinyTower, images: TensorImages) -> None:
    with pytest.raises(ValueError, match="old classes"):
        generate(tower, images, torch.zeros(0, JOINT), torch.zeros(0, RAW))


def test_a_limit_keeps_the_old_classes_that_are_nearest() -> None:
    best = torch.tensor([[0.2, 0.1], [0.9, 0.3], [0.5, 0.5], [0.6, 0.0]])
    assert choose_classes(best, count=2).tolist() == [1, 3]
    assert choose_classes(best, count=9).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("old_classes", "limit", "rate", "seeds"),
    [
        (1, 300, 1.0, 200),
        (7, 300, 1.0, 29),  # the next whole number: 203 in all
        (90, 300, 1.0, 3),
        (90, 200, 1.0, 2),  # no old class loses its anchors to the floor
        (500, 300, 1.0, 1),  # the limit takes classes, never seeds
        (7, None, 1.0, 29),
        (7, 300, 0.0, 1),  # where the image tower stands still
        (0, 300, 1.0, 1),
    ],
)
def test_few_old_classes_share_a_floor_of_anchors(old_classes: int, limit: int | None, rate: float, seeds: int) -> None:
    config = LearnerConfig(k_seed=1, min_anchors=200, max_anchors=limit, image_rate=rate).resolve(100.0)
    assert seeds_per_class(config, old_classes=old_classes) == seeds


def test_more_seeds_than_the_floor_asks_for_are_kept() -> None:
    config = LearnerConfig(k_seed=5, min_anchors=10, max_anchors=None).resolve(100.0)
    assert seeds_per_class(config, old_classes=90) == 5


def test_anchors_beyond_the_limit_are_not_made(
    tower: TinyTower, images: TensorImages, old_text: Tensor, prototypes: Tensor
) -> None:
    config = settings(k_seed=2, max_anchors=2, k_adv=1)
    anchors = generate_anchors(tower, images, old_text=old_text, prototypes=prototypes, config=config)
    whole = generate_anchors(
        tower, images, old_text=old_text, prototypes=prototypes, config=settings(k_seed=2, k_adv=1)
    )
    assert len(anchors.classes) == 2
    assert len(set(anchors.classes)) == 1
    places = [place for place, c in enumerate(whole.classes) if c == anchors.classes[0]]
    assert torch.equal(anchors.pixels, whole.pixels[places])
