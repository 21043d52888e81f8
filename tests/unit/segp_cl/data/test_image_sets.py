"""Labelled images are read when they are asked for, and leave nothing behind."""

from __future__ import annotations

import gc
import logging
import os
import tracemalloc
from pathlib import Path

import pytest
import torch

from segp_cl.data.image_sets import FolderImages, TensorImages
from segp_cl.data.preprocessing import Preprocessing, to_pixels
from segp_cl.errors import ImageDecodeError
from segp_cl.types import ImageSource
from tests.unit.segp_cl.data.pictures import encode, photo

SMALL = Preprocessing(size=16, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


def test_tensor_images_are_an_image_source() -> None:
    pixels = torch.arange(4, dtype=torch.uint8).view(4, 1, 1, 1).expand(4, 3, 2, 2).contiguous()
    source = TensorImages(pixels, [0, 0, 1, 1])
    assert isinstance(source, ImageSource)
    assert source.labels == (0, 0, 1, 1)
    assert source.pixels([3, 0])[:, 0, 0, 0].tolist() == [3, 0]


def test_images_and_labels_must_pair_up(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="2 images and 1 labels"):
        TensorImages(torch.zeros(2, 3, 2, 2, dtype=torch.uint8), [0])
    with pytest.raises(ValueError, match="1 images and 2 labels"):
        FolderImages([tmp_path / "a.png"], [0, 1], SMALL)


@pytest.mark.parametrize("threads", [1, 3])
def test_images_are_read_in_inference_mode_too(files: list[Path], threads: int) -> None:
    images = FolderImages(files, range(12), SMALL, threads=threads)
    with torch.inference_mode():
        assert torch.equal(images.pixels(range(12)), FolderImages(files, range(12), SMALL).pixels(range(12)))


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / f"{index}.png" for index in range(12)]
    for index, path in enumerate(paths):
        path.write_bytes(encode(photo(50, 40, seed=index), "PNG"))
    return paths


@pytest.mark.parametrize("threads", [1, 3])
def test_folder_images_are_read_in_the_order_asked_for(files: list[Path], threads: int) -> None:
    source = FolderImages(files, list(range(12)), SMALL, threads=threads)
    expected = torch.stack([to_pixels(photo(50, 40, seed=index), SMALL) for index in (7, 0, 7, 11)])
    assert isinstance(source, ImageSource)
    assert torch.equal(source.pixels([7, 0, 7, 11]), expected)
    assert source.pixels([]).shape == (0, 3, 16, 16)


def test_the_cache_gives_identical_pixels_without_the_files(files: list[Path], tmp_path: Path) -> None:
    source = FolderImages(files, [0] * 12, SMALL, cache=tmp_path)
    first = source.pixels(range(12))
    for path in files:
        path.unlink()
    assert torch.equal(source.pixels(range(12)), first)
    assert torch.equal(source.pixels([5, 2]), first[[5, 2]])


def test_an_image_not_yet_read_is_not_taken_from_the_cache(files: list[Path], tmp_path: Path) -> None:
    source = FolderImages(files, [0] * 12, SMALL, cache=tmp_path)
    source.pixels([3])
    expected = torch.stack([to_pixels(photo(50, 40, seed=index), SMALL) for index in (2, 3)])
    assert torch.equal(source.pixels([2, 3]), expected)


def test_the_cache_leaves_no_name_and_no_open_file_behind(files: list[Path], tmp_path: Path) -> None:
    gc.collect()  # files that tests before this one left open
    before = set(os.listdir("/proc/self/fd"))
    source = FolderImages(files, [0] * 12, SMALL, cache=tmp_path)
    source.pixels(range(12))
    assert sorted(tmp_path.iterdir()) == sorted(files)
    assert len(os.listdir("/proc/self/fd")) == len(before) + 1
    del source
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) == len(before)


def test_a_full_disk_costs_the_cache_not_the_task(
    files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    source = FolderImages(files, [0] * 12, SMALL, cache=tmp_path)
    monkeypatch.setattr(os, "pwrite", full)
    with caplog.at_level(logging.WARNING):
        first = source.pixels(range(12))
    assert torch.equal(source.pixels(range(12)), first)
    assert "No space left" in caplog.text


def test_a_missing_or_damaged_file_is_named(files: list[Path]) -> None:
    files[4].write_bytes(b"not an image")
    files[5].unlink()
    source = FolderImages(files, [0] * 12, SMALL)
    with pytest.raises(ImageDecodeError, match=r"^4\.png: expected an image"):
        source.pixels([3, 4])
    with pytest.raises(ImageDecodeError, match=r"^5\.png: .*No such file"):
        source.pixels([5])


def live_tensor_bytes() -> int:
    return sum(item.nbytes for item in gc.get_objects() if type(item) is torch.Tensor)


def test_memory_does_not_grow_with_the_number_of_images(files: list[Path], tmp_path: Path) -> None:
    big = Preprocessing(size=128, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    batch_bytes = 4 * 3 * 128 * 128
    source = FolderImages(files * 3, [0] * 36, big, cache=tmp_path)
    gc.collect()
    before = live_tensor_bytes()
    for _epoch in range(2):
        for start in range(0, 36, 4):
            assert source.pixels(range(start, start + 4)).nbytes == batch_bytes
            assert live_tensor_bytes() <= before + batch_bytes
    tracemalloc.start()  # what numpy and Pillow's Python side hold
    for start in range(0, 36, 4):
        source.pixels(range(start, start + 4))
    kept, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept < batch_bytes / 4
    assert peak < 2 * batch_bytes
