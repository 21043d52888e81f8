"""From scores to accuracies and drift, worked by hand; and scores against the classifier that is served."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from benchmarks.accuracy import rows
from benchmarks.accuracy.datasets import Dataset
from benchmarks.accuracy.evaluate import (
    DRIFT_EDGES,
    Evaluator,
    TaskScores,
    accuracy_rows,
    answers,
    drift,
    frozen_stages,
    global_accuracy,
    jensen_shannon,
)
from benchmarks.accuracy.protocol import make_bench
from segp_cl.config import LearnerConfig
from segp_cl.learn.learner import initial_state, learn_task
from segp_cl.models.backbone import Backbone
from segp_cl.runtime.classifier import Classifier
from segp_cl.scores import text_scores
from segp_cl.types import LearnerState, LoraFactors

CONFIG = LearnerConfig(epochs=1, batch_size=4, k_adv=1)

# Two tasks: classes 0 and 1, then class 2. Images 0 and 1 are of task 0 (classes 0, 1), image 2 of task 1 (class 2).
LABELS = torch.tensor([0, 1, 2])
IMAGES, CLASSES = [2, 1], [2, 1]
FIRST = TaskScores(
    text=torch.tensor([[0.9, 0.1, 0.95], [0.6, 0.5, 0.0], [0.1, 0.2, 0.3]]),
    visual=torch.tensor([[0.0, 0.2], [0.1, 0.9], [0.5, 0.5]]),
    fusion_weight=1.0,
)
SECOND = TaskScores(
    text=torch.tensor([[0.9, 0.1, 0.95], [0.4, 0.5, 0.0], [0.5, 0.2, 0.3]]),
    visual=torch.tensor([[0.4, 0.3, 0.1], [0.9, 0.1, 0.2], [0.0, 0.1, 0.9]]),
    fusion_weight=0.1,
)


def rows_of(path: rows.Path) -> list[list[float]]:
    return accuracy_rows([FIRST, SECOND], LABELS, IMAGES, CLASSES, path)


def test_the_text_path_is_right_where_an_image_is_nearest_to_its_own_text_of_those_seen() -> None:
    # after task 0: image 0 right among two classes, image 1 wrong; task 1 is asked for among three, and right
    # after task 1: image 0 is drawn to class 2, image 1 right, image 2 wrong
    assert rows_of("text") == [[0.5, 1.0], [0.5, 0.0]]


def test_the_visual_path_answers_for_taught_classes_and_text_for_the_others() -> None:
    assert rows_of("visual") == [[0.5, 1.0], [0.5, 1.0]]


def test_the_fused_path_weighs_with_what_each_version_carries() -> None:
    # after task 0, weight 1: [0.9, 0.3] right, [0.7, 1.4] right
    # after task 1, weight 0.1: [0.94, 0.13, 0.96] wrong, [0.49, 0.51, 0.02] right, [0.5, 0.21, 0.39] wrong
    assert rows_of("fused") == [[1.0, 1.0], [0.5, 0.0]]


def test_the_global_protocol_asks_for_all_classes_by_text() -> None:
    assert global_accuracy(FIRST, LABELS) == pytest.approx(1 / 3)


def test_jensen_shannon_is_nothing_for_equal_and_ln_2_for_disjoint_distributions() -> None:
    p = torch.tensor([[0.5, 0.5, 0.0], [0.2, 0.3, 0.5]]).log()
    q = torch.tensor([[0.0, 0.0, 1.0], [0.2, 0.3, 0.5]]).log()

    assert jensen_shannon(p, p).tolist() == [0.0, 0.0]
    assert jensen_shannon(p, q).tolist() == pytest.approx([math.log(2), 0.0])


def test_jensen_shannon_is_symmetric_and_as_worked_by_hand() -> None:
    p, q = torch.tensor([[1.0, 0.0]]).log(), torch.tensor([[0.5, 0.5]]).log()
    # middle (3/4, 1/4): (ln(4/3) + (ln(2/3) + ln 2) / 2) / 2
    expected = (math.log(4 / 3) + (math.log(2 / 3) + math.log(2)) / 2) / 2

    assert jensen_shannon(p, q).item() == pytest.approx(expected)
    assert jensen_shannon(q, p).item() == pytest.approx(expected)


def scores(text: list[list[float]]) -> TaskScores:
    return TaskScores(torch.tensor(text), torch.zeros(len(text), 2), 1.0)


def test_drift_is_split_where_images_are_nearer_to_their_own_text() -> None:
    # margins before: 0.1, 0.8, -0.2, 0.5: near are images 2 and 0; only they move, both from p to its mirror image
    before = [[0.1, 0.0], [0.8, 0.0], [0.2, 0.0], [0.0, 0.5]]
    after = [[0.0, 0.1], [0.8, 0.0], [0.0, 0.2], [0.0, 0.5]]
    untaught = [[9.0, 9.0, 9.0]]  # an image of the new task, which has no part in it
    rest = [[*([*row, float(n)] for row in texts), *untaught] for n, texts in enumerate((before, after))]

    found = drift([scores(texts) for texts in rest], torch.tensor([0, 0, 1, 1, 2]), [4, 1], [2, 1], logit_scale=10.0)

    def mirrored(margin: float) -> float:
        p = 1 / (1 + math.exp(-10 * margin))
        return p * math.log(2 * p) + (1 - p) * math.log(2 * (1 - p))

    assert found is not None
    assert found.near_mean == pytest.approx((mirrored(0.1) + mirrored(0.2)) / 2, rel=1e-5)
    assert found.far_mean == pytest.approx(0, abs=1e-9)
    assert (sum(found.near), sum(found.far), found.far[0]) == (2, 2, 2)
    assert found.edges == DRIFT_EDGES


def test_images_that_are_all_equally_near_are_still_split_in_halves() -> None:
    same = scores([[0.5, 0.1, 0.0]] * 4)

    found = drift([same, same], torch.tensor([0, 0, 0, 2]), [3, 1], [2, 1], logit_scale=1.0)

    assert found is not None
    assert (sum(found.near), sum(found.far)) == (1, 2)


def test_there_is_no_drift_without_an_update_or_with_one_old_class() -> None:
    assert drift([FIRST], LABELS, [3], [3], logit_scale=1.0) is None
    assert drift([FIRST, SECOND], LABELS, [1, 2], [1, 2], logit_scale=1.0) is None


def test_scores_are_read_as_they_were_written(tmp_path: Path) -> None:
    FIRST.save(tmp_path / "scores.npz")
    read = TaskScores.load(tmp_path / "scores.npz")

    assert torch.equal(read.text, FIRST.text)
    assert torch.equal(read.visual, FIRST.visual)
    assert read.fusion_weight == FIRST.fusion_weight


class StagedTower(nn.Module):
    """An image tower whose first stage holds nothing that can be adapted; the head behind it can."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 4, stride=4)
        self.rest = nn.Sequential(nn.Conv2d(16, 32, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())

    def stages(self) -> tuple[nn.Module, ...]:
        return self.stem, self.rest

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        features: torch.Tensor = self.rest(self.stem(pixels))
        return features


def with_staged_tower(base: Backbone) -> Backbone:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        tower, head = StagedTower(), nn.Linear(32, base.joint_dim, bias=False)
    return Backbone(
        spec=base.spec,
        weights_digest="staged",
        image_tower=tower,
        head=head,
        text_tower=base.text_tower,
        tokenize=base.tokenize,
        logit_scale=base.logit_scale,
        preprocessing=base.preprocessing,
        adapts_head=True,
    )


def learned_on(backbone: Backbone, dataset: Dataset) -> LearnerState:
    """After the first of two tasks, with adapters that do something."""
    bench = make_bench(dataset, backbone.preprocessing, seed=0)
    generator = torch.Generator().manual_seed(0)
    state = learn_task(
        initial_state(backbone), bench.tasks[0], config=CONFIG, generator=generator, backbone=backbone
    ).state
    assert state.lora is not None
    factors = {
        name: LoraFactors(f.a, 0.3 * torch.randn(f.b.shape, generator=generator))
        for name, f in state.lora.factors.items()
    }
    return replace(state, lora=replace(state.lora, factors=factors))


@pytest.mark.parametrize("staged", [False, True])
def test_scores_are_those_of_the_classifier_that_is_served(
    tiny_backbone: Backbone, toys: Dataset, staged: bool
) -> None:
    backbone = with_staged_tower(tiny_backbone) if staged else tiny_backbone
    learned = learned_on(backbone, toys)
    assert frozen_stages(backbone, CONFIG) == int(staged)
    bench = make_bench(toys, tiny_backbone.preprocessing, seed=0)
    pixels = torch.cat([images.pixels(range(len(images.labels))) for images in bench.evaluation])

    measured = Evaluator(backbone, bench, CONFIG).scores(learned)

    classifier = Classifier(backbone, learned)
    served = classifier.scores(pixels)
    prompts = classifier.encode_prompts([c.prompt for c in bench.classes[2:]])
    asked = text_scores(classifier.features(pixels).image, prompts)
    torch.testing.assert_close(measured.text[:, :2], served.text.clone(), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(measured.text[:, 2:], asked.clone(), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(measured.visual, served.visual.clone(), atol=1e-5, rtol=1e-4)
    assert measured.fusion_weight == learned.fusion_weight


def test_untaught_classes_are_answered_as_the_service_answers(
    tiny_backbone: Backbone, toys: Dataset, tmp_path: Path
) -> None:
    config = CONFIG.model_copy(update={"image_rate": 0.0})
    bench = make_bench(toys, tiny_backbone.preprocessing, seed=0)
    generator = torch.Generator().manual_seed(0)
    learned = learn_task(
        initial_state(tiny_backbone), bench.tasks[0], config=config, generator=generator, backbone=tiny_backbone
    ).state
    pixels = torch.cat([images.pixels(range(len(images.labels))) for images in bench.evaluation])

    measured = Evaluator(tiny_backbone, bench, config).scores(learned)
    measured.save(tmp_path / "scores.npz")
    found = answers(TaskScores.load(tmp_path / "scores.npz"), slice(None), "fused", 4)

    classifier = Classifier(tiny_backbone, learned)
    features = classifier.features(pixels)
    scores = classifier.scores_of(features)
    texts = classifier.encode_untouched([c.prompt for c in bench.classes])
    asked = text_scores(classifier.untouched_image_features(pixels, features), texts)
    taught = classifier.class_probabilities(scores.fused, "fused")
    expected = classifier.open_probabilities(taught, scores.visual, asked)
    torch.testing.assert_close(found, expected.clone(), atol=1e-4, rtol=1e-3)


def test_an_untouched_model_sees_the_images_once_however_often_it_is_asked(
    tiny_backbone: Backbone, toys: Dataset
) -> None:
    learned = learned_on(tiny_backbone, toys)
    bench = make_bench(toys, tiny_backbone.preprocessing, seed=0)
    evaluator = Evaluator(tiny_backbone, bench, CONFIG)
    passes: list[int] = []
    hook = tiny_backbone.image_tower.register_forward_hook(lambda *_: passes.append(1))
    try:
        nothing = evaluator.scores(initial_state(tiny_backbone))
        prototypes = evaluator.scores(replace(learned, lora=None))
    finally:
        hook.remove()

    assert len(passes) == len(bench.tasks)
    assert nothing.visual.shape == (8, 0)
    torch.testing.assert_close(prototypes.text[:, 2:], nothing.text[:, 2:], atol=1e-6, rtol=0)
