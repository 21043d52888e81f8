"""The classifier that server and worker share."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import cast

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segp_cl.errors import IncompatibleStateError
from segp_cl.odds import MULTIPLIERS, SHARES
from segp_cl.runtime.classifier import Classifier, NoClassesError, embedding_space
from segp_cl.scores import fused_scores, predict, probabilities, text_scores
from segp_cl.statistics import MomentSums
from segp_cl.types import (
    Calibration,
    Familiarity,
    HeldOutSummary,
    LearnedClass,
    LearnerState,
    LoraFactors,
    LoraState,
    ModelSpec,
    Path,
)
from tests.tolerances import FLOAT32_REORDERED


class FakeModel(nn.Module):
    """Raw features are the picture's mean colour through a matrix; an adapter adds scale * b @ a to that matrix."""

    weights_digest = "d" * 64
    logit_scale = 20.0
    device = torch.device("cpu")

    def __init__(self, matrix: Tensor) -> None:
        super().__init__()
        self.matrix = nn.Parameter(matrix)

    def raw_features(self, pixels: Tensor) -> Tensor:
        assert pixels.dtype == torch.float32
        return pixels.mean(dim=(2, 3)) @ self.matrix.T

    def project(self, raw: Tensor) -> Tensor:
        return F.normalize(raw[:, :2], dim=-1)

    def text_features(self, prompts: Sequence[str]) -> Tensor:
        angles = torch.tensor([len(prompt) / 10 for prompt in prompts])
        return torch.stack([angles.cos(), angles.sin()], dim=-1)

    def check_lora(self, lora: LoraState | None) -> None:
        """Any will do."""

    def with_lora(self, lora: LoraState | None) -> FakeModel:
        matrix = self.matrix.detach().clone()
        if lora is not None:
            (factors,) = lora.factors.values()
            matrix += lora.scale * factors.b @ factors.a
        return FakeModel(matrix)


def state_of(classes: int = 2) -> LearnerState:
    return LearnerState(
        model=ModelSpec("fake"),
        weights_digest="d" * 64,
        classes=tuple(LearnedClass(f"c{index}", f"a photo of a c{index}.", 1, 5) for index in range(classes)),
        prototypes=torch.eye(3)[:classes],
        text_features=torch.eye(2)[:classes],
        lora=None,
        fusion_weight=0.5,
        tasks=1,
    )


@pytest.fixture
def base() -> FakeModel:
    return FakeModel(torch.eye(3))


def coloured(*colours: tuple[int, int, int]) -> Tensor:
    return torch.tensor(colours, dtype=torch.uint8)[:, :, None, None].expand(-1, -1, 4, 4).contiguous()


def test_the_classifier_scores_pixels_by_both_paths(base: FakeModel) -> None:
    # mean colour (0.6, 0.8, 0): image (0.6, 0.8), prototypes e0 and e1, so both paths say 0.6 and 0.8
    scores = Classifier(base, state_of()).scores(coloured((153, 204, 0)))
    assert torch.allclose(scores.text, torch.tensor([[0.6, 0.8]]), atol=FLOAT32_REORDERED)
    assert torch.allclose(scores.visual, torch.tensor([[0.6, 0.8]]), atol=FLOAT32_REORDERED)
    assert torch.allclose(scores.fused, torch.tensor([[0.9, 1.2]]), atol=FLOAT32_REORDERED)


def test_bytes_and_unit_floats_give_the_same_scores(base: FakeModel) -> None:
    classifier, pixels = Classifier(base, state_of()), coloured((153, 204, 0), (10, 20, 30))
    assert torch.equal(classifier.scores(pixels).fused, classifier.scores(pixels.float() / 255).fused)


def test_features_once_give_the_scores_of_every_path(base: FakeModel) -> None:
    classifier, pixels = Classifier(base, state_of()), coloured((1, 2, 3), (90, 20, 30))
    assert torch.equal(classifier.scores_of(classifier.features(pixels)).fused, classifier.scores(pixels).fused)


def test_the_classifier_runs_without_gradients(base: FakeModel) -> None:
    classifier = Classifier(base, state_of())
    features = classifier.features(coloured((1, 2, 3)))
    tensors = [features.raw, features.image, classifier.scores_of(features).fused, classifier.encode_prompts(["cat"])]
    assert not any(tensor.requires_grad for tensor in tensors)


def test_adapters_are_merged_into_a_copy(base: FakeModel) -> None:
    swap = LoraFactors(a=torch.tensor([[1.0, -1.0, 0.0]]), b=torch.tensor([[-1.0], [1.0], [0.0]]))  # exchanges e0, e1
    adapted = Classifier(base, replace(state_of(), lora=LoraState(rank=1, scale=1.0, factors={"image.matrix": swap})))
    pixels = coloured((255, 0, 0))
    assert predict(Classifier(base, state_of()).scores(pixels).fused).tolist() == [0]
    assert predict(adapted.scores(pixels).fused).tolist() == [1]
    assert torch.equal(base.matrix, torch.eye(3))


