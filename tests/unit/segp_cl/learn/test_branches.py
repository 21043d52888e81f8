"""Two branches of one state, merged: held against learning both tasks one after the other."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from segp_cl.branches import MergeError
from segp_cl.config import LearnerConfig, StrategyName
from segp_cl.learn.branches import merge_branches
from segp_cl.learn.learner import initial_state, learn_task
from segp_cl.models.backbone import Backbone
from segp_cl.runtime.classifier import Classifier
from segp_cl.types import Learned, LearnerState, Progress
from tests.tolerances import FLOAT32_REORDERED, FLOAT64_REORDERED
from tests.unit.segp_cl.learn.test_learner import FAST, coloured, task_of


def learn(backbone: Backbone, state: LearnerState, names: list[str], config: LearnerConfig) -> LearnerState:
    generator = torch.Generator().manual_seed(len(names[0]))
    return learn_task(state, task_of(names, 10), config=config, generator=generator, backbone=backbone).state


def merge(
    backbone: Backbone, base: LearnerState, ours: LearnerState, theirs: LearnerState, config: LearnerConfig
) -> Learned:
    return merge_branches(
        base,
        ours,
        theirs,
        backbone=backbone,
        config=config,
        generator=torch.Generator().manual_seed(0),
        norm=torch.tensor(1.0),
    )


def branches(
    backbone: Backbone, config: LearnerConfig
) -> tuple[LearnerState, LearnerState, LearnerState, LearnerState]:
    base = learn(backbone, initial_state(backbone), ["red", "green"], config)
    ours, theirs = learn(backbone, base, ["blue"], config), learn(backbone, base, ["white", "black"], config)
    return base, ours, theirs, learn(backbone, ours, ["white", "black"], config)


def test_without_training_a_merge_is_the_same_as_one_after_the_other(tiny_backbone: Backbone) -> None:
    config = FAST.model_copy(update={"strategy": "prototypes"})
    base, ours, theirs, both = branches(tiny_backbone, config)
    merged = merge(tiny_backbone, base, ours, theirs, config).state
    assert merged.classes == both.classes
    assert merged.tasks == both.tasks == 3
    assert merged.sums is not None
    assert both.sums is not None
    assert torch.allclose(merged.sums.sums, both.sums.sums, atol=FLOAT64_REORDERED)
    assert merged.sums.scatter is not None
    assert both.sums.scatter is not None
    assert torch.allclose(merged.sums.scatter, both.sums.scatter, atol=FLOAT64_REORDERED)
    assert torch.allclose(merged.text_features, both.text_features, atol=FLOAT32_REORDERED)
    pixels = torch.cat([coloured(name, 4, 99) for name in ("red", "blue", "black")])
    one, other = (Classifier(tiny_backbone, state).scores(pixels).visual for state in (merged, both))
    assert torch.allclose(one, other, atol=1e-4)


@pytest.mark.parametrize("strategy", ["segp", "naive"])
def test_a_merge_of_trained_branches_knows_the_classes_of_both(tiny_backbone: Backbone, strategy: StrategyName) -> None:
    config = FAST.model_copy(update={"strategy": strategy, "image_rate": 0.0})
    base, ours, theirs, _ = branches(tiny_backbone, config)
    merged = merge(tiny_backbone, base, ours, theirs, config)
    classifier = Classifier(tiny_backbone, merged.state)
    names = ["red", "green", "blue", "white", "black"]
    assert list(merged.state.class_names) == names
    pixels = torch.cat([coloured(name, 4, 7) for name in names])
    truth = torch.arange(5).repeat_interleave(4)
    assert float((classifier.scores(pixels).fused.argmax(dim=1) == truth).float().mean()) >= 0.8
    assert merged.state.lora is not None
    assert ours.lora is not None
    assert set(merged.state.lora.factors) == set(ours.lora.factors)
    assert merged.state.held_out is not None
    assert theirs.held_out is not None
    assert merged.state.held_out.classes == 5
    assert merged.state.calibration is not None
    # the next task goes on from it
    assert len(learn(tiny_backbone, merged.state, ["yellow"], config).classes) == 6


def test_branches_without_a_common_adapter_merge_too(tiny_backbone: Backbone) -> None:
    config = FAST.model_copy(update={"image_rate": 0.0})
    base = initial_state(tiny_backbone)
    ours, theirs = (learn(tiny_backbone, base, names, config) for names in (["red", "blue"], ["white", "black"]))
    merged = merge(tiny_backbone, base, ours, theirs, config).state
    pixels = torch.cat([coloured(name, 4, 7) for name in merged.class_names])
    answers = Classifier(tiny_backbone, merged).scores(pixels).fused.argmax(dim=1)
    assert float((answers == torch.arange(4).repeat_interleave(4)).float().mean()) >= 0.8


def test_a_merge_is_the_same_every_time_and_changes_nothing_else(tiny_backbone: Backbone) -> None:
    base, ours, theirs, _ = branches(tiny_backbone, FAST)
    before = [state.text_features.clone() for state in (base, ours, theirs)]
    first, second = (merge(tiny_backbone, base, ours, theirs, FAST).state for _ in range(2))
    assert torch.equal(first.text_features, second.text_features)
    assert first.lora is not None
    assert second.lora is not None
    assert all(torch.equal(f.b, second.lora.factors[key].b) for key, f in first.lora.factors.items())
    assert all(torch.equal(a, b.text_features) for a, b in zip(before, (base, ours, theirs), strict=True))


def test_other_weights_are_refused_and_steps_are_told(tiny_backbone: Backbone) -> None:
    base, ours, theirs, _ = branches(tiny_backbone, FAST)
    with pytest.raises(MergeError, match="different base weights"):
        merge(tiny_backbone, base, ours, replace(theirs, weights_digest="other"), FAST)
    seen: list[Progress] = []
    config = FAST.model_copy(update={"align_steps": 3})
    merge_branches(
        base,
        ours,
        theirs,
        backbone=tiny_backbone,
        config=config,
        generator=torch.Generator().manual_seed(0),
        norm=torch.tensor(1.0),
        on_progress=seen.append,
    )
    assert [step.step for step in seen if step.phase == "align"] == ([1, 2, 3] if tiny_backbone.adapts_head else [])
