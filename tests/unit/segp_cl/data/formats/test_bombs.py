"""Images built to take time or memory are refused, or cost no more than others. Each is tried, not only measured."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from segp_cl.data import decode_memory
from segp_cl.data.decoding import check_image, decode_image, plan_decoding
from segp_cl.errors import ImageDecodeError
from tests.unit.segp_cl.data.pictures import encode, photo

SOON_S = 20.0
"""Far more than any of these takes, and far less than the bombs would."""


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def with_chunks(extra: bytes, picture: Image.Image | None = None) -> bytes:
    """A PNG with more chunks before its pixels."""
    data = encode(picture or photo(), "PNG")
    return data[:33] + extra + data[33:]


def with_segments(extra: bytes) -> bytes:
    data = encode(photo(), "JPEG")
    return data[:2] + extra + data[2:]


def segment(kind: int, body: bytes) -> bytes:
    return bytes((0xFF, kind)) + struct.pack(">H", len(body) + 2) + body


def refused_soon(data: bytes, says: str) -> None:
    begun = time.monotonic()
    with pytest.raises(ImageDecodeError, match=says):
        decode_image(data)
    assert time.monotonic() - begun < SOON_S


def decoded_soon(data: bytes) -> Image.Image:
    begun = time.monotonic()
    image = decode_image(data)
    assert time.monotonic() - begun < SOON_S
    return image


def test_a_jpeg_of_many_scans_is_refused() -> None:
    data = encode(photo(400, 300), "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    head = data[last : last + 2 + int.from_bytes(data[last + 2 : last + 4], "big")]
    decode_image(data[:-2] + (head + bytes(4)) * 20 + b"\xff\xd9")
    refused_soon(data[:-2] + (head + bytes(4)) * 100_000 + b"\xff\xd9", "more than 64 scans")
    # scans behind a segment that holds what looks like the image's end
    fake = segment(0xFE, b"\xff\xd9")
    refused_soon(data[:-2] + fake + (head + bytes(4)) * 1000 + b"\xff\xd9", "more than 64 scans")


def test_bytes_after_a_jpeg_are_not_taken_for_scans() -> None:
    data = encode(photo(), "JPEG", progressive=True)
    assert decode_image(data + b"\xff\xda" * 10_000).size == (40, 30)  # phones append films and second pictures


def test_a_jpeg_of_many_segments_is_refused() -> None:
    decoded_soon(with_segments(segment(0xFE, b"") * 1000))
    refused_soon(with_segments(segment(0xFE, b"") * 5_000_000), "more than 4096 segments")
    refused_soon(with_segments(b"\xff\x01" * 5_000_000), "more than 4096 segments")
    assert decoded_soon(with_segments(b"\xff" * 30_000_000)).size == (40, 30)  # padding is one marker's


def test_an_exif_block_whose_tags_share_their_data_costs_nothing() -> None:
    entries = b"".join(struct.pack("<HHLL", tag, 5, 7000, 8) for tag in range(5000) if tag != 0x0112)
    block = b"II*\0" + struct.pack("<LH", 8, 4999) + entries + bytes(4)
    image = decoded_soon(with_segments(segment(0xE1, b"Exif\0\0" + block)))
    assert np.array_equal(np.asarray(image), np.asarray(decode_image(encode(photo(), "JPEG"))))


def test_a_png_of_many_chunks_is_refused() -> None:
    refused_soon(with_chunks(chunk(b"abCd", b"") * 300_000), "more than 65536 chunks")
    refused_soon(with_chunks(chunk(b"IDAT", b"") * 300_000), "more than 65536 chunks")


@pytest.mark.parametrize("kind", [b"zTXt", b"iTXt", b"iCCP"])
def test_compressed_texts_and_profiles_of_a_png_are_not_unpacked(kind: bytes) -> None:
    packed = zlib.compress(bytes(64 << 20), 9)
    body = {b"zTXt": b"a\0\0", b"iTXt": b"a\0\1\0\0\0", b"iCCP": b"a\0\0"}[kind] + packed
    image = decoded_soon(with_chunks(chunk(kind, body) * 200))
    assert np.array_equal(np.asarray(image), np.asarray(photo()))


def test_a_packed_exif_block_in_a_png_is_unpacked_in_part() -> None:
    body = b"Raw profile type exif\0\0" + zlib.compress(bytes(256 << 20), 9)
    assert decoded_soon(with_chunks(chunk(b"zTXt", body))).size == (40, 30)


def test_a_gif_of_many_blocks_before_its_first_frame_is_refused() -> None:
    data = encode(photo().quantize(), "GIF")
    at = data.index(b",", 13 + 3 * 256)
    comment = b"!\xfe" + b"\1a" * 5_000_000 + b"\0"
    refused_soon(data[:at] + comment + data[at:], "more than 65536 blocks")


def test_a_long_run_length_encoded_bmp_is_refused() -> None:
    data = encode(photo().quantize(), "BMP")
    runs = data[:30] + struct.pack("<I", 1) + data[34:]
    refused_soon(runs + bytes(3 << 20), "run-length encoded")


def tiff_with(tag: int, kind: int, count: int, extra: bytes) -> bytes:
    """A TIFF whose directory has one more tag, with `extra` as its data."""
    data = encode(photo(), "TIFF")
    at = int.from_bytes(data[4:8], "little")
    number = int.from_bytes(data[at : at + 2], "little")
    entries = data[at + 2 : at + 2 + 12 * number]
    kept = [entries[n : n + 12] for n in range(0, len(entries), 12)]
    kept = [each for each in kept if int.from_bytes(each[:2], "little") != tag]
    body = data + extra
    kept.append(struct.pack("<HHLL", tag, kind, count, len(data)))
    directory = struct.pack("<H", len(kept)) + b"".join(sorted(kept)) + bytes(4)
    return b"II*\0" + struct.pack("<L", len(body)) + body[8:] + directory


@pytest.mark.parametrize("tag", [258, 273, 279, 320, 338])
def test_a_tiff_that_lists_millions_of_strips_or_samples_is_refused(tag: int) -> None:
    refused_soon(tiff_with(tag, 4, 2_000_000, bytes(8_000_000)), f"2000000 values in tag {tag}")


@pytest.mark.parametrize("tag", [34665, 34853, 330, 700, 34675, 50000])
def test_other_tags_of_a_tiff_are_not_read(tag: int) -> None:
    image = decoded_soon(tiff_with(tag, 5, 1_000_000, bytes(8_000_000)))
    assert np.array_equal(np.asarray(image), np.asarray(photo()))


@pytest.mark.parametrize(("tag", "says"), [(278, "needs"), (322, "needs")])
def test_a_tiff_of_one_huge_strip_or_tile_is_refused_by_its_memory(tag: int, says: str) -> None:
    data = encode(Image.new("RGB", (7000, 7000)), "TIFF", compression="tiff_lzw")
    at = int.from_bytes(data[4:8], "little")
    number = int.from_bytes(data[at : at + 2], "little")
    entries = [bytearray(data[at + 2 + 12 * n : at + 14 + 12 * n]) for n in range(number)]
    entries = [each for each in entries if int.from_bytes(each[:2], "little") not in (278, 322, 323)]
    new = [(278, 7000)] if tag == 278 else [(322, 60_000), (323, 60_000)]
    entries += [bytearray(struct.pack("<HHLL", tag, 4, 1, value)) for tag, value in new]
    entries.sort(key=lambda each: int.from_bytes(each[:2], "little"))
    directory = struct.pack("<H", len(entries)) + b"".join(entries) + bytes(4)
    refused_soon(data[:4] + struct.pack("<L", len(data)) + data[8:] + directory, says)


def test_a_bigtiff_of_millions_of_tags_is_refused() -> None:
    entries = b"".join(struct.pack("<HHQQ", tag % 65536, 3, 1, 1) for tag in range(200_000))
    refused_soon(b"II+\0\x08\0\0\0" + struct.pack("<QQ", 16, 200_000) + entries + bytes(8), "200000 tags")


def test_a_webp_of_many_chunks_is_refused() -> None:
    data = encode(photo(), "WEBP", exif=Image.Exif())
    assert data[12:16] in (b"VP8 ", b"VP8X")
    many = data + b"abcd\0\0\0\0" * 200_000
    refused_soon(many[:4] + struct.pack("<I", len(many) - 8) + many[8:], "more than 65536 chunks")


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF", "AVIF"])
def test_only_the_first_of_many_frames_is_read(kind: str) -> None:
    frames = [Image.new("RGB", (16, 16), (n, 255 - n, 0)) for n in range(200)]
    data = encode(frames[0], kind, save_all=True, append_images=frames[1:], duration=10)
    begun = time.monotonic()
    image = decode_image(data)
    assert time.monotonic() - begun < SOON_S
    assert np.abs(np.asarray(image).astype(int) - np.array([0, 255, 0])).max() < 12


ANSWERED: dict[str, tuple[tuple[int, int], str, dict[str, Any]]] = {
    "lossy-50MP.webp": ((8160, 6144), "RGB", {"quality": 20, "method": 0}),
    "50MP.png": ((7071, 7071), "RGB", {"compress_level": 1}),
    "transparent-49MP.png": ((7000, 7000), "RGBA", {"compress_level": 1}),
    "49MP.gif": ((7000, 7000), "P", {}),
    "49MP.tiff": ((7000, 7000), "RGB", {"compression": "tiff_lzw"}),
    "12MP.avif": ((4000, 3000), "RGB", {"speed": 10}),
    "50MP.jpeg": ((8160, 6144), "RGB", {}),
    "200MP.jpeg": ((16_320, 12_240), "L", {}),
    "progressive-50MP.jpeg": ((8160, 6144), "RGB", {"progressive": True}),
    "cmyk-36MP.jpeg": ((6000, 6000), "CMYK", {}),
}
REFUSED: dict[str, tuple[tuple[int, int], str, dict[str, Any]]] = {
    "lossless-50MP.webp": ((7071, 7071), "RGB", {"lossless": True, "method": 0, "quality": 0}),
    "24MP.avif": ((6000, 4000), "RGB", {"speed": 10}),
    "progressive-108MP.jpeg": ((12_000, 9000), "RGB", {"progressive": True}),
}


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/self/clear_refs"), reason="peaks of memory are read from Linux's /proc")
def test_an_image_takes_256_mib_at_most_whether_it_is_answered_or_refused(tmp_path: Path) -> None:
    for name, (size, mode, options) in (ANSWERED | REFUSED).items():
        colour = 3 if len(mode) == 1 else (10, 200, 30, 100)[: len(mode)]
        kind = name.rpartition(".")[2]
        (tmp_path / name).write_bytes(encode(Image.new(mode, size, colour), kind, **options))
    script = """