@pytest.mark.parametrize("target", ["image.matrix", "head.matrix"])
def test_the_base_models_features_are_there_whatever_is_adapted(base: FakeModel, target: str) -> None:
    swap = LoraFactors(a=torch.tensor([[1.0, -1.0, 0.0]]), b=torch.tensor([[-1.0], [1.0], [0.0]]))
    state = replace(state_of(), lora=LoraState(rank=1, scale=1.0, factors={target: swap}))
    assert state.moves_image_tower == target.startswith("image.")
    adapted, pixels = Classifier(base, state), coloured((255, 0, 0), (0, 51, 255))
    features = adapted.features(pixels)
    if not state.moves_image_tower:  # the fake's matrix makes raw features, which no head's adapter would move
        features = Classifier(base, state_of()).features(pixels)
    found = adapted.untouched_image_features(pixels, features)
    assert torch.equal(found, Classifier(base, state_of()).features(pixels).image)
    assert torch.equal(adapted.encode_untouched(["cat"]), base.text_features(["cat"]))


def test_taught_classes_share_the_probability_that_the_image_shows_one(base: FakeModel) -> None:
    # without whitening there is text evidence alone: 20 * (0.5 - 0.4) = 2 logits for the classes
    state = replace(state_of(), familiarity=Familiarity(visual=9.0, text=0.5, offset=-1.0, images=3))
    classifier = Classifier(base, state)
    taught, text = torch.tensor([[0.75, 0.25]]), torch.tensor([[0.5, 0.1, 0.4, 0.4]])
    found = classifier.open_probabilities(taught, torch.tensor([[0.9, 0.2]]), text)
    assert torch.allclose(found, torch.tensor([[0.375, 0.125, 0.25, 0.25]]), atol=FLOAT32_REORDERED)
    assert torch.equal(classifier.open_probabilities(taught, taught, text[:, :2]), taught)


def test_a_state_of_other_weights_is_refused(base: FakeModel) -> None:
    with pytest.raises(IncompatibleStateError, match=r"eeeeeeeeeeee \(fake\), but .* dddddddddddd"):
        Classifier(base, replace(state_of(), weights_digest="e" * 64))


def test_a_state_whose_tensors_do_not_fit_is_refused(base: FakeModel) -> None:
    with pytest.raises(IncompatibleStateError, match="2 classes, but holds 3 prototypes"):
        Classifier(base, replace(state_of(2), prototypes=torch.eye(3), text_features=torch.ones(3, 2)))


def test_a_state_without_classes_answers_labels_only(base: FakeModel) -> None:
    classifier, pixels = Classifier(base, state_of(classes=0)), coloured((1, 2, 3))
    with pytest.raises(NoClassesError, match="no classes yet"):
        classifier.scores(pixels)
    labels = classifier.encode_prompts(["cat", "dog"])
    assert text_scores(classifier.features(pixels).image, labels).shape == (1, 2)


def test_probabilities_use_the_models_own_scale(base: FakeModel) -> None:
    classifier, scores = Classifier(base, state_of()), torch.tensor([[0.3, 0.1]])
    assert classifier.logit_scale == 20.0
    assert torch.equal(classifier.probabilities(scores), probabilities(scores, logit_scale=20.0))


def test_fused_probabilities_are_no_sharper_than_a_branch_that_agrees_with_itself(base: FakeModel) -> None:
    """Where both branches give the same cosines, fusing them changes no probability."""
    classifier, cosines = Classifier(base, state_of()), torch.tensor([[0.3, 0.1]])
    fused = fused_scores(cosines, cosines, fusion_weight=classifier.state.fusion_weight)
    expected = classifier.probabilities(cosines)
    assert torch.allclose(classifier.class_probabilities(fused, "fused"), expected, atol=FLOAT32_REORDERED)
    assert torch.equal(classifier.class_probabilities(cosines, "text"), expected)


def test_calibrated_probabilities_use_each_paths_own_scale(base: FakeModel) -> None:
    state = replace(state_of(), calibration=Calibration(text=5.0, visual=7.0, fused=9.0, images=40))
    classifier, scores = Classifier(base, state), torch.tensor([[0.3, 0.1]])
    for path, scale in (("text", 5.0), ("visual", 7.0)):
        found = classifier.class_probabilities(scores, cast(Path, path))
        assert torch.equal(found, probabilities(scores, logit_scale=scale))
    weighted = probabilities(scores / (1 + state.fusion_weight), logit_scale=9.0)
    assert torch.equal(classifier.class_probabilities(scores, "fused"), weighted)
    assert torch.equal(classifier.probabilities(scores), probabilities(scores, logit_scale=20.0))  # words of any kind


