from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from exchange.contracts import PathAccuracy
from segp_cl.data.image_sets import TensorImages
from segp_cl.runtime.classifier import Classifier
from segp_cl.types import LearnedClass, LearnerState, LoraState, ModelSpec
from worker.evaluation import evaluate
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
    found = evaluate(
        Classifier(MeanColour(), state),
        SeenAnew(images),
        classes=["blue", "red"],
        batch_size=2,
        on_batch=lambda step, steps: batches.append((step, steps)),
    )
    assert found.seen_classes == 3
    assert found.overall == PathAccuracy(images=5, text=0.4, visual=1.0, fused=0.4)
    assert found.per_class == {
        "red": PathAccuracy(images=2, text=1, visual=1, fused=1),
        "blue": PathAccuracy(images=3, text=0, visual=1, fused=0),
    }
    assert batches == [(1, 3), (2, 3), (3, 3)]
