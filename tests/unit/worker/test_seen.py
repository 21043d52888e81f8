from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from segp_cl.data.image_sets import TensorImages
from segp_cl.data.row_file import RowFile
from segp_cl.runtime.classifier import Classifier
from tests.unit.worker.test_evaluation import MeanColour
from tests.unit.worker.test_evidence import STATE
from worker.seen import SeenAnew, SeenOnce

PIXELS = torch.arange(5, dtype=torch.uint8)[:, None, None, None].expand(5, 3, 4, 4).contiguous() * 50
IMAGES = TensorImages(PIXELS, [0, 1, 2, 0, 1])


class Counted(MeanColour):
    """Counts the images that pass its tower."""

    def __init__(self) -> None:
        self.passed = 0

    def raw_features(self, pixels: Tensor) -> Tensor:
        self.passed += len(pixels)
        return super().raw_features(pixels)

    def with_lora(self, lora: object) -> Counted:
        return self


def test_a_part_has_its_own_labels_and_features_either_way(tmp_path: Path) -> None:
    classifier = Classifier(MeanColour(), STATE)
    anew = SeenAnew(IMAGES).part([3, 1])
    once = SeenOnce(IMAGES, classifier, RowFile(5, folder=tmp_path)).part([3, 1])
    assert list(anew.labels) == list(once.labels) == [0, 1]
    for positions in ([0, 1], [1]):
        assert torch.equal(anew.by(classifier, positions).raw, once.by(classifier, positions).raw)
    assert torch.equal(once.part([1]).pixels([0]), PIXELS[[1]])
    assert torch.allclose(once.part([1]).raw_features([0]), torch.full((1, 3), 50 / 255))


def test_each_image_passes_once_for_all_parts(tmp_path: Path) -> None:
    model = Counted()
    classifier = Classifier(model, STATE)
    seen = SeenOnce(IMAGES, classifier, RowFile(5, folder=tmp_path))
    seen.part([0, 1]).by(classifier, [0, 1])
    seen.part([1, 2]).by(classifier, [0, 1])
    seen.raw_features([2, 2, 0])
    assert model.passed == 3


def test_a_full_disk_costs_time_and_nothing_else(tmp_path: Path) -> None:
    class Full(RowFile):
        def write(self, index: int, row: Tensor) -> None:
            raise OSError("no space is left")

    model = Counted()
    classifier = Classifier(model, STATE)
    seen = SeenOnce(IMAGES, classifier, Full(5, folder=tmp_path))
    for _ in range(2):
        assert torch.allclose(seen.raw_features([4, 4]), torch.full((2, 3), 200 / 255))
    assert model.passed == 2
