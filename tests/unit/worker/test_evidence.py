"""What is measured for the gate, on a model whose features are the images' mean colours."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from segp_cl.data.image_sets import TensorImages
from segp_cl.runtime.classifier import Classifier
from segp_cl.runtime.golden import GoldenAnswers
from segp_cl.types import LearnedClass, LearnerState, LoraState, ModelSpec, Scores
from tests.unit.worker.test_evaluation import MeanColour
from worker.evidence import SAMPLES_PER_CLASS, OldClasses, Tally, evenly, not_finite
from worker.seen import SeenAnew

NAMES = ("red", "green", "blue")
STATE = LearnerState(
    model=ModelSpec(),
    weights_digest="d",
    classes=tuple(LearnedClass(name, name, 1, 1) for name in NAMES),
    prototypes=torch.eye(3),
    text_features=torch.eye(3),
    lora=None,
    fusion_weight=1.0,
    covariance=0.01 * torch.eye(3),
)
GREY = SeenAnew(TensorImages(torch.full((2, 3, 4, 4), 100, dtype=torch.uint8), [0, 0]))


class Turned(MeanColour):
    """A tower whose features are far from those of `MeanColour`, and nearly the same for all images."""

    def raw_features(self, pixels: Tensor) -> Tensor:
        return super().raw_features(pixels) + torch.tensor([0.0, 0.0, 1000.0])

    def with_lora(self, lora: LoraState | None) -> Turned:
        return self


def scores(fused: list[list[float]]) -> Scores:
    numbers = torch.tensor(fused, dtype=torch.float32)
    return Scores(text=numbers, visual=numbers, fused=numbers)


def test_answers_are_counted_by_class_and_what_is_not_finite_is_wrong() -> None:
    tally = Tally(Classifier(MeanColour(), STATE))
    tally.add(scores([[1, 0, 0], [0, 1, 0]]), torch.tensor([0, 0]))
    tally.add(scores([[0, 0, 1], [float("nan"), 0, 0]]), torch.tensor([2, 0]))
    found = tally.answers()
    assert found.by_class == {"red": (3, 1), "blue": (1, 1)}
    assert (found.images, found.right, found.distinct, found.not_finite) == (4, 2, 3, 1)
    expected = torch.softmax(torch.tensor([10.0 / 2, 0, 0]), dim=0)[0]  # the logit scale over 1 + beta
    assert abs(found.top_probability - float(expected)) < 1e-6


def test_images_are_chosen_evenly_from_all_classes() -> None:
    labels = [0] * 10 + [1] * 2 + [2] * 3
    assert evenly(labels, range(15), most=7) == (0, 1, 2, 10, 11, 12, 13)
    assert evenly(labels, (3, 14), most=7) == (3, 14)


def test_old_classes_are_all_right_if_nothing_has_changed() -> None:
    parent = Classifier(MeanColour(), STATE)
    kept = OldClasses(parent, GREY, but=["green"])
    assert set(kept.answers_before.by_class) == {"red", "blue"}
    assert kept.answers_before.images == 2 * SAMPLES_PER_CLASS
    assert kept.after(parent) == kept.answers_before
    assert OldClasses(parent, GREY, but=["green"]).answers_before == kept.answers_before


def test_without_a_covariance_the_prototypes_are_classified() -> None:
    parent = Classifier(MeanColour(), replace(STATE, covariance=None))
    assert OldClasses(parent, GREY, but=[]).answers_before.by_class == dict.fromkeys(NAMES, (1, 1))


def test_swapped_prototypes_lose_the_old_classes() -> None:
    kept = OldClasses(Classifier(MeanColour(), STATE), GREY, but=[])
    swapped = replace(STATE, prototypes=torch.eye(3)[[1, 0, 2]], text_features=torch.eye(3)[[1, 0, 2]])
    after = kept.after(Classifier(MeanColour(), swapped)).by_class
    assert [right for _, right in after.values()] == [0, 0, SAMPLES_PER_CLASS]


def test_a_tower_that_moves_all_features_loses_the_old_classes_although_all_that_is_stored_is_the_same() -> None:
    kept = OldClasses(Classifier(MeanColour(), STATE), GREY, but=["blue"])
    assert kept.answers_before.right == kept.answers_before.images
    assert kept.after(Classifier(Turned(), STATE)).right == 0


def test_numbers_of_golden_answers_that_are_not_finite_are_counted() -> None:
    sound = GoldenAnswers(raw=torch.zeros(2, 3), image=torch.zeros(2, 3), scores=torch.zeros(2, 3))
    assert not_finite(sound) == 0
    broken = torch.tensor([[0, float("inf"), 0], [float("nan"), 0, 0]])
    assert not_finite(replace(sound, scores=broken, raw=broken)) == 4
