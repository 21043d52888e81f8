"""Learning by aligned merging: what the average makes of a task, and what alignment does on the way."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from segp_cl.config import StrategyName
from segp_cl.learn.learner import initial_state
from segp_cl.models.backbone import Backbone
from segp_cl.types import Learned, LearnerState
from tests.unit.segp_cl.learn.test_learner import FAST, learn, same, task_of

MERGING: tuple[StrategyName, StrategyName] = ("merge", "segp+merge")
ALONE: dict[StrategyName, StrategyName] = {"merge": "naive", "segp+merge": "segp"}


@pytest.fixture(scope="module")
def first(tiny_backbone: Backbone) -> LearnerState:
    return learn(tiny_backbone, initial_state(tiny_backbone), task_of(["red", "green"])).state


def second(backbone: Backbone, state: LearnerState, strategy: StrategyName, **settings: Any) -> Learned:
    config = FAST.model_copy(update={"strategy": strategy, "epochs": 6, **settings})
    return learn(backbone, state, task_of(["blue", "black"]), config)


def factors_of(state: LearnerState) -> dict[str, torch.Tensor]:
    assert state.lora is not None
    return {key: factors.b for key, factors in state.lora.factors.items()}


@pytest.mark.parametrize("strategy", MERGING)
def test_the_first_adapters_are_taken_as_they_are(tiny_backbone: Backbone, strategy: StrategyName) -> None:
    state = initial_state(tiny_backbone)
    merged, alone = (second(tiny_backbone, state, name) for name in (strategy, ALONE[strategy]))

    assert merged.report.misaligned is None
    assert same(merged.state, alone.state)


def test_with_all_of_the_weight_and_no_alignment_segp_is_what_it_is_without_merging(
    tiny_backbone: Backbone, first: LearnerState
) -> None:
    merged = second(tiny_backbone, first, "segp+merge", merge_weight=1.0, merge_period=None)

    assert same(merged.state, second(tiny_backbone, first, "segp").state)


def test_with_all_of_the_weight_and_no_alignment_the_adapters_are_those_of_fine_tuning(
    tiny_backbone: Backbone, first: LearnerState
) -> None:
    settings = {"transfer_prototypes": False}  # no anchors then, which would draw from the generator
    merged = second(tiny_backbone, first, "merge", merge_weight=1.0, merge_period=None, **settings)

    assert same(merged.state, second(tiny_backbone, first, "naive", **settings).state)


def test_without_weight_the_task_leaves_the_adapters_and_old_texts_as_they_are(
    tiny_backbone: Backbone, first: LearnerState
) -> None:
    learned = second(tiny_backbone, first, "merge", merge_weight=0.0)

    before, after = factors_of(first), factors_of(learned.state)
    assert all(torch.equal(after[key], b) for key, b in before.items())
    assert torch.allclose(learned.state.text_features[:2], first.text_features, atol=1e-6)
    assert torch.allclose(learned.state.prototypes[:2], first.prototypes, atol=1e-6)


def test_the_second_task_counts_half_unless_a_weight_is_set(tiny_backbone: Backbone, first: LearnerState) -> None:
    by_number, half = (second(tiny_backbone, first, "merge", merge_weight=weight) for weight in (None, 0.5))

    assert same(by_number.state, half.state)
    fine_tuned = factors_of(second(tiny_backbone, first, "merge", merge_weight=1.0).state)
    for key, merged in factors_of(by_number.state).items():
        torch.testing.assert_close(merged, (factors_of(first)[key] + fine_tuned[key]) / 2)


@pytest.mark.parametrize("strategy", MERGING)
@pytest.mark.parametrize("target", ["global", "zero"])
def test_alignment_lowers_the_share_of_misaligned_entries(
    tiny_backbone: Backbone, first: LearnerState, strategy: StrategyName, target: str
) -> None:
    shares = [
        second(
            tiny_backbone, first, strategy, learning_rate=0.05, merge_period=period, merge_top_share=top,
            merge_target=target,
        ).report.misaligned
        for period, top in ((None, 0.5), (3, 0.5), (1, 1.0))
    ]  # fmt: skip

    assert shares[0] is not None
    assert shares[1] is not None
    assert shares[1] < 0.8 * shares[0]
    assert shares[2] == 0.0


def test_prototypes_move_with_an_image_tower_that_is_trained(tiny_backbone: Backbone, first: LearnerState) -> None:
    moved = second(tiny_backbone, first, "merge", learning_rate=0.02)
    kept = second(tiny_backbone, first, "merge", learning_rate=0.02, image_rate=0.0)

    assert moved.report.anchors > kept.report.anchors == 0
    assert not torch.allclose(moved.state.prototypes[:2], first.prototypes, atol=1e-4)
    assert torch.allclose(kept.state.prototypes[:2], first.prototypes, atol=1e-6)
