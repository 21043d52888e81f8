"""What a client reads: the best labels first, errors in their own slots, vectors in two encodings."""

from __future__ import annotations

import base64
import struct
from dataclasses import replace

import pytest
import torch

from app.serving.answer_ids import read_answer_id
from app.serving.answers import DECIMALS, Wanted, encoded, label_set, predictions, results
from app.serving.engine import Scored
from segp_cl.errors import ImageDecodeError
from segp_cl.types import Path

VERSION = "000002-9f86d081884c"


def scored(path: Path = "fused") -> Scored:
    text, visual, fused = torch.tensor([0.1, 0.2, 0.3]), torch.tensor([0.3, 0.1, 0.2]), torch.tensor([0.2, 0.3, 0.1])
    return Scored(("a", "b", "c"), path, text, visual, fused, torch.tensor([0.25, 0.5, 0.125]))


def test_vectors_are_numbers_or_little_endian_float32() -> None:
    vector = torch.tensor([0.5, -0.25, 1.0])
    assert encoded(vector, "float") == [0.5, -0.25, 1.0]
    as_text = encoded(vector, "base64")
    assert isinstance(as_text, str)
    assert struct.unpack("<3f", base64.b64decode(as_text)) == (0.5, -0.25, 1.0)
    assert encoded(vector.to(torch.bfloat16), "base64") == as_text


@pytest.mark.parametrize(("path", "order"), [("text", "cba"), ("visual", "acb"), ("fused", "bac")])
def test_labels_are_ranked_by_the_path_that_was_asked_for(path: Path, order: str) -> None:
    image = scored(path)
    found = predictions(image, 3)
    assert "".join(prediction.label for prediction in found) == order
    for prediction in found:
        place = image.labels.index(prediction.label)
        assert image.visual is not None
        assert image.fused is not None
        numbers = (image.ranking, image.text, image.visual, image.fused, image.probabilities)
        assert [round(column[place].item(), DECIMALS) for column in numbers] == [
            prediction.score,
            prediction.text_score,
            prediction.visual_score,
            prediction.fused_score,
            prediction.probability,
        ]


@pytest.mark.parametrize(("top_k", "count"), [(0, 0), (1, 1), (3, 3), (10, 3)])
def test_as_many_labels_are_given_as_there_are_and_were_asked_for(top_k: int, count: int) -> None:
    assert len(predictions(scored(), top_k)) == count


def test_classes_beside_words_are_ranked_by_probability_and_words_have_no_visual_score() -> None:
    text, visual = torch.tensor([0.1, 0.3]), torch.tensor([torch.nan, 0.9])
    image = Scored(("word", "class"), "fused", text, visual, visual, torch.tensor([0.75, 0.25]), mixed=True)
    word, known = predictions(image, 2)
    assert (word.label, word.score, word.visual_score, word.fused_score) == ("word", 0.75, None, None)
    assert (known.label, known.score, known.probability) == ("class", 0.25, 0.25)
    assert known.visual_score == pytest.approx(0.9)


def test_equal_scores_keep_the_labels_order() -> None:
    text = torch.tensor([0.5, 0.7, 0.5, 0.7])
    image = Scored(("a", "b", "c", "d"), "text", text, None, None, torch.full((4,), 0.25))
    found = predictions(image, 3)
    assert [prediction.label for prediction in found] == ["b", "d", "a"]
    assert {(prediction.visual_score, prediction.fused_score) for prediction in found} == {(None, None)}


def test_every_image_has_its_result_or_its_own_error() -> None:
    broken = ImageDecodeError("not an image")
    first, second, third = results(
        VERSION, ["x.png", None, "z.png"], [b"x", broken, b"z"], [scored(), broken, scored("text")], Wanted(top_k=1)
    )
    assert [(result.index, result.filename) for result in (first, second, third)] == [
        (0, "x.png"),
        (1, None),
        (2, "z.png"),
    ]
    assert second.id is None
    assert read_answer_id(third.id or "").label == third.predictions[0].label
    assert [prediction.label for result in (first, third) for prediction in result.predictions] == ["b", "c"]
    assert (first.error, third.error, second.predictions) == (None, None, [])
    assert second.error is not None
    assert (second.error.detail, second.error.status) == ("not an image", 422)


def test_numbers_are_rounded_after_they_are_ranked() -> None:
    text = torch.tensor([0.5, 0.50000006, 1 / 3])
    found = predictions(Scored(("a", "b", "c"), "text", text, None, None, torch.softmax(text, dim=0)), 3)
    assert [prediction.label for prediction in found] == ["b", "a", "c"]
    assert [prediction.score for prediction in found] == [0.5, 0.5, 0.333333]
    assert sum(prediction.probability for prediction in found) == pytest.approx(1, abs=1.5e-6)


@pytest.mark.parametrize(("least", "labels"), [(0.0, "bac"), (0.2, "ba"), (0.25, "ba"), (0.3, "b"), (0.9, "b")])
def test_a_set_has_all_labels_that_are_likely_enough_and_the_best(least: float, labels: str) -> None:
    assert "".join(label_set(scored(), least)) == labels


@pytest.mark.parametrize(("share", "unknown"), [(None, None), (0.2, False), (0.9, False), (0.9000001, True)])
def test_an_image_that_is_stranger_than_most_is_unknown(share: float | None, unknown: bool | None) -> None:
    (result,) = results(
        VERSION,
        ["x.png"],
        [b"x"],
        [replace(scored(), unknown_score=share)],
        Wanted(1, known_share=0.9, least_probability=0.3),
    )
    assert result.unknown is unknown
    assert result.unknown_score == (None if share is None else round(share, DECIMALS))
    assert result.label_set == ["b"]


def test_no_set_is_given_unless_one_was_asked_for() -> None:
    (result,) = results(VERSION, [None], [b"x"], [scored()], Wanted(1))
    assert result.label_set is None
