"""Activations before the first adapted layer: computed once, read back as they were, and never held in memory."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from segp_cl.data.stem import StemInputs
from segp_cl.pixels import as_unit_pixels


class Counting:
    """Six pictures of 2x2 pixels that count how often each is read."""

    labels = (0, 0, 1, 1, 2, 2)

    def __init__(self) -> None:
        self.reads = [0] * 6
        self.everything = torch.randint(0, 256, (6, 3, 2, 2), generator=torch.Generator().manual_seed(0)).to(
            torch.uint8
        )

    def pixels(self, indices: Sequence[int]) -> Tensor:
        for index in indices:
            self.reads[index] += 1
        return self.everything[list(indices)]


def stem(pixels: Tensor) -> Tensor:
    return 3 * pixels.repeat(1, 2, 1, 1) - 1


def wanted(images: Counting, indices: Sequence[int]) -> Tensor:
    return stem(as_unit_pixels(images.everything[list(indices)]))


def test_every_image_passes_the_stem_once_and_comes_back_the_same(tmp_path: Path) -> None:
    images = Counting()
    inputs = StemInputs(images, stem, device=torch.device("cpu"), folder=tmp_path)
    for indices in ([0, 1, 2], [2, 5, 0], [3, 4, 1, 0], [5, 5, 5]):
        assert torch.equal(inputs.batch(indices), wanted(images, indices))
    assert images.reads == [1] * 6
    assert inputs.labels == images.labels


def test_the_file_has_no_name(tmp_path: Path) -> None:
    inputs = StemInputs(Counting(), stem, device=torch.device("cpu"), folder=tmp_path)
    inputs.batch([0, 1])
    assert list(tmp_path.iterdir()) == []


def test_without_a_stem_batches_are_pixels() -> None:
    images = Counting()
    inputs = StemInputs(images, None, device=torch.device("cpu"))
    assert torch.equal(inputs.batch([4, 1]), as_unit_pixels(images.everything[[4, 1]]))


def test_a_full_disk_costs_time_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = Counting()
    inputs = StemInputs(images, stem, device=torch.device("cpu"), folder=tmp_path)

    def full(*_: object) -> int:
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    for _ in range(2):
        assert torch.equal(inputs.batch([0, 3]), wanted(images, [0, 3]))
    assert images.reads == [2, 0, 0, 2, 0, 0]
