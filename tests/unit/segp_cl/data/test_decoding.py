"""Bytes from strangers become pixels, or a clear refusal."""

from __future__ import annotations

import gc
import io
import os
import struct
import sys
import tracemalloc
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from segp_cl.data.decoding import decode_image
from segp_cl.errors import ImageDecodeError
from segp_cl.runtime.process import resident_bytes
from tests.unit.segp_cl.data.pictures import encode, photo


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


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_the_memory_of_a_large_image_is_given_back_with_it() -> None:
    def blank(width: int) -> bytes:
        file = io.BytesIO()
        Image.new("RGB", (width, 4000)).save(file, "PNG", compress_level=1)
        return file.getvalue()

    large, small = blank(5000), blank(10)  # 76 MiB
    with ThreadPoolExecutor(1) as pool:  # threads have heaps of their own, which the C library keeps
        pool.submit(decode_image, small).result()
        before = resident_bytes()
        for _ in range(3):
            pool.submit(lambda: decode_image(large).close()).result()
        assert resident_bytes() - before < 40 << 20


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_an_image_that_fails_is_freed_before_garbage_is_collected() -> None:
    def mapped() -> int:
        return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * os.sysconf("SC_PAGE_SIZE")

    refuse_quietly(png_header_only(8, 8), "truncated or damaged")
    before = mapped()
    gc.disable()
    try:
        for _ in range(2):
            refuse_quietly(png_header_only(6500, 6500), "truncated or damaged")
        assert mapped() - before < 100 << 20
    finally:
        gc.enable()
