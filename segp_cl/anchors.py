"""Dual-targeted PGD (9)-(14): perturbs images of the new task until they represent old classes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from segp_cl.config import ResolvedConfig
from segp_cl.pixels import as_unit_pixels
from segp_cl.types import Anchors, ImageSource, OnProgress, Progress


@runtime_checkable
class ImageTower(Protocol):
    """The part of a model that DPGD uses; `segp_cl.models.backbone.Backbone` implements it."""

    @property
    def device(self) -> torch.device: ...

    def raw_features(self, pixels: Tensor) -> Tensor: ...
    def project(self, raw: Tensor) -> Tensor: ...
    def parameters(self) -> Iterator[nn.Parameter]: ...


def seed_scores(
    teacher_image: Float[Tensor, "image joint"], old_text: Float[Tensor, "old joint"]
) -> Float[Tensor, "image old"]:
    """Q(x, c) = v̄^T(x)·u^T_c (eq. 9): the similarity of every new image to every old class. Inputs have unit norm."""
    return teacher_image @ old_text.T


def seeds_per_class(config: ResolvedConfig, *, old_classes: int) -> int:
    """Return K_seed, or where the image tower is trained as many more as bring `min_anchors` in all.

    More than K_seed are taken only as far as all old classes stay within `max_anchors`. Where the tower is left as it
    is, anchors hold the texts alone, and nothing is gained by more (docs/adr/0035).
    """
    if config.image_rate == 0 or not old_classes:
        return config.k_seed
    wanted = math.ceil(config.min_anchors / old_classes)
    if config.max_anchors is not None:
        wanted = min(wanted, config.max_anchors // old_classes)
    return max(config.k_seed, wanted)


def choose_seeds(scores: Float[Tensor, "image old"], *, k: int) -> Int64[Tensor, "old seed"]:
    """Return the top K_seed images of every old class by (eq. 9), best first; all images if there are fewer than `k`.

    Of images with equal scores the first is taken.
    """
    return scores.sort(dim=0, descending=True, stable=True).indices[:k].T


def choose_classes(best_scores: Float[Tensor, "old seed"], *, count: int) -> Int64[Tensor, " some"]:
    """Return the `count` old classes with the nearest best seeds (eq. 9), ascending: an update may harm these most."""
    if count >= len(best_scores):
        return torch.arange(len(best_scores))
    return best_scores[:, 0].sort(descending=True, stable=True).indices[:count].sort().values


def adversarial_loss(
    teacher_image: Float[Tensor, "anchor joint"],
    old_text: Float[Tensor, "old joint"],
    targets: Int64[Tensor, " anchor"],
    *,
    tau: float,
) -> Float[Tensor, " anchor"]:
    """L_adv = -log softmax_{j in C_<t}(v̄^T(x+δ)·u^T_j / τ)[c] (eq. 11), one value per anchor, from unit norms."""
    return F.cross_entropy(teacher_image @ old_text.T / tau, targets, reduction="none")


def visual_adversarial_loss(
    teacher_raw: Float[Tensor, "anchor raw"],
    prototypes: Float[Tensor, "old raw"],
    targets: Int64[Tensor, " anchor"],
) -> Float[Tensor, " anchor"]:
    """L_v-adv = 1 - r̄^T(x+δ)·μ_{t-1,c} (eq. 12), one value per anchor. `teacher_raw` is normalised here."""
    return 1 - (F.normalize(teacher_raw, dim=-1) * prototypes[targets]).sum(dim=-1)


def anchor_loss(
    adversarial: Float[Tensor, " anchor"], visual: Float[Tensor, " anchor"], *, lambda_p: float
) -> Float[Tensor, " anchor"]:
    """L'_adv = L_adv + λ_p L_v-adv (eq. 13)."""
    return adversarial + lambda_p * visual


def sign_step(
    delta: Float[Tensor, "anchor 3 height width"],
    gradient: Float[Tensor, "anchor 3 height width"],
    *,
    step_size: float,
    epsilon: float,
) -> Float[Tensor, "anchor 3 height width"]:
    """δ <- clip_ε(δ - γ sign ∇L'_adv) (eq. 14). All in [0, 1] pixels; clipped by the maximum norm."""
    return (delta - step_size * gradient.sign()).clamp(-epsilon, epsilon)


def drive(
    teacher: ImageTower,
    seeds: Float[Tensor, "anchor 3 height width"],
    targets: Int64[Tensor, " anchor"],
    *,
    old_text: Float[Tensor, "old joint"],
    prototypes: Float[Tensor, "old raw"],
    config: ResolvedConfig,
    dtype: torch.dtype = torch.float32,
) -> tuple[Float[Tensor, "anchor 3 height width"], float | None]:
    """Drive one batch of seeds towards their targets: K_adv sign steps (eq. 14) from δ = 0, clamped to [0, 1].

    The losses of the batch are summed, so its size does not affect any anchor.

    Returns:
        The perturbed pixels, and the mean of (eq. 13) before the last step (None if there was no step).
    """
    delta = torch.zeros_like(seeds)
    mean: float | None = None
    for _ in range(config.k_adv):
        delta.requires_grad_()
        with torch.enable_grad():
            with torch.autocast(seeds.device.type, dtype=dtype, enabled=dtype != torch.float32):
                raw = teacher.raw_features(seeds + delta)
                image = teacher.project(raw)
            losses = anchor_loss(
                adversarial_loss(image.float(), old_text, targets, tau=config.tau_adv),
                visual_adversarial_loss(raw.float(), prototypes, targets),
                lambda_p=config.lambda_p,
            )
            (gradient,) = torch.autograd.grad(losses.sum(), delta)
        delta = sign_step(delta.detach(), gradient, step_size=config.step_size_pixels, epsilon=config.epsilon_pixels)
        delta = (seeds + delta).clamp(0, 1) - seeds
        mean = losses.mean().item()
    return (seeds + delta).clamp(0, 1), mean


