"""The fast way against the exact one, on pictures that are smooth and noisy as photos are."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from segp_cl.data.decoding import decode_image
from segp_cl.data.preprocessing import Preprocessing, to_pixels
from segp_cl.errors import ImageDecodeError
from segp_cl.runtime.fast_decoding import SPARE, fast_pixels

SIZE = 16
BICUBIC = Preprocessing(SIZE, (0.5,) * 3, (0.5,) * 3)
SCALED_FROM = 2 * SPARE * SIZE  # the shorter side from which on a JPEG is unpacked at a half


def photo(width: int, height: int, seed: int = 0) -> Image.Image:
    """Shapes of many sizes under a little noise."""
    rng = np.random.default_rng(seed)
    picture = np.zeros((height, width, 3))
    for cells, weight in ((3, 120.0), (7, 60.0), (15, 30.0)):
        coarse = Image.fromarray(rng.integers(0, 256, (cells, cells, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), dtype=np.float64)
        picture += (smooth / 255) * weight
    noisy = picture + rng.normal(0, 4, picture.shape)
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


def encode(image: Image.Image, kind: str = "JPEG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **({"quality": 90} | options if kind == "JPEG" else options))
    return buffer.getvalue()


def differences(data: bytes, preprocessing: Preprocessing = BICUBIC) -> torch.Tensor:
    exact = to_pixels(decode_image(data), preprocessing)
    fast = fast_pixels(data, preprocessing)
    assert fast.is_contiguous()
    assert (fast.shape, fast.dtype) == (exact.shape, exact.dtype)
    return (fast.int() - exact.int()).abs()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("size", [(101, 77), (77, 101), (33, 32), (32, 32), (31, 47), (200, 33), (9, 9), (1, 1)])
def test_what_is_not_unpacked_at_a_fraction_differs_by_two_levels_at_most(size: tuple[int, int], kind: str) -> None:
    assert differences(encode(photo(*size), kind)).max() <= 2


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("resize", ["shortest", "squash"])
@pytest.mark.parametrize(
    "size",
    [(SCALED_FROM, SCALED_FROM), (SCALED_FROM + 78, SCALED_FROM + 2), (520, 392), (392, 520), (1032, 776)],
)
def test_a_large_jpeg_unpacked_at_a_fraction_is_close(size: tuple[int, int], resize: str, interpolation: str) -> None:
    preprocessing = Preprocessing(SIZE, (0.5,) * 3, (0.5,) * 3, interpolation, resize)  # type: ignore[arg-type]
    found = differences(encode(photo(*size)), preprocessing).float()
    assert found.mean() < 1
    assert found.max() <= 6


def test_a_large_jpeg_is_unpacked_at_the_smallest_fraction_that_leaves_enough() -> None:
    data = encode(photo(320, 264))
    sizes = {side: decode_image(data, at_least=side).size for side in (1, 33, 34, 66, 67, 132, 133)}
    eighth, quarter, half, whole = (40, 33), (80, 66), (160, 132), (320, 264)
    assert sizes == {1: eighth, 33: eighth, 34: quarter, 66: quarter, 67: half, 132: half, 133: whole}


@pytest.mark.parametrize(
    ("size", "unpacked"), [((324, 264), (81, 66)), ((320, 262), (160, 131)), ((321, 264), (321, 264))]
)
def test_a_fraction_that_leaves_a_rest_is_not_taken(size: tuple[int, int], unpacked: tuple[int, int]) -> None:
    assert decode_image(encode(photo(*size)), at_least=1).size == unpacked


def test_only_jpegs_are_unpacked_at_a_fraction() -> None:
    for kind in ("PNG", "WEBP", "TIFF"):
        assert decode_image(encode(photo(320, 264), kind), at_least=1).size == (320, 264)


@pytest.mark.parametrize("mode", ["L", "CMYK"])
@pytest.mark.parametrize("size", [(90, 70), (SCALED_FROM + 50, SCALED_FROM + 2)])
def test_grey_and_cmyk_jpegs_are_close(mode: str, size: tuple[int, int]) -> None:
    found = differences(encode(photo(*size).convert(mode))).float()
    assert found.mean() < 1
    assert found.max() <= 6


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_applied_to_what_was_unpacked_at_a_fraction(orientation: int, progressive: bool) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(photo(SCALED_FROM + 90, SCALED_FROM + 4), exif=exif, progressive=progressive)
    found = differences(data).float()
    assert found.mean() < 1
    assert found.max() <= 6


@pytest.mark.parametrize("size", [(60, 40), (SCALED_FROM + 50, SCALED_FROM)])
def test_a_truncated_jpeg_is_refused(size: tuple[int, int]) -> None:
    data = encode(photo(*size))
    for length in (20, len(data) // 3, len(data) * 3 // 4):
        with pytest.raises(ImageDecodeError, match="truncated or damaged"):
            fast_pixels(data[:length], BICUBIC)


def test_the_pixel_limit_counts_the_picture_in_its_own_size() -> None:
    data = encode(photo(SCALED_FROM, SCALED_FROM))
    assert fast_pixels(data, BICUBIC, max_pixels=SCALED_FROM**2).shape == (3, SIZE, SIZE)
    with pytest.raises(ImageDecodeError, match=f"at most {SCALED_FROM**2 - 1}"):
        fast_pixels(data, BICUBIC, max_pixels=SCALED_FROM**2 - 1)


def test_a_long_strip_is_cut_before_it_is_scaled() -> None:
    assert differences(encode(Image.new("RGB", (60_000, 1), (10, 20, 30)), "PNG")).max() <= 2