def test_a_batch_of_any_size_is_answered_as_its_images_alone(base: FakeModel) -> None:
    classifier = Classifier(base, state_of())
    pixels = torch.randint(0, 256, (37, 3, 2, 2), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    alone = torch.cat([classifier.features(pixels[i : i + 1]).image for i in range(len(pixels))])
    assert torch.allclose(classifier.features(pixels).image, alone, atol=FLOAT32_REORDERED)


def test_many_threads_get_the_same_answers(base: FakeModel) -> None:
    classifier, pixels = Classifier(base, state_of()), coloured((153, 204, 0))
    expected = classifier.scores(pixels).fused
    with ThreadPoolExecutor(8) as pool:
        assert all(torch.equal(scores.fused, expected) for scores in pool.map(classifier.scores, [pixels] * 64))


def test_the_space_is_named_after_what_vectors_depend_on_and_nothing_else() -> None:
    blank = state_of()
    factors = LoraFactors(a=torch.ones(1, 3), b=torch.ones(2, 1))
    lora = LoraState(1, 1.0, {"image.x": factors, "text.x": factors})
    adapted = replace(blank, lora=lora)
    moved = {**lora.factors, "text.x": replace(factors, b=2 * factors.b)}
    others = [
        blank,
        replace(blank, weights_digest="other"),
        replace(adapted, lora=replace(lora, scale=0.5)),
        replace(adapted, lora=replace(lora, factors=moved)),
        replace(adapted, lora=replace(lora, factors={"image.x": factors})),
        replace(adapted, lora=replace(lora, factors={"image.x": factors, "text.y": factors})),
    ]
    assert len({embedding_space(state) for state in (adapted, *others)}) == 7
    backwards = replace(lora, factors=dict(reversed(list(lora.factors.items()))))
    assert embedding_space(replace(adapted, lora=backwards)) == embedding_space(adapted)
    assert embedding_space(replace(state_of(1), fusion_weight=9.0)) == embedding_space(blank)


def with_held_out(odds: float = 2.0) -> LearnerState:
    """Two classes of ten images around two axes, and held-out images whose odds and strangeness are all the same."""
    raw = torch.eye(3)[:2].repeat_interleave(10, dim=0) + 0.1 * torch.randn(
        20, 3, generator=torch.Generator().manual_seed(0)
    )
    sums = MomentSums(2)
    sums.add(raw, torch.arange(2).repeat_interleave(10))
    kept = torch.full((MULTIPLIERS, SHARES), odds, dtype=torch.float64)
    summary = HeldOutSummary(
        {"text": kept, "visual": kept, "fused": kept},
        torch.zeros(SHARES, dtype=torch.float64),
        images=99,
        classes=2,
        nobody_spread=1.05,
    )
    return replace(state_of(), sums=sums.total(), held_out=summary)


def test_a_set_takes_labels_as_likely_as_right_ones_were(base: FakeModel) -> None:
    classifier = Classifier(base, with_held_out(odds=2.0))
    assert classifier.least_probability("fused", 0.9) == pytest.approx(torch.sigmoid(torch.tensor(2.0)).item())
    assert classifier.least_probability("fused", 0.999) == 0.0  # 99 images cannot promise that
    assert Classifier(base, state_of()).least_probability("fused", 0.9) is None


def test_an_image_that_is_like_no_class_looks_strange(base: FakeModel) -> None:
    classifier = Classifier(base, with_held_out())
    scores = classifier.scores_of(classifier.features_of(torch.tensor([[1.0, 0.05, 0.0], [-1.0, -1.0, 1.0]])))
    known, other = classifier.strangeness(scores), classifier.unknown_scores(scores)
    assert known is not None
    assert known[0] < 0 < known[1]
    assert other == pytest.approx([0.0, 0.99])


def test_a_state_that_kept_too_little_calls_nothing_unknown(base: FakeModel) -> None:
    full, raw = with_held_out(), torch.tensor([[-1.0, -1.0, 1.0]])
    for state in (state_of(), replace(full, held_out=None)):
        classifier = Classifier(base, state)
        assert classifier.unknown_scores(classifier.scores_of(classifier.features_of(raw))) is None


def test_a_weighted_mean_lies_between_its_scores(base: FakeModel) -> None:
    classifier, text, visual = Classifier(base, state_of()), torch.tensor([[0.1, 0.4]]), torch.tensor([[0.7, 0.1]])
    mean = classifier.weighted_mean(fused_scores(text, visual, fusion_weight=classifier.state.fusion_weight))
    assert torch.allclose(mean, torch.tensor([[0.3, 0.3]]))
