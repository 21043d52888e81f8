"""Bytes from strangers become pixels, or a clear refusal."""

from __future__ import annotations

import gc
import io
import logging
import os
import struct
import tracemalloc
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import open_clip.transform
import pytest
import torch
from PIL import Image, ImageOps

from segp_cl.data.decoding import decode_image
from segp_cl.data.image_sets import FolderImages, TensorImages
from segp_cl.data.preprocessing import Preprocessing, to_pixels
from segp_cl.errors import ImageDecodeError
from segp_cl.pixels import as_unit_pixels
from segp_cl.types import ImageSource

SMALL = Preprocessing(size=16, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


def encode(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def photo(width: int = 40, height: int = 30, seed: int = 0) -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 256, (height // 5 + 1, width // 5 + 1, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)


def png_header_only(width: int, height: int) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


def refuse_quietly(data: bytes, says: str) -> None:
    """The bytes are refused, and nothing is said through Python's warnings."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with pytest.raises(ImageDecodeError, match=says):
            decode_image(data)
    assert caught == []


def pixel(image: Image.Image, x: int = 0, y: int = 0) -> tuple[int, int, int]:
    red, green, blue = np.asarray(image)[y, x].tolist()
    return red, green, blue


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF"])
def test_lossless_formats_decode_to_the_same_pixels(kind: str) -> None:
    decoded = decode_image(encode(photo(), kind))
    assert decoded.mode == "RGB"
    assert np.array_equal(np.asarray(decoded), np.asarray(photo()))


@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
def test_lossy_formats_decode_closely(kind: str) -> None:
    decoded = np.asarray(decode_image(encode(photo(), kind, quality=95))).astype(int)
    assert np.abs(decoded - np.asarray(photo()).astype(int)).mean() < 8


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP"])
def test_every_truncation_of_an_image_is_refused(kind: str) -> None:
    data = encode(photo(), kind)
    for length in (4, 12, 20, len(data) // 3, len(data) // 2):
        with pytest.raises(ImageDecodeError):
            decode_image(data[:length])


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "no bytes"),
        (b"this is a text file named picture.png", "none of JPEG"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "none of JPEG"),
        (encode(photo(), "PPM"), "none of JPEG"),
        (encode(photo(), "ICO"), "none of JPEG"),
        (b"RIFF\x10\0\0\0WAVEfmt ....", "damaged"),
        (b"\xff\xd8\xff" + bytes(100), "damaged"),
    ],
)
def test_what_is_not_an_accepted_image_is_refused_with_a_reason(data: bytes, says: str) -> None:
    with pytest.raises(ImageDecodeError, match=says):
        decode_image(data)


def test_a_bomb_is_refused_from_its_header() -> None:
    tracemalloc.start()
    refuse_quietly(png_header_only(30_000, 30_000), "30000 x 30000")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2_000_000


def test_a_picture_pillow_would_warn_about_is_refused_without_a_warning() -> None:
    # 10,000 x 10,000 is between Pillow's limit and twice that, where Image.open warns
    refuse_quietly(png_header_only(10_000, 10_000), "10000 x 10000")


def test_the_pixel_limit_is_exact() -> None:
    data = encode(photo(40, 30), "PNG")
    assert decode_image(data, max_pixels=1200).size == (40, 30)
    with pytest.raises(ImageDecodeError, match="40 x 30 pixels; at most 1199"):
        decode_image(data, max_pixels=1199)


@pytest.mark.parametrize("where", ["screen", "frame"])
def test_a_gif_bomb_is_refused_whether_its_screen_or_its_frame_is_huge(where: str) -> None:
    data = bytearray(encode(photo().quantize(), "GIF"))
    frame = data.index(b",", 13 + 3 * 256)
    at = 6 if where == "screen" else frame + 5
    data[at : at + 4] = struct.pack("<HH", 10_000, 10_000)
    refuse_quietly(bytes(data), "10000 x 10000")


def test_decoding_changes_no_state_of_pillow() -> None:
    before = Image.MAX_IMAGE_PIXELS
    decode_image(encode(photo(), "PNG"), max_pixels=10**9)
    assert before == Image.MAX_IMAGE_PIXELS


def test_an_animated_gif_gives_its_first_frame() -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue", "lime")]
    data = encode(frames[0], "GIF", save_all=True, append_images=frames[1:], duration=50)
    assert pixel(decode_image(data)) == (255, 0, 0)


def test_an_animated_webp_gives_its_first_frame() -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    data = encode(frames[0], "WEBP", save_all=True, append_images=frames[1:], lossless=True)
    assert pixel(decode_image(data)) == (255, 0, 0)


def test_adobe_inverted_cmyk_jpeg_has_its_true_colours() -> None:
    # ink 0, 255, 255, 0 = red; Pillow writes the Adobe marker and stores CMYK JPEG inverted, as Photoshop does
    data = encode(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG", quality=95)
    assert b"Adobe" in data
    red, green, blue = pixel(decode_image(data), 8, 8)
    assert red > 245
    assert green < 10
    assert blue < 10


def test_cmyk_tiff_has_its_true_colours() -> None:
    assert pixel(decode_image(encode(Image.new("CMYK", (4, 4), (255, 0, 255, 0)), "TIFF"))) == (0, 255, 0)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bit_grey_is_scaled_not_clipped(kind: str) -> None:
    values = np.array([[0, 128, 129, 257, 32768, 65535]], dtype=np.uint16)
    decoded = np.asarray(decode_image(encode(Image.fromarray(values), kind)))
    # value / 257, rounded: 128/257 = 0.498 -> 0, 129/257 = 0.502 -> 1, 32768/257 = 127.5 -> 128
    assert decoded[0, :, 0].tolist() == [0, 0, 1, 1, 128, 255]
    assert np.array_equal(decoded[..., 0], decoded[..., 2])


def test_big_endian_16_bit_tiff_is_scaled_too() -> None:
    values = np.array([[0, 257 * 10, 65535]], dtype=">u2")
    tags = [(256, 3), (257, 1), (258, 16), (259, 1), (262, 1), (273, 8), (277, 1), (278, 1), (279, 6)]
    body = values.tobytes() + b"\0\0"
    entries = b"".join(struct.pack(">HHI", tag, 4, 1) + struct.pack(">I", value) for tag, value in tags)
    data = b"MM\0*" + struct.pack(">I", 8 + len(body)) + body + struct.pack(">H", len(tags)) + entries + bytes(4)
    assert np.asarray(decode_image(data))[0, :, 0].tolist() == [0, 10, 255]


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_32_bit_grey_is_stretched_from_minimum_to_maximum(dtype: type) -> None:
    values: np.ndarray[tuple[int, ...], np.dtype[np.float32]] = np.array([[-10, 0, 10]], dtype=dtype)
    assert np.asarray(decode_image(encode(Image.fromarray(values), "TIFF")))[0, :, 0].tolist() == [0, 128, 255]


def test_a_constant_float_image_decodes() -> None:
    values = np.full((2, 2), 0.5, dtype=np.float32)
    assert pixel(decode_image(encode(Image.fromarray(values), "TIFF"))) == (0, 0, 0)


def test_transparency_is_laid_on_white() -> None:
    image = Image.new("RGBA", (2, 1), (255, 0, 0, 255))
    image.putpixel((1, 0), (255, 0, 0, 0))
    decoded = decode_image(encode(image, "PNG"))
    assert pixel(decoded, 0) == (255, 0, 0)
    assert pixel(decoded, 1) == (255, 255, 255)


def test_half_transparency_is_blended() -> None:
    # 128/255 of black over white: 255 - 128 = 127
    assert pixel(decode_image(encode(Image.new("LA", (1, 1), (0, 128)), "PNG"))) == (127, 127, 127)


@pytest.mark.parametrize("kind", ["PNG", "GIF"])
def test_a_palette_with_alpha_is_decoded(kind: str) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([200, 0, 0, 0, 200, 0])
    image.putpixel((1, 0), 1)
    decoded = decode_image(encode(image, kind, transparency=1))
    assert pixel(decoded, 0) == (200, 0, 0)
    assert pixel(decoded, 1) == (255, 255, 255)


def test_a_palette_with_per_entry_alpha_is_decoded() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([200, 0, 0, 0, 0, 0])
    image.putpixel((1, 0), 1)
    decoded = decode_image(encode(image, "PNG", transparency=bytes([255, 128])))
    assert [pixel(decoded, 0), pixel(decoded, 1)] == [(200, 0, 0), (127, 127, 127)]


def test_one_bit_images_become_black_and_white() -> None:
    image = Image.new("1", (2, 1))
    image.putpixel((1, 0), 1)
    decoded = decode_image(encode(image, "PNG"))
    assert [pixel(decoded, 0), pixel(decoded, 1)] == [(0, 0, 0), (255, 255, 255)]


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_exif_rotation_is_applied_once(kind: str) -> None:
    image = Image.new("RGB", (32, 16), "black")
    image.paste((255, 255, 255), (0, 0, 16, 16))  # the left half is white
    exif = Image.Exif()
    exif[0x0112] = 6  # shown after a quarter turn clockwise: left becomes top
    decoded = decode_image(encode(image, kind, exif=exif))
    assert decoded.size == (16, 32)
    assert min(pixel(decoded, 8, 4)) > 240
    assert max(pixel(decoded, 8, 28)) < 15


@pytest.mark.parametrize("orientation", range(1, 9))
def test_decoding_gives_pillow_s_upright_picture_to_the_bit(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(photo(), "JPEG", exif=exif)
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
    decoded = decode_image(data)
    assert decoded.mode == "RGB"
    assert np.array_equal(np.asarray(decoded), np.asarray(expected))


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data:UserWarning")
def test_a_damaged_exif_block_does_not_refuse_the_picture() -> None:
    data = encode(photo(), "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff\x12\x01broken")
    assert decode_image(data).size == (40, 30)


def test_many_threads_decode_to_the_same_pixels() -> None:
    data = [encode(photo(seed=seed), "PNG") for seed in range(4)]
    with ThreadPoolExecutor(8) as pool:
        decoded = list(pool.map(lambda index: np.asarray(decode_image(data[index % 4])), range(64)))
    assert all(np.array_equal(image, np.asarray(photo(seed=index % 4))) for index, image in enumerate(decoded))


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


def test_bytes_become_unit_pixels_and_floats_pass() -> None:
    eight = torch.tensor([0, 51, 255], dtype=torch.uint8).view(1, 3, 1, 1)
    assert as_unit_pixels(eight).flatten().tolist() == pytest.approx([0.0, 0.2, 1.0])
    assert torch.equal(as_unit_pixels(as_unit_pixels(eight)), as_unit_pixels(eight))


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
