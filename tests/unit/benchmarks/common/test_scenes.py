"""Pictures, states and steps that are made up."""

from __future__ import annotations

import pytest
import torch

from benchmarks.common.scenes import RandomImages, state_with, take_steps, task_of
from segp_cl.config import LearnerConfig
from segp_cl.models.backbone import Backbone
from segp_cl.types import ImageSource


def test_pictures_follow_from_their_index_alone() -> None:
    images = RandomImages(100, size=8, classes=3)
    assert isinstance(images, ImageSource)
    batch = images.pixels([7, 3, 7])
    assert batch.shape == (3, 3, 8, 8)
    assert batch.dtype == torch.uint8
    assert torch.equal(batch[0], batch[2])
    assert not torch.equal(batch[0], batch[1])
    assert torch.equal(RandomImages(9, size=8, classes=2).pixels([3])[0], batch[1])
    assert not torch.equal(RandomImages(9, size=8, classes=2, seed=1).pixels([3])[0], batch[1])


def test_pictures_are_made_when_asked_for() -> None:
    # 3.8 TB if they were held
    images = RandomImages(100_000, size=3600, classes=10)
    assert images.pixels([99_999]).shape == (1, 3, 3600, 3600)
    assert [images.labels.count(label) for label in range(10)] == [10_000] * 10


def test_old_classes_need_no_training(tiny_backbone: Backbone) -> None:
    state = state_with(tiny_backbone, 12)
    new = task_of(3, RandomImages(3, size=32, classes=3))
    assert len(state.classes) == 12
    assert state.lora is None
    assert torch.allclose(state.prototypes.norm(dim=1), torch.ones(12))
    assert not set(state.class_names) & {c.name for c in new.classes}


def test_an_update_ends_with_the_last_step_that_is_wanted(tiny_backbone: Backbone) -> None:
    state, task = state_with(tiny_backbone, 2), task_of(2, RandomImages(8, size=32, classes=2))
    config = LearnerConfig(strategy="naive", rank=2, batch_size=4, epochs=2)
    done: list[int] = []
    take_steps(tiny_backbone, state, task, config, steps=3, on_step=done.append)
    assert done == [1, 2, 3]
    with pytest.raises(RuntimeError, match="before its step 9"):
        take_steps(tiny_backbone, state, task, config, steps=9, on_step=done.append)