def generate_anchors(
    teacher: ImageTower,
    images: ImageSource,
    *,
    old_text: Float[Tensor, "old joint"],
    prototypes: Float[Tensor, "old raw"],
    config: ResolvedConfig,
    on_progress: OnProgress | None = None,
    dtype: torch.dtype = torch.float32,
    storage: torch.dtype = torch.float32,
    image_features: Callable[[Sequence[int]], Tensor] | None = None,
) -> Anchors:
    """Make A_t: for every old class its K_seed nearest new images, driven towards it (eqs. 9-14). No success filter.

    Deterministic. The images are read twice, in batches of `feature_batch_size` to rank them and of `dpgd_batch_size`
    to drive the chosen ones; besides the anchors, only the scores of each old class's best K_seed images are held.
    The teacher must be in evaluation mode; its parameters and their gradients do not change.

    Args:
        teacher: the model at the end of the previous task.
        images: the new task's images; at least one.
        old_text: the teacher's u_c of all old classes, unit norm, on the teacher's device.
        prototypes: μ_{t-1} of all old classes, unit norm, on the teacher's device.
        config: the update's hyper-parameters.
        on_progress: called after every batch of both passes with phase `anchors`.
        dtype: of the forward passes (autocast unless float32); losses are always float32.
        storage: of the anchors' pixels, on the CPU. float16 halves their memory and moves a pixel by less than 2.5e-4,
            a thirtieth of a sign step.
        image_features: a faster way to the teacher's v̄ of the images at given positions; None: from their pixels.

    Returns:
        `seeds_per_class` anchors (at most one per image) for each old class in turn, nearest seed first; if those
        exceed `max_anchors`, only for the old classes nearest to the new images.
    """
    batches = math.ceil(len(images.labels) / config.feature_batch_size)
    per_class = min(seeds_per_class(config, old_classes=len(old_text)), len(images.labels))
    driven_classes = len(old_text)
    if config.max_anchors is not None and per_class:
        driven_classes = min(driven_classes, max(1, config.max_anchors // per_class))
    anchors = driven_classes * per_class
    steps = batches + math.ceil(anchors / config.dpgd_batch_size)

    def report(step: int, loss: float | None) -> None:
        if on_progress is not None:
            on_progress(Progress("anchors", step, steps, {} if loss is None else {"anchor": loss}))

    with _frozen(teacher):
        features = image_features or _of_pixels(teacher, images, dtype)
        best_scores, best_images = _rank(features, len(images.labels), old_text, per_class, config, report)
        nearest = choose_classes(best_scores, count=driven_classes)
        seeds, targets = best_images[nearest].flatten(), nearest.repeat_interleave(per_class)
        pixels: Tensor | None = None
        for number, start in enumerate(range(0, anchors, config.dpgd_batch_size)):
            batch = slice(start, start + config.dpgd_batch_size)
            driven, loss = drive(
                teacher,
                as_unit_pixels(images.pixels(seeds[batch].tolist()).to(teacher.device)),
                targets[batch].to(teacher.device),
                old_text=old_text,
                prototypes=prototypes,
                config=config,
                dtype=dtype,
            )
            if pixels is None:  # the image size is now known; joining pieces instead would need twice the memory
                pixels = torch.empty((anchors, *driven.shape[1:]), dtype=storage)
            pixels[batch] = driven.to("cpu", storage)
            report(batches + number + 1, loss)
    if pixels is None:
        raise ValueError(f"anchors need old classes and images, got {len(old_text)} and {len(images.labels)}")
    return Anchors(pixels=pixels, classes=tuple(targets.tolist()))


def _of_pixels(teacher: ImageTower, images: ImageSource, dtype: torch.dtype) -> Callable[[Sequence[int]], Tensor]:
    def image_features(indices: Sequence[int]) -> Tensor:
        pixels = as_unit_pixels(images.pixels(indices).to(teacher.device))
        with torch.no_grad(), torch.autocast(pixels.device.type, dtype=dtype, enabled=dtype != torch.float32):
            return teacher.project(teacher.raw_features(pixels))

    return image_features


def _rank(
    image_features: Callable[[Sequence[int]], Tensor],
    images: int,
    old_text: Float[Tensor, "old joint"],
    k: int,
    config: ResolvedConfig,
    report: Callable[[int, float | None], None],
) -> tuple[Float[Tensor, "old seed"], Int64[Tensor, "old seed"]]:
    """Run `choose_seeds` over a stream, with scores; between batches only each class's best K_seed are held."""
    best_scores = torch.empty((0, len(old_text)), device=old_text.device)
    best_images = torch.empty((0, len(old_text)), dtype=torch.int64, device=old_text.device)
    for number, indices in enumerate(_batches(images, config.feature_batch_size)):
        scores = torch.cat([best_scores, seed_scores(image_features(indices).float(), old_text)])
        positions = torch.tensor(indices, device=old_text.device)[:, None].expand(-1, len(old_text))
        # earlier images come first, so ties are resolved as in a single batch
        chosen = choose_seeds(scores, k=k).T
        best_scores, best_images = scores.gather(0, chosen), torch.cat([best_images, positions]).gather(0, chosen)
        report(number + 1, None)
    return best_scores.T.cpu(), best_images.T.cpu()


def _batches(count: int, size: int) -> Iterator[Sequence[int]]:
    for start in range(0, count, size):
        yield range(start, min(start + size, count))


@contextmanager
def _frozen(model: ImageTower) -> Iterator[None]:
    """Switch off the parameters' gradients: only δ's is needed, which halves the cost."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)
