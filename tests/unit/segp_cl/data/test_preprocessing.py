"""Pictures become the pixels that the models were trained on."""

from __future__ import annotations

import open_clip.transform
import pytest
import torch
from PIL import Image

from segp_cl.data.preprocessing import Preprocessing, to_pixels
from tests.unit.segp_cl.data.pictures import photo

SMALL = Preprocessing(size=16, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("resize", ["shortest", "squash"])
@pytest.mark.parametrize("size", [(640, 427), (427, 640), (33, 47), (32, 32), (100, 32), (31, 500), (32, 33)])
def test_pixels_equal_open_clips_own_evaluation_transform(
    interpolation: str, resize: str, size: tuple[int, int]
) -> None:
    image = photo(*size)
    theirs = open_clip.transform.image_transform(
        32, is_train=False, mean=(0,) * 3, std=(1,) * 3, interpolation=interpolation, resize_mode=resize
    )(image)
    ours = to_pixels(image, Preprocessing(32, (0.0,) * 3, (1.0,) * 3, interpolation, resize))  # type: ignore[arg-type]
    assert ours.is_contiguous()
    assert torch.equal(ours, (theirs * 255).round().to(torch.uint8))


@pytest.mark.parametrize("size", [(1_000_000, 1), (1, 1_000_000)])
def test_an_extreme_strip_is_scaled_without_extreme_memory(size: tuple[int, int]) -> None:
    pixels = to_pixels(Image.new("RGB", size, (10, 20, 30)), SMALL)
    assert pixels[:, 8, 8].tolist() == [10, 20, 30]
