from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from exchange.contracts import ClassAccuracy, Evaluation, OverallAccuracy
from segp_cl.data.image_sets import TensorImages
from segp_cl.runtime.classifier import Classifier
from segp_cl.types import LearnedClass, LearnerState, LoraState, ModelSpec
from worker.evaluation import answered, evaluation_of
from worker.seen import SeenAnew


class MeanColour:
    """A model whose raw and projected features are both the image's mean colour."""

    weights_digest = "d"
    logit_scale = 10.0
    device = torch.device("cpu")

    def raw_features(self, pixels: Tensor) -> Tensor:
        return pixels.mean(dim=(2, 3))

    def project(self, raw: Tensor) -> Tensor:
        return F.normalize(raw, dim=-1)

    def text_features(self, prompts: Sequence[str]) -> Tensor:
        return torch.zeros(len(prompts), 3)

    def check_lora(self, lora: LoraState | None) -> None:
        """Any will do."""

    def with_lora(self, lora: LoraState | None) -> MeanColour:
        return self


def test_accuracies_by_path_and_class_over_all_seen_classes() -> None:
    # prototypes know the colours; the texts of "green" and "blue" are swapped; fusion leans on the texts
    names = ("red", "green", "blue")
    state = LearnerState(
        model=ModelSpec(),
        weights_digest="d",
        classes=tuple(LearnedClass(name, name, 1, 1) for name in names),
        prototypes=torch.eye(3),
        text_features=torch.eye(3)[[0, 2, 1]],
        lora=None,
        fusion_weight=0.5,
    )
    colours = torch.eye(3, dtype=torch.uint8)[[2, 0, 0, 2, 2]] * 255
    images = TensorImages(colours[:, :, None, None].expand(-1, -1, 4, 4).contiguous(), [0, 1, 1, 0, 0])
    batches: list[tuple[int, int]] = []
    measured = answered(
        Classifier(MeanColour(), state),
        SeenAnew(images),
        classes=["blue", "red"],
        batch_size=2,
        on_batch=lambda step, steps: batches.append((step, steps)),
    )
    found = evaluation_of(names, [measured], classes_not_measured=1)
    assert found is not None
    assert found.seen_classes == 3
    assert found.overall == OverallAccuracy(images=5, text=0.4, visual=1.0, fused=0.4, classes_not_measured=1)
    assert found.per_class == {
        "red": ClassAccuracy(images=2, text=1, visual=1, fused=1),
        "blue": ClassAccuracy(images=3, text=0, visual=1, fused=0),
    }
    assert batches == [(1, 3), (2, 3), (3, 3)]


def test_an_evaluation_of_an_earlier_release_is_of_held_out_images() -> None:
    figures = {"images": 4, "text": 0.5, "visual": 0.75, "fused": 1.0}
    found = Evaluation.model_validate({"seen_classes": 1, "overall": figures, "per_class": {"cat": figures}})
    assert (found.overall.left_one_out, found.per_class["cat"].how) == (0, "held_out")
    assert found.fused("held_out") == ({"cat": (4, 4)}, 1.0)
    assert found.fused("left_one_out") == ({}, None)


def test_nothing_measured_is_no_evaluation() -> None:
    assert evaluation_of(("red",), [], classes_not_measured=1) is None