import sys
from pathlib import Path
from typing import Any
import torchvision.io
from segp_cl.data.decoding import check_image, read_pixels
from segp_cl.data.preprocessing import Preprocessing
from segp_cl.errors import ImageDecodeError
from segp_cl.runtime.process import give_memory_back

def mib(name):
    return next(int(line.split()[1]) // 1024 for line in open("/proc/self/status") if line.startswith(name))

for path in map(Path, sys.argv[1:]):
    data = path.read_bytes()
    give_memory_back()
    Path("/proc/self/clear_refs").write_text("5")
    rest, said = mib("VmRSS"), "answered"
    try:
        read_pixels(data, Preprocessing(224, (0.5,) * 3, (0.5,) * 3))
        check_image(data)
    except ImageDecodeError as error:
        said = str(error)
    print(path.name, mib("VmHWM") - rest, said)
"""
    paths = [str(tmp_path / name) for name in (*ANSWERED, *REFUSED)]
    done = subprocess.run([sys.executable, "-c", script, *paths], capture_output=True, text=True, check=True)
    lines = [line.split(" ", 2) for line in done.stdout.splitlines()]
    assert len(lines) == len(paths)
    assert [line for line in lines if int(line[1]) > 256] == [], lines
    assert [name for name, _, said in lines if said == "answered"] == list(ANSWERED)
    for name, peak, said in lines[len(ANSWERED) :]:
        assert "MiB of memory to be decoded; at most 208 MiB are allowed" in said, name
        assert int(peak) < 32, name


def test_the_phone_photo_of_50_megapixels_stands_upright() -> None:
    image = Image.new("RGB", (8160, 6144), "black")
    image.paste((255, 255, 255), (0, 0, 8160 // 2, 6144))
    exif = Image.Exif()
    exif[0x0112] = 6
    decoded = decode_image(encode(image, "JPEG", exif=exif))
    assert decoded.size == (3072, 4080)  # turned, at a half
    pixels = np.asarray(decoded)
    assert pixels[:2000].min() > 250
    assert pixels[2100:].max() < 5


def test_scaled_and_reduced_images_are_the_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    original = photo(603, 401)
    exact = np.asarray(original.resize((64, 48)).convert("RGB")).astype(int)
    monkeypatch.setattr("segp_cl.data.decoding._EXACT_BYTES", 1)
    monkeypatch.setattr("segp_cl.data.decoding._EXACT_JPEG_BYTES", 400_000)
    for kind, options in (("PNG", {}), ("JPEG", {"quality": 95}), ("WEBP", {"quality": 95}), ("TIFF", {})):
        data = encode(original, kind, **options)
        plan = plan_decoding(data)
        assert (plan.fraction, plan.reduced) != (1, 1)
        decoded = decode_image(data)
        assert decoded.mode == "RGB"
        assert decoded.width <= 302
        assert np.abs(np.asarray(decoded.resize((64, 48))).astype(int) - exact).mean() < 12
        check_image(data)


def test_the_limit_of_memory_is_a_setting_and_names_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode_memory, "_of_process", decode_memory.DecodeMemory(64 << 20))
    decode_image(encode(Image.new("L", (7000, 7000)), "PNG", compress_level=1))
    refused_soon(encode(Image.new("RGB", (6000, 6000)), "PNG"), "6000 x 6000 pixels needs 138 MiB .* at most 64 MiB")
