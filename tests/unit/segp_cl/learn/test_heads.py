"""The head's alignment on what its linear layer makes of samples, beside the same on the samples themselves."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segp_cl.alignment import align_head
from segp_cl.config import LearnerConfig
from segp_cl.learn.heads import align_adapted_head
from segp_cl.models.backbone import Backbone
from segp_cl.models.compact import SoftmaxHead
from segp_cl.models.lora import Adapters
from segp_cl.statistics import FeatureSampler
from segp_cl.types import HEAD
from tests.tolerances import FLOAT32_REORDERED

CLASSES, NORM = 5, torch.tensor(3.0)
SETTINGS = LearnerConfig(head_rank=8, align_steps=12, align_batch_size=32, learning_rate=0.01)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def drawn(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=generator(seed))


@pytest.fixture(params=["linear", "with a bias", "softmax"])
def model(tiny_backbone: Backbone, request: pytest.FixtureRequest) -> Backbone:
    """A small model whose head is adapted."""
    made = tiny_backbone.shared_copy()
    outputs = 7 if request.param == "softmax" else made.joint_dim
    linear = nn.Linear(made.raw_dim, outputs, bias=request.param != "linear")
    for seed, parameter in enumerate(linear.parameters(), start=4):
        nn.init.normal_(parameter, generator=generator(seed))
    head = SoftmaxHead(linear, drawn(7, made.joint_dim, seed=6)) if request.param == "softmax" else linear
    made.head = head.requires_grad_(False)
    made.adapts_head = True
    return made


def adapted(model: Backbone) -> tuple[Backbone, Adapters]:
    copy = model.shared_copy()
    return copy, copy.adapt(SETTINGS, None, generator=generator(1))


def test_it_trains_the_adapter_as_on_the_samples_themselves(model: Backbone) -> None:
    texts = F.normalize(drawn(CLASSES, model.joint_dim, seed=2), dim=-1)
    # without a covariance every sample is its class's mean, whatever noise was drawn
    sampler = FeatureSampler(F.normalize(drawn(CLASSES, model.raw_dim, seed=3), dim=-1), None)
    config = model.resolve(SETTINGS)

    fast, its = adapted(model)
    align_adapted_head(fast, its, sampler, texts, norm=NORM, config=config, generator=generator())

    slow, reference = adapted(model)
    source = generator()

    def draw(classes: Tensor) -> Tensor:
        torch.randint(1, classes.shape, generator=source)  # which row of noise
        return sampler.draw(classes, NORM, generator=source)

    align_head(
        slow.project,
        reference.trainable_of(HEAD),
        draw,
        texts,
        logit_scale=slow.logit_scale,
        steps=config.align_steps,
        batch_size=config.align_batch_size,
        learning_rate=config.learning_rate,
        generator=source,
    )
    (ours,), (theirs,) = its.trainable_of(HEAD), reference.trainable_of(HEAD)
    assert ours.abs().max() > 0.05
    assert (ours - theirs).abs().max() < 10 * FLOAT32_REORDERED, "Adam makes rounding of the first steps larger"
    assert all(b.abs().max() == 0 for b in its.trainable_of("text"))


def test_mapped_samples_are_spread_as_mapped_features_are() -> None:
    raw, out, rows = 6, 4, 20_000
    spread = drawn(raw, raw, seed=1) / 20
    covariance, matrix = spread @ spread.T, drawn(out, raw, seed=2)
    sampler = FeatureSampler(F.normalize(drawn(CLASSES, raw, seed=3), dim=-1), covariance)
    mapped = sampler.mapped(matrix, NORM, rows=rows, generator=generator())
    classes = torch.full((rows,), 2)
    found = mapped.draw(classes, generator=generator(7))
    expected = sampler.draw(classes, NORM, generator=generator(8)) @ matrix.T
    assert torch.allclose(mapped.means[2], expected.mean(dim=0), atol=0.05)
    assert torch.allclose(found.mean(dim=0), expected.mean(dim=0), atol=0.05)
    assert torch.allclose(found.T.cov(), expected.T.cov(), atol=0.05)
    assert expected.T.cov().abs().max() > 0.3
