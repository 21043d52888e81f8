"""Alignment of the head: old classes that a task has run over come back, from statistics alone."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segp_cl.alignment import align_head
from segp_cl.config import LearnerConfig
from segp_cl.data.image_sets import TensorImages
from segp_cl.errors import InvalidTaskError
from segp_cl.learn.learner import initial_state, learn_task
from segp_cl.models.backbone import Backbone
from segp_cl.statistics import FeatureSampler
from segp_cl.types import LearnerState, Progress, Task, TaskClass

CLASSES, RAW, JOINT = 6, 12, 4


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Scene:
    """Features of six classes that a random linear head cannot tell apart."""

    def __init__(self) -> None:
        self.prototypes = F.normalize(torch.randn(CLASSES, RAW, generator=generator(1)), dim=-1)
        self.covariance = 0.01 * torch.eye(RAW)
        self.texts = F.normalize(torch.randn(CLASSES, JOINT, generator=generator(2)), dim=-1)
        self.head = nn.Parameter(torch.randn(JOINT, RAW, generator=generator(3)) / 10)

    def project(self, raw: Tensor) -> Tensor:
        return F.normalize(F.linear(raw, self.head), dim=-1)

    def align(self, steps: int = 150, reports: list[Progress] | None = None) -> None:
        source, sampler = generator(), FeatureSampler(self.prototypes, self.covariance)
        align_head(
            self.project,
            [self.head],
            lambda classes: sampler.draw(classes, torch.tensor(3.0), generator=source),
            self.texts,
            logit_scale=10.0,
            steps=steps,
            batch_size=64,
            learning_rate=0.05,
            generator=source,
            on_progress=None if reports is None else reports.append,
        )

    @torch.no_grad()
    def accuracies(self) -> Tensor:
        """By class, of features that were not drawn in training."""
        labels = torch.arange(CLASSES).repeat_interleave(50)
        raw = FeatureSampler(self.prototypes, self.covariance).draw(labels, torch.tensor(3.0), generator=generator(9))
        right = (self.project(raw) @ self.texts.T).argmax(dim=1) == labels
        return right.view(CLASSES, -1).float().mean(dim=1)


def test_every_class_is_told_apart_afterwards() -> None:
    scene = Scene()
    assert scene.accuracies().min() < 0.2
    scene.align()
    assert scene.accuracies().min() > 0.8


def test_progress_tells_every_step_and_a_falling_loss() -> None:
    reports: list[Progress] = []
    Scene().align(steps=30, reports=reports)
    assert [(r.phase, r.step, r.steps) for r in reports] == [("align", step, 30) for step in range(1, 31)]
    assert reports[-1].losses["alignment"] < reports[0].losses["alignment"]


def test_the_same_generator_gives_the_same_head() -> None:
    one, other = Scene(), Scene()
    one.align(steps=5)
    other.align(steps=5)
    assert torch.equal(one.head, other.head)


@pytest.fixture(scope="module")
def with_head(tiny_backbone: Backbone) -> Backbone:
    """A small model whose head is an adaptable linear."""
    model = tiny_backbone.shared_copy()
    head = nn.Linear(model.raw_dim, model.joint_dim, bias=False)
    nn.init.normal_(head.weight, generator=generator(4))
    model.head = head.requires_grad_(False)
    model.adapts_head = True
    return model


SETTINGS = LearnerConfig(
    rank=2, head_rank=8, epochs=1, batch_size=8, k_adv=1, learning_rate=0.01, fusion_weight=1.0, align_steps=30
)


def one_task(model: Backbone, config: LearnerConfig) -> LearnerState:
    pixels = torch.rand(12, 3, 32, 32, generator=generator())
    pixels[::2, 0] *= 0.3
    classes = (TaskClass("dark", "a photo of dark."), TaskClass("light", "a photo of light."))
    task = Task("first", classes, TensorImages((255 * pixels).to(torch.uint8), [0, 1] * 6))
    return learn_task(initial_state(model), task, config=config, generator=generator(), backbone=model).state


def test_an_update_aligns_the_head_and_nothing_else(with_head: Backbone) -> None:
    aligned, not_aligned = (one_task(with_head, SETTINGS.model_copy(update={"align_steps": n})) for n in (30, 0))
    assert aligned.lora is not None
    assert not_aligned.lora is not None
    changed = {key for key, f in aligned.lora.factors.items() if not torch.equal(f.b, not_aligned.lora.factors[key].b)}
    assert changed == {"head.weight"}
    assert aligned.lora.factors["head.weight"].a.shape == (8, with_head.raw_dim)
    assert {len(f.a) for key, f in aligned.lora.factors.items() if key not in changed} == {2}
    assert torch.equal(aligned.prototypes, not_aligned.prototypes)
    assert torch.equal(aligned.text_features, not_aligned.text_features)


def test_without_statistics_or_with_another_strategy_nothing_is_aligned(with_head: Backbone) -> None:
    for settings in ({"whiten": False}, {"strategy": "naive"}):
        states = [one_task(with_head, SETTINGS.model_copy(update={**settings, "align_steps": n})) for n in (30, 0)]
        heads = [state.lora.factors["head.weight"].b for state in states if state.lora]
        assert torch.equal(*heads)


def test_a_later_task_cannot_change_the_head_s_rank(with_head: Backbone) -> None:
    state = one_task(with_head, SETTINGS)
    images = TensorImages(torch.zeros(2, 3, 32, 32, dtype=torch.uint8), [0, 0])
    task = Task("more", (TaskClass("more", "more"),), images)
    with pytest.raises(InvalidTaskError, match="head_rank was set to 8"):
        learn_task(
            state,
            task,
            config=SETTINGS.model_copy(update={"head_rank": 4}),
            generator=generator(),
            backbone=with_head,
        )
