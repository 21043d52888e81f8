"""Images left out in turn: which ones, and what is answered without them."""

from __future__ import annotations

import torch

from segp_cl.data.held_out import Split
from segp_cl.data.image_sets import TensorImages
from segp_cl.runtime.classifier import Classifier
from segp_cl.statistics import MomentSums
from segp_cl.types import LearnedClass, LearnerState, ModelSpec
from tests.unit.worker.test_evaluation import MeanColour
from worker.evaluation import evaluation_of
from worker.left_out import MOST_LEFT_OUT, leave_one_out, to_leave_out
from worker.seen import SeenAnew

# one red is green by mistake: without it the two others are red, and it is taken for green
COLOURS = [[200, 10, 10], [200, 30, 10], [10, 200, 10], [20, 210, 10], [10, 200, 30], [10, 190, 20], [10, 10, 200]]
LABELS = [0, 0, 0, 1, 1, 1, 2]
NAMES = ("red", "green", "blue")


def test_the_figures_are_those_of_versions_without_each_image() -> None:
    pixels = torch.tensor(COLOURS, dtype=torch.uint8)[:, :, None, None].expand(-1, -1, 4, 4).contiguous()
    sums = MomentSums(3)
    sums.add(MeanColour().raw_features(pixels / 255), torch.tensor(LABELS))
    state = LearnerState(
        model=ModelSpec(),
        weights_digest="d",
        classes=tuple(LearnedClass(name, name, 1, LABELS.count(row)) for row, name in enumerate(NAMES)),
        prototypes=sums.total().means,
        text_features=torch.eye(3),
        lora=None,
        fusion_weight=100.0,
        sums=sums.total(),
    )
    batches: list[tuple[int, int]] = []
    found = leave_one_out(
        Classifier(MeanColour(), state),
        SeenAnew(TensorImages(pixels, LABELS)),
        classes=NAMES,
        batch_size=4,
        on_batch=lambda step, steps: batches.append((step, steps)),
    )
    assert batches == [(1, 2), (2, 2)]
    assert found.right["text"].tolist() == [True, True, False, True, True, True, True]
    # with its own images the visual path has the only blue one right; without it, it does not know blue
    assert found.right["visual"].tolist() == [True, True, False, True, True, True, False]
    assert found.right["fused"].tolist() == [True, True, False, True, True, True, True]  # blue: by its text
    evaluation = evaluation_of(NAMES, [found])
    assert evaluation is not None
    assert (evaluation.overall.left_one_out, evaluation.overall.only_images) == (7, 1)
    assert {name: each.how for name, each in evaluation.per_class.items()} == dict.fromkeys(NAMES, "left_one_out")


def test_images_of_classes_without_held_out_ones_are_left_out_evenly() -> None:
    labels = [0] * 6 + [1] * 3 + [2]
    split = Split(train=(1, 2, 3, 4, 5, 6, 7, 8, 9), held_out=(0,))
    assert to_leave_out(labels, split, fraction=0.1) == (6, 7, 8, 9)
    assert to_leave_out(labels, split, fraction=0) == ()
    many = [position // 4 for position in range(4 * MOST_LEFT_OUT)]
    chosen = to_leave_out(many, Split(train=tuple(range(len(many))), held_out=()), fraction=0.1)
    assert sorted(many[position] for position in chosen) == list(range(MOST_LEFT_OUT))
