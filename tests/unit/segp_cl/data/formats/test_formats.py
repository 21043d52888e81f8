"""What headers say: AVIF and HEIC with their properties, and mutated images of every format."""

from __future__ import annotations

import random
import struct

import numpy as np
import pytest
from PIL import Image

from segp_cl.data.decoding import check_image, decode_image, image_pixels, plan_decoding
from segp_cl.data.formats import NAMES, av1, isobmff, read_header
from segp_cl.errors import ImageDecodeError
from tests.unit.segp_cl.data.pictures import encode, photo

KINDS = ("JPEG", "PNG", "GIF", "WEBP", "AVIF", "BMP", "TIFF")
needs_heic = pytest.mark.skipif(not isobmff.HAS_HEIC, reason="pillow-heif is an extra")


def heic(image: Image.Image, **options: object) -> bytes:
    pillow_heif = pytest.importorskip("pillow_heif")
    pillow_heif.register_heif_opener()
    return encode(image, "HEIF", **options)


def closely(image: Image.Image, expected: Image.Image) -> bool:
    distance = np.abs(np.asarray(image).astype(int) - np.asarray(expected.convert("RGB")).astype(int))
    return image.size == expected.size and float(distance.mean()) < 8


def half_white(mode: str = "RGB") -> Image.Image:
    image = Image.new(mode, (32, 16), "black")
    image.paste((255,) * len(mode), (0, 0, 16, 16))
    return image


def test_avif_decodes_closely() -> None:
    assert closely(decode_image(encode(photo(), "AVIF", quality=95)), photo())


@pytest.mark.parametrize("orientation", range(1, 9))
def test_avif_stands_upright(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    decoded = decode_image(encode(half_white(), "AVIF", exif=exif, quality=95))
    side = {1: "left", 2: "right", 3: "right", 4: "left", 5: "top", 6: "top", 7: "bottom", 8: "bottom"}[orientation]
    assert decoded.size == ((32, 16) if side in ("left", "right") else (16, 32))
    places = {"left": (4, 8), "right": (28, 8), "top": (8, 4), "bottom": (8, 28)}
    assert {name for name, (x, y) in places.items() if x < decoded.width and y < decoded.height} >= {side}
    white = np.asarray(decoded)[places[side][1], places[side][0]]
    assert white.min() > 240


def test_avif_s_transparency_is_laid_on_white() -> None:
    decoded = np.asarray(decode_image(encode(Image.new("RGBA", (32, 32), (255, 0, 0, 0)), "AVIF", quality=95)))
    assert decoded.min() > 245


@pytest.mark.parametrize("subsampling", ["4:0:0", "4:2:0", "4:2:2", "4:4:4"])
def test_avif_of_every_subsampling_is_read(subsampling: str) -> None:
    decoded = decode_image(encode(photo().convert("L").convert("RGB"), "AVIF", subsampling=subsampling, quality=95))
    assert closely(decoded, photo().convert("L"))


def test_the_size_in_av1_data_counts_whatever_the_boxes_say() -> None:
    data = bytearray(encode(photo(), "AVIF"))
    at = data.index(b"mdat") + 4
    assert list(av1.coded_sizes(bytes(data[at:]))) == [(40, 30)]
    boxes = data.index(b"ispe")
    assert read_header(bytes(data)).size == (40, 30)
    data[boxes + 8 : boxes + 16] = struct.pack(">II", 4, 3)
    header = read_header(bytes(data))
    assert header.size == (4, 3)
    assert header.fixed_bytes >= 2 * 1.5 * 1200  # the planes of what will be decoded


def test_a_forged_size_of_avif_is_refused_before_anything_is_decoded() -> None:
    data = bytearray(encode(photo(), "AVIF"))
    at = data.index(b"ispe")
    data[at + 8 : at + 16] = struct.pack(">II", 30_000, 30_000)
    with pytest.raises(ImageDecodeError, match="30000 x 30000"):
        decode_image(bytes(data))


def test_reading_av1_data_ends_whatever_it_holds() -> None:
    generator = random.Random(0)
    for _ in range(300):
        list(av1.coded_sizes(generator.randbytes(200)))
    assert list(av1.coded_sizes(b"\x12\0" * 100_000)) == []


@needs_heic
def test_heic_decodes_closely_and_only_its_own_properties_turn_it() -> None:
    grey = photo().convert("L").convert("RGB")  # colour has half the resolution
    exif = Image.Exif()
    exif[0x0112] = 6  # the standard has a property for this, and readers pass over EXIF's
    assert closely(decode_image(heic(grey, quality=95)), grey)
    assert closely(decode_image(heic(grey, quality=95, exif=exif)), grey)


@needs_heic
def test_heic_s_transparency_is_laid_on_white() -> None:
    decoded = np.asarray(decode_image(heic(Image.new("RGBA", (64, 64), (255, 0, 0, 0)), quality=95)))
    assert decoded.min() > 245


@needs_heic
def test_without_the_extra_heic_is_refused_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    data = heic(photo())
    monkeypatch.setattr(isobmff, "HAS_HEIC", False)
    with pytest.raises(ImageDecodeError, match=r"is HEIC, .* HEIC needs keepsight\[heic\]$"):
        decode_image(data)


def test_the_formats_are_listed_where_none_is_recognised() -> None:
    with pytest.raises(ImageDecodeError, match="none of JPEG, PNG, GIF, WEBP, AVIF") as caught:
        decode_image(b"<svg/>")
    assert all(name in str(caught.value) for name in NAMES)


@pytest.mark.parametrize("kind", KINDS)
def test_pixels_are_counted_from_the_header(kind: str) -> None:
    data = encode(photo(), kind)
    assert image_pixels(data) == 1200
    assert plan_decoding(data).cost_pixels == 1200
    assert image_pixels(b"no image") == 0


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", [*KINDS, "HEIC"])
def test_a_mutated_image_is_an_image_or_refused(kind: str) -> None:
    picture = photo(24, 18)
    originals = [heic(photo(64, 64)) if kind == "HEIC" else encode(picture, kind)]
    if kind == "JPEG":
        originals.append(encode(picture, kind, progressive=True))
    if kind in ("PNG", "WEBP", "TIFF"):
        originals.append(encode(picture.convert("RGBA"), kind))
    if kind == "TIFF":
        originals.append(encode(picture, kind, compression="tiff_lzw"))
    generator = random.Random(kind)
    outcomes = {True: 0, False: 0}
    for number in range(300):
        data = bytearray(originals[number % len(originals)])
        for _ in range(generator.choice((1, 1, 2, 8))):
            at = generator.randrange(len(data) if generator.random() < 0.4 else min(len(data), 400))
            data[at] = generator.choice((0, 0x7F, 0xFF, generator.randrange(256)))
        if number % 5 == 0:
            del data[generator.randrange(len(data)) :]
        if number % 7 == 0:
            at = generator.randrange(len(data) + 1)
            data[at:at] = generator.randbytes(generator.randrange(1, 9))
        for read in (decode_image, check_image):
            try:
                read(bytes(data), max_pixels=4_000_000)
                outcomes[True] += 1
            except ImageDecodeError:
                outcomes[False] += 1
    assert min(outcomes.values()) > 0
