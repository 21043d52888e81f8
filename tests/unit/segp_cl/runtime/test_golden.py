from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from segp_cl.learn.learner import initial_state
from segp_cl.models.backbone import Backbone
from segp_cl.runtime.classifier import Classifier
from segp_cl.runtime.golden import GoldenAnswersError, pictures, record, replay, replay_features
from segp_cl.types import LearnedClass, LearnerState


@pytest.fixture
def state(tiny_backbone: Backbone) -> LearnerState:
    generator = torch.Generator().manual_seed(0)
    prompts = ["a photo of a cat.", "a photo of a dog."]
    return replace(
        initial_state(tiny_backbone),
        classes=tuple(LearnedClass(prompt, prompt, 1, 5) for prompt in prompts),
        prototypes=F.normalize(torch.randn(2, tiny_backbone.raw_dim, generator=generator), dim=-1),
        text_features=tiny_backbone.text_features(prompts).clone(),
        tasks=1,
    )


def test_the_pictures_are_always_the_same_and_no_two_are_alike() -> None:
    first, again = pictures(32), pictures(32)
    assert torch.equal(first, again)
    assert float(first.min()) >= 0.0
    assert float(first.max()) <= 1.0
    assert float((first[0] - first[1]).abs().mean()) > 0.1


def test_a_version_answers_its_own_checks(tiny_backbone: Backbone, state: LearnerState) -> None:
    golden = record(Classifier(tiny_backbone, state), 32)
    assert golden.raw.shape == (2, tiny_backbone.raw_dim)
    assert golden.scores.shape == (2, 2)
    replay(Classifier(tiny_backbone, state), golden, 32)


def test_a_version_without_classes_has_checks_too(tiny_backbone: Backbone) -> None:
    classifier = Classifier(tiny_backbone, initial_state(tiny_backbone))
    golden = record(classifier, 32)
    assert golden.scores.shape == (2, 0)
    replay(classifier, golden, 32)


def test_other_prototypes_texts_weights_and_classes_are_noticed(tiny_backbone: Backbone, state: LearnerState) -> None:
    golden = record(Classifier(tiny_backbone, state), 32)
    for other in (
        replace(state, prototypes=-state.prototypes),
        replace(state, text_features=-state.text_features),
        replace(state, fusion_weight=state.fusion_weight + 1),
    ):
        with pytest.raises(GoldenAnswersError, match="scores differ"):
            replay_features(Classifier(tiny_backbone, other), golden)
    fewer = replace(
        state, classes=state.classes[:1], prototypes=state.prototypes[:1], text_features=state.text_features[:1]
    )
    with pytest.raises(GoldenAnswersError, match="1 classes"):
        replay_features(Classifier(tiny_backbone, fewer), golden)
    with pytest.raises(GoldenAnswersError, match="image tower"):
        replay(Classifier(tiny_backbone, state), replace(golden, raw=golden.raw.flip(1)), 32)
    with pytest.raises(GoldenAnswersError, match="projection"):
        replay_features(Classifier(tiny_backbone, state), replace(golden, image=-golden.image))


def test_values_that_are_no_numbers_are_noticed(tiny_backbone: Backbone, state: LearnerState) -> None:
    classifier = Classifier(tiny_backbone, state)
    golden = record(classifier, 32)
    for broken in (
        replace(golden, raw=golden.raw * torch.nan),
        replace(golden, scores=golden.scores * torch.nan),
    ):
        with pytest.raises(GoldenAnswersError):
            replay(classifier, broken, 32)
