"""Bad inputs: enough of each family, the same every time, and as bad as they say."""

from __future__ import annotations

import io
import random
import zipfile

import pytest
from PIL import Image

from benchmarks.faults.inputs import COUNTS, QUICK, bad_inputs
from benchmarks.faults.inputs.archives import KNOWN, bad_archives, entry_of
from benchmarks.faults.inputs.bad import classify, http, mutate
from benchmarks.faults.inputs.images import webp_of, whole
from benchmarks.faults.inputs.requests import bad_requests
from benchmarks.faults.inputs.wire import bad_wire
from benchmarks.faults.pictures import SIDE, Pictures


def test_at_least_five_thousand_are_sent() -> None:
    assert sum(COUNTS.values()) >= 5000
    assert 300 <= sum(QUICK.values()) <= 1000


@pytest.mark.parametrize("family", [bad_requests, bad_wire])
def test_the_same_seed_makes_the_same_inputs(family: object) -> None:
    assert callable(family)
    one, other, third = family(1), family(1), family(2)
    firsts = [next(one).raw for _ in range(900)]
    assert firsts == [next(other).raw for _ in range(900)]
    assert firsts != [next(third).raw for _ in range(900)]
    assert len(set(firsts)) > 600


def test_images_are_mutated_by_seed() -> None:
    mark = Pictures(1).mark
    made = [[bad.raw for bad in bad_inputs({"image": 250}, seed=seed, mark=mark)] for seed in (1, 1, 2)]
    assert made[0] == made[1] != made[2]


def test_a_mutation_changes_something_and_nothing_crashes() -> None:
    draw = random.Random(0)
    for content in (b"", b"x", b"PK\3\4" * 100):
        assert sum(mutate(draw, content)[1] != content for _ in range(200)) > (100 if content else 20)


def test_pictures_are_images_with_the_mark_in_their_first_row() -> None:
    pictures = Pictures(seed=5)
    image = Image.open(io.BytesIO(pictures.png()))
    assert image.size == (SIDE, SIDE)
    assert image.crop((0, 0, SIDE, 1)).tobytes() == pictures.mark.row
    assert pictures.mark.row in pictures.png()
    assert pictures.png() != pictures.png()
    with zipfile.ZipFile(io.BytesIO(pictures.archive(["a", "b"], images=2))) as archive:
        assert archive.namelist() == ["a/0.png", "a/1.png", "b/0.png", "b/1.png"]


def test_whole_images_of_common_formats_are_among_those_that_are_mutated() -> None:
    made = whole(Pictures(1).mark.row)
    assert {"PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF"} <= set(made)
    assert all(made.values())


def test_a_webp_of_fifty_megapixels_weighs_next_to_nothing() -> None:
    bomb = webp_of(7071, 7071)
    assert len(bomb) < 50
    assert Image.open(io.BytesIO(bomb)).size == (7071, 7071)


def test_a_forged_entry_lies_about_its_size() -> None:
    with zipfile.ZipFile(io.BytesIO(entry_of(b"cat/1.png", b"abc", method=0, size=100))) as archive:
        assert archive.getinfo("cat/1.png").file_size == 100


def test_mutated_archives_are_of_classes_that_are_known_so_that_whole_ones_are_refused() -> None:
    first = next(bad_archives(1))
    assert first.kind == "archive"
    assert KNOWN == ("kind 0 a", "kind 0 b")  # those that a service under test learns first


def test_requests_say_how_long_their_body_is() -> None:
    assert b"Content-Length: 3\r\n" in http("POST", "/x", b"abc")
    assert b"Content-Length: 9\r\n" in http("POST", "/x", b"abc", length="9")
    head, _, body = classify(b"an image").partition(b"\r\n\r\n")
    assert f"Content-Length: {len(body)}".encode() in head
