from __future__ import annotations

import base64
import io
import struct
import time
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from PIL import Image
from starlette.testclient import TestClient
from torch import Tensor

from app.settings import Settings
from model_store.store import Store
from model_store.types import VersionId
from segp_cl.data.decoding import decode_image
from segp_cl.data.preprocessing import to_pixels
from segp_cl.models.backbone import Backbone
from segp_cl.runtime.classifier import Classifier, Features
from tests.tolerances import FLOAT32_REORDERED
from tests.waiting import wait_until

Teach = Callable[..., VersionId]
Picture = Callable[..., bytes]


def ask(client: TestClient, *images: bytes, **fields: Any) -> Any:
    files = [("images", (f"{n}.png", image, "image/png")) for n, image in enumerate(images)]
    response = client.post("/v1/classify", files=files, data=fields)
    assert response.status_code == 200, response.text
    return response.json()


@pytest.fixture
def taught(
    store: Store, teach: Teach, configure: Callable[..., Settings], serve: Callable[..., TestClient]
) -> TestClient:
    """A server that serves three classes."""
    first = serve(configure())
    first.get("/healthz")
    version = teach("cat", "dog", "fox")
    client = serve(configure())
    assert client.get("/readyz").json()["serving"] == version
    return client


def test_answers_are_those_of_the_method(
    taught: TestClient, store: Store, tiny_backbone: Backbone, picture: Picture
) -> None:
    answer = ask(taught, picture(1), picture(2), top_k=3)
    current = store.current()
    assert current is not None
    assert answer["model_version"] == current
    assert answer["path"] == "fused"
    classifier = Classifier(tiny_backbone, store.open(current))
    pixels = torch.stack([to_pixels(decode_image(picture(n)), tiny_backbone.preprocessing) for n in (1, 2)])
    scores = classifier.scores(pixels)
    probabilities, means = classifier.class_probabilities(scores.fused, "fused"), classifier.weighted_mean(scores.fused)
    for row, result in enumerate(answer["results"]):
        assert (result["index"], result["filename"], result["error"]) == (row, f"{row}.png", None)
        assert len(result["predictions"]) == 3
        fused = [p["score"] for p in result["predictions"]]
        assert fused == sorted(fused, reverse=True)
        for prediction in result["predictions"]:
            i = classifier.state.class_names.index(prediction["label"])
            assert (
                prediction["fused_score"]
                == prediction["score"]
                == pytest.approx(float(means[row, i]), abs=FLOAT32_REORDERED)
            )
            assert prediction["text_score"] == pytest.approx(float(scores.text[row, i]), abs=FLOAT32_REORDERED)
            assert prediction["visual_score"] == pytest.approx(float(scores.visual[row, i]), abs=FLOAT32_REORDERED)
            assert prediction["probability"] == pytest.approx(float(probabilities[row, i]), abs=FLOAT32_REORDERED)
        assert sum(p["probability"] for p in result["predictions"]) == pytest.approx(1, abs=FLOAT32_REORDERED)


@pytest.mark.parametrize("path", ["text", "visual"])
def test_a_path_ranks_by_its_own_score(taught: TestClient, picture: Picture, path: str) -> None:
    result = ask(taught, picture(1), path=path)["results"][0]
    own = [p[f"{path}_score"] for p in result["predictions"]]
    assert own == sorted(own, reverse=True) == [p["score"] for p in result["predictions"]]


def test_top_k_is_cut_to_the_classes_there_are(taught: TestClient, picture: Picture) -> None:
    assert len(ask(taught, picture(1), top_k=1)["results"][0]["predictions"]) == 1
    assert len(ask(taught, picture(1), top_k=1000)["results"][0]["predictions"]) == 3


def test_base64_and_multipart_answer_alike(taught: TestClient, picture: Picture) -> None:
    encoded = [base64.b64encode(picture(n)).decode() for n in (1, 2)]
    body = {"images": [encoded[0], f"data:image/png;base64,{encoded[1]}"], "top_k": 2}
    response = taught.post("/v1/classify", json=body)
    expected = ask(taught, picture(1), picture(2), top_k=2)
    assert [r["predictions"] for r in response.json()["results"]] == [r["predictions"] for r in expected["results"]]
    assert response.json()["results"][0]["filename"] is None


def test_any_words_are_answered_by_the_text_path(client: TestClient, picture: Picture) -> None:
    answer = ask(client, picture(1), labels=["a red square", "noise"])
    assert answer["path"] == "text"
    predictions = answer["results"][0]["predictions"]
    assert {p["label"] for p in predictions} == {"a red square", "noise"}
    assert all(p["visual_score"] is None and p["fused_score"] is None for p in predictions)
    assert all(p["score"] == p["text_score"] for p in predictions)
    assert sum(p["probability"] for p in predictions) == pytest.approx(1, abs=FLOAT32_REORDERED)
    as_json_list = ask(client, picture(1), labels='["a red square", "noise"]')
    assert as_json_list["results"] == answer["results"]


def test_classes_and_words_are_ranked_together_by_probability(taught: TestClient, picture: Picture) -> None:
    answer = ask(taught, picture(1), labels=["a red square", "cat"], with_classes="true", top_k=10)
    assert answer["path"] == "fused"
    predictions = answer["results"][0]["predictions"]
    assert {p["label"] for p in predictions} == {"a red square", "cat", "dog", "fox"}
    assert [p["probability"] for p in predictions] == sorted((p["probability"] for p in predictions), reverse=True)
    assert sum(p["probability"] for p in predictions) == pytest.approx(1, abs=FLOAT32_REORDERED)
    assert {p["label"] for p in predictions if p["visual_score"] is None} == {"a red square"}

    alone = {p["label"]: p for p in ask(taught, picture(1), top_k=3)["results"][0]["predictions"]}
    known = [p for p in predictions if p["label"] in alone]
    for prediction in known:  # classes keep their scores, and share what is theirs as they do without words
        assert prediction["fused_score"] == pytest.approx(alone[prediction["label"]]["fused_score"], rel=1e-5)
        share = prediction["probability"] / sum(p["probability"] for p in known)
        assert share == pytest.approx(alone[prediction["label"]]["probability"], abs=1e-5)


def test_a_label_that_is_a_class_is_answered_as_that_class(taught: TestClient, picture: Picture) -> None:
    for path in ("fused", "visual", "text"):
        answer = ask(taught, picture(1), labels=["cat", "dog"], path=path)
        assert answer["path"] == path
        alone = {
            p["label"]: p["score"] for p in ask(taught, picture(1), path=path, top_k=3)["results"][0]["predictions"]
        }
        for prediction in answer["results"][0]["predictions"]:
            assert prediction["score"] == pytest.approx(alone[prediction["label"]], rel=1e-5)


def test_labels_that_the_text_tower_cannot_tell_apart_are_named(taught: TestClient, picture: Picture) -> None:
    # the tokenizer ignores case
    answer = ask(taught, picture(1), labels=["Rooster", "pizza", "rooster"])
    assert answer["alike"] == [["Rooster", "rooster"]]
    assert ask(taught, picture(1), labels=["pizza", "rooster"])["alike"] == []


def test_what_is_cached_changes_no_bit_of_an_answer(client: TestClient, picture: Picture) -> None:
    alone = ask(client, picture(1), labels=["cat", "an extraordinarily long description of a dog"])
    ask(client, picture(1), labels=["cat", "fox", "owl"])
    again = ask(client, picture(1), labels=["cat", "an extraordinarily long description of a dog"])
    assert alone == again


def test_a_template_puts_labels_into_a_sentence(client: TestClient, picture: Picture) -> None:
    plain = ask(client, picture(1), labels=["cat", "dog"])
    default = ask(client, picture(1), labels=["cat", "dog"], template="a photo of a {}.")
    other = ask(client, picture(1), labels=["cat", "dog"], template="a drawing of the {}")
    assert plain["results"] == default["results"] != other["results"]


def test_without_classes_and_labels_there_is_nothing_to_answer(client: TestClient, picture: Picture) -> None:
    response = client.post("/v1/classify", files={"images": picture(1)})
    assert response.status_code == 409
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json()["type"] == "urn:keepsight:problem:no-classes"


def bomb() -> bytes:
    """A PNG of a few bytes that claims 30,000 x 30,000 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


def test_what_cannot_be_decoded_is_an_error_in_its_own_slot_only(taught: TestClient, picture: Picture) -> None:
    jpeg = picture(3, kind="JPEG", size=(200, 200))
    bad = [jpeg[: len(jpeg) // 2], b"this is text named .png", bomb(), b""]
    answer = ask(taught, picture(1), *bad, picture(2))
    good = ask(taught, picture(1), picture(2))
    assert [r["error"] is None for r in answer["results"]] == [True, False, False, False, False, True]
    assert answer["results"][0] == good["results"][0]
    assert answer["results"][5]["predictions"] == good["results"][1]["predictions"]
    for result in answer["results"][1:5]:
        assert result["predictions"] == []
        assert (result["error"]["status"], result["error"]["type"]) == (422, "urn:keepsight:problem:undecodable-image")
    assert all(r["error"] for r in ask(taught, *bad)["results"])


def test_base64_that_is_none_is_an_error_in_its_own_slot(taught: TestClient, picture: Picture) -> None:
    body = {"images": ["§§§", base64.b64encode(picture(1)).decode()]}
    results = taught.post("/v1/classify", json=body).json()["results"]
    assert "base64" in results[0]["error"]["detail"]
    assert results[1]["error"] is None


def test_an_image_over_the_byte_limit_is_an_error_in_its_own_slot(
    configure: Callable[..., Settings], serve: Callable[..., TestClient], picture: Picture
) -> None:
    client = serve(configure(max_image_bytes=4000))
    answer = ask(client, picture(1, size=(100, 100)), picture(2, size=(8, 8)), labels=["cat", "dog"])
    assert answer["results"][0]["error"]["status"] == 413
    assert answer["results"][1]["error"] is None


def unusual_images() -> dict[str, bytes]:
    base = Image.effect_noise((48, 40), 80)

    def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
        buffer = io.BytesIO()
        image.save(buffer, kind, **options)
        return buffer.getvalue()

    rotated = Image.Exif()
    rotated[0x0112] = 6
    frames = [base.convert("P"), base.rotate(90).convert("P")]
    palette = base.convert("RGB").quantize(16)
    return {
        "animated GIF": saved(frames[0], "GIF", save_all=True, append_images=frames[1:]),
        "CMYK": saved(base.convert("CMYK"), "JPEG"),
        "16 bit": saved(base.convert("I;16"), "PNG"),
        "palette with alpha": saved(palette, "PNG", transparency=3),
        "EXIF rotation": saved(base.convert("RGB"), "JPEG", exif=rotated),
        "grey": saved(base, "PNG"),
        "RGBA": saved(base.convert("RGBA"), "PNG"),
        "WEBP": saved(base.convert("RGB"), "WEBP"),
    }


def test_unusual_images_are_decoded(taught: TestClient) -> None:
    images = unusual_images()
    results = ask(taught, *images.values())["results"]
    assert [name for name, result in zip(images, results, strict=True) if result["error"]] == []


def refused(client: TestClient, status: int, **request: Any) -> Any:
    response = client.post("/v1/classify", **request)
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    problem = response.json()
    assert problem["status"] == status
    assert problem["title"]
    return problem


def test_requests_that_make_no_sense_are_refused_and_the_service_goes_on(taught: TestClient, picture: Picture) -> None:
    image = {"images": picture(1)}
    many = [("images", picture(1))] * 65
    assert "no image" in refused(taught, 422, json={"images": []})["detail"]
    assert "64" in refused(taught, 422, files=many)["detail"]
    assert "65 images" in refused(taught, 422, json={"images": ["aGk="] * 65})["detail"]
    assert "path" in refused(taught, 422, files=image, data={"path": "psychic"})["detail"]
    assert "top_k" in refused(taught, 422, files=image, data={"top_k": "0"})["detail"]
    assert "top_k" in refused(taught, 422, files=image, params={"top_k": "many"})["detail"]
    assert "colour" in refused(taught, 422, files=image, data={"colour": "red"})["detail"]
    refused(taught, 422, files=image, data={"labels": ["a"], "template": ""})
    refused(taught, 422, files=image, data={"labels": ["a"], "template": "no braces"})
    refused(taught, 422, files=image, data={"template": "a {}"})
    assert "twice" in refused(taught, 422, files=image, data={"labels": ["a", "a"]})["detail"]
    assert "prototypes" in refused(taught, 422, files=image, data={"labels": ["a"], "path": "visual"})["detail"]
    assert "with labels" in refused(taught, 422, files=image, data={"with_classes": "true"})["detail"]
    assert "with labels" in refused(taught, 422, files=image, data={"zero_shot": "adapted"})["detail"]
    assert "zero_shot" in refused(taught, 422, files=image, data={"labels": ["a"], "zero_shot": "base"})["detail"]
    refused(taught, 422, files=image, data={"labels": "[1, 2]"})
    refused(taught, 422, files=image, data={"labels": "[oops"})
    refused(taught, 422, files=image, data={"labels": [str(n) for n in range(1001)]})
    refused(taught, 422, files=image, data={"labels": ["x" * 201]})
    refused(taught, 422, files={"pictures": picture(1)})
    refused(taught, 422, content=b"{not json", headers={"content-type": "application/json"})
    refused(taught, 415, content=b"x", headers={"content-type": "text/plain"})
    refused(taught, 415)
    refused(taught, 400, content=b"garbage", headers={"content-type": "multipart/form-data; boundary=b"})
    refused(taught, 400, content=b"garbage", headers={"content-type": "multipart/form-data"})
    assert ask(taught, picture(1))["results"][0]["error"] is None


def test_no_image_comes_back_in_an_error(taught: TestClient, picture: Picture) -> None:
    encoded = base64.b64encode(picture(1)).decode()
    problem = refused(taught, 422, json={"images": [encoded], "top_k": -1})
    assert encoded not in str(problem)
    problem = refused(taught, 422, json={"images": encoded})
    assert encoded not in str(problem)


def test_a_request_that_takes_too_long_is_given_up_and_the_next_is_answered(
    taught: TestClient, picture: Picture, monkeypatch: pytest.MonkeyPatch
) -> None:
    features = Classifier.features

    def slow(self: Classifier, pixels: Tensor) -> Features:
        time.sleep(0.5)
        return features(self, pixels)

    monkeypatch.setattr(Classifier, "features", slow)
    problem = refused(taught, 504, files={"images": picture(1)}, data={"timeout_ms": "50"})
    assert problem["type"] == "urn:keepsight:problem:deadline-exceeded"
    assert "0.05 s" in problem["detail"]
    assert ask(taught, picture(1), timeout_ms=20_000)["results"][0]["error"] is None


def test_a_picture_that_the_model_fails_on_fails_alone(
    taught: TestClient, tiny_backbone: Backbone, picture: Picture, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = ask(taught, *(picture(n) for n in range(8)))["results"]
    poison = to_pixels(decode_image(picture(5)), tiny_backbone.preprocessing)
    features = Classifier.features

    def failing(self: Classifier, pixels: Tensor) -> Features:
        if any(torch.equal(image, poison) for image in pixels):
            raise RuntimeError("a secret of the model")
        return features(self, pixels)

    monkeypatch.setattr(Classifier, "features", failing)
    results = ask(taught, *(picture(n) for n in range(8)))["results"]
    error = results[5]["error"]
    assert (error["status"], error["type"], results[5]["predictions"]) == (
        500,
        "urn:keepsight:problem:internal-error",
        [],
    )
    assert "secret" not in str(error)
    for before, after in zip(expected[:5] + expected[6:], results[:5] + results[6:], strict=True):
        assert after["error"] is None
        assert after["predictions"][0]["label"] == before["predictions"][0]["label"]
        assert after["predictions"][0]["score"] == pytest.approx(
            before["predictions"][0]["score"], abs=FLOAT32_REORDERED
        )


def test_more_requests_than_places_are_told_to_come_back(
    configure: Callable[..., Settings], serve: Callable[..., TestClient], picture: Picture
) -> None:
    client = serve(configure(queue_size=1))
    labels = [f"label number {n}" for n in range(200)]

    def one(n: int) -> Any:
        return client.post("/v1/classify", files={"images": picture(n)}, data={"labels": labels})

    with ThreadPoolExecutor(6) as pool:
        responses = list(pool.map(one, range(6)))
    statuses = sorted({r.status_code for r in responses})
    assert statuses == [200, 429]
    busy = next(r for r in responses if r.status_code == 429)
    assert busy.headers["retry-after"] == "1"
    assert busy.json()["type"] == "urn:keepsight:problem:busy"
    assert one(9).status_code == 200


def problem(client: TestClient, **request: Any) -> str:
    return str(refused(client, 422, **request)["detail"])


def first(response: Any) -> Any:
    assert response.status_code == 200, response.text
    return response.json()["results"][0]


@pytest.mark.parametrize("kind", ["image/png", "IMAGE/JPEG; x=y", "image/x-anything", "application/octet-stream"])
def test_an_image_may_be_the_body_itself(taught: TestClient, picture: Picture, kind: str) -> None:
    asked = taught.post("/v1/classify?top_k=2&path=text", content=picture(1), headers={"Content-Type": kind})
    result = first(asked)
    assert result["predictions"] == ask(taught, picture(1), top_k=2, path="text")["results"][0]["predictions"]
    assert result["filename"] is None
    labels = taught.post("/v1/classify?labels=cat&labels=dog", content=picture(1), headers={"Content-Type": kind})
    assert first(labels)["predictions"] == ask(taught, picture(1), labels=["cat", "dog"])["results"][0]["predictions"]


def test_a_body_that_should_be_an_image_is_refused_as_any_image_is(
    configure: Callable[..., Settings], serve: Callable[..., TestClient], picture: Picture
) -> None:
    client = serve(configure(max_image_bytes=4000))
    raw = {"Content-Type": "image/png"}
    assert "no image" in problem(client, content=b"", headers=raw)
    assert "colour" in problem(client, content=picture(1), headers=raw, params={"colour": "red"})
    labels = {"labels": ["a", "b"]}
    assert first(client.post("/v1/classify", content=b"text", headers=raw, params=labels))["error"]["status"] == 422
    large = picture(1, size=(200, 200))
    assert first(client.post("/v1/classify", content=large, headers=raw, params=labels))["error"]["status"] == 413


@pytest.mark.parametrize(
    "kind", [None, "text/plain", "application/x-www-form-urlencoded", "image", "/", "\xff", "multipart/mixed"]
)
def test_other_bodies_are_refused_with_what_to_send(taught: TestClient, picture: Picture, kind: str | None) -> None:
    headers = {} if kind is None else {"Content-Type": kind.encode("latin-1")}
    detail = refused(taught, 415, content=picture(1), headers=headers)["detail"]
    assert "multipart/form-data or application/json or image/* or application/octet-stream" in detail


@pytest.mark.parametrize("encoding", ["gzip", "br", "identity, gzip", "\xff"])
def test_a_compressed_body_is_refused(taught: TestClient, picture: Picture, encoding: str) -> None:
    headers = {"Content-Type": "image/png", "Content-Encoding": encoding.encode("latin-1")}
    assert "Content-Encoding" in refused(taught, 415, content=picture(1), headers=headers)["detail"]


def test_base64_is_read_in_every_spelling(taught: TestClient, picture: Picture) -> None:
    image = picture(1)
    plain = base64.b64encode(image).decode()
    wrapped = base64.encodebytes(image).decode()
    spellings = [
        plain, wrapped, wrapped.replace("\n", "\r\n"), plain.rstrip("="), base64.urlsafe_b64encode(image).decode(),
        "DATA:IMAGE/JPEG;BASE64," + plain, "data:image/png;charset=utf-8;base64," + wrapped,
        "data:image/png;base64," + plain.replace("+", "%2B").replace("/", "%2F"),
    ]  # fmt: skip
    results = taught.post("/v1/classify", json={"images": spellings}).json()["results"]
    expected = ask(taught, image)["results"][0]["predictions"]
    for result in results:
        assert [each["label"] for each in result["predictions"]] == [each["label"] for each in expected]
        scores = [each["score"] for each in expected]
        assert [each["score"] for each in result["predictions"]] == pytest.approx(scores, abs=FLOAT32_REORDERED)
    by_a_shell = f'{{"images": ["{wrapped}"]}}'
    raw = taught.post("/v1/classify", content=by_a_shell, headers={"Content-Type": "application/json"})
    assert first(raw)["predictions"] == expected


@pytest.mark.parametrize("text", ["https://example.org/cat.jpg", "cat.jpg", "file:///home/ada/cat.jpg"])
def test_an_address_is_no_image_and_is_not_fetched(taught: TestClient, text: str) -> None:
    error = first(taught.post("/v1/classify", json={"images": [text]}))["error"]
    assert error["status"] == 422
    assert "bytes" in error["detail"]


@pytest.mark.parametrize("text", ["rooster,chair,pizza", "a;b", "a|b", "a\nb", "a, b", "猫、犬"])
def test_labels_that_are_one_text_are_refused_with_how_to_send_them(
    taught: TestClient, picture: Picture, text: str
) -> None:
    image = {"images": picture(1)}
    encoded = base64.b64encode(picture(1)).decode()
    for detail in (
        problem(taught, files=image, data={"labels": text}),
        problem(taught, files=image, params={"labels": text}),
        problem(taught, json={"images": [encoded], "labels": [text]}),
        problem(taught, files=image, data={"labels": f'["{text}"]'.replace("\n", "\\n")}),
    ):
        assert "-F labels=cat -F labels=dog" in detail
    two = ask(taught, picture(1), labels=["cat, sitting", "dog"])["results"][0]["predictions"]
    assert {each["label"] for each in two} == {"cat, sitting", "dog"}


def test_one_true_label_is_answered(taught: TestClient, picture: Picture) -> None:
    (prediction,) = ask(taught, picture(1), labels=["rooster"])["results"][0]["predictions"]
    assert (prediction["label"], prediction["probability"]) == ("rooster", 1.0)


def test_labels_in_a_json_list_are_read_and_odd_ones_refused(taught: TestClient, picture: Picture) -> None:
    image = {"images": picture(1)}
    as_list = ask(taught, picture(1), labels='["cat", "dog"]')["results"]
    assert as_list == ask(taught, picture(1), labels=["cat", "dog"])["results"]
    in_query = taught.post("/v1/classify", files=image, params={"labels": '["cat", "dog"]'})
    assert first(in_query)["predictions"] == as_list[0]["predictions"]
    for labels in ("['cat', 'dog']", '["\\ud800", "a"]', "[1, 2]", "[[]]", "[" * 10_000, "[NaN]"):
        assert "not a JSON list" in problem(taught, files=image, data={"labels": labels})
    assert "empty" in problem(taught, files=image, data={"labels": ["a", " "]})
    assert "twice" in problem(taught, files=image, data={"labels": ["a", " a "]})
    assert "3 times" in problem(taught, files=image, data={"top_k": ["1", "2", "3"]})


def test_a_file_that_was_sent_as_a_text_is_told(taught: TestClient) -> None:
    assert "-F images=@cat.jpg" in problem(taught, files={"images": (None, "cat.jpg")})


@pytest.mark.parametrize("number", [10**400, 10**20, 2**31, 0, -1, 1e400, "x" * 20_000, "1" * 5000])
@pytest.mark.parametrize("name", ["timeout_ms", "top_k"])
def test_numbers_beyond_all_bounds_are_refused(taught: TestClient, picture: Picture, name: str, number: Any) -> None:
    encoded = base64.b64encode(picture(1)).decode()
    problem(taught, json={"images": [encoded], name: str(number)})
    problem(taught, files={"images": picture(1)}, data={name: str(number)})
    assert taught.post("/v1/classify", files={"images": picture(1)}, params={name: str(number)}).status_code == 422
    if isinstance(number, int):
        raw = f'{{"images": ["{encoded}"], "{name}": {number}}}'
        problem(taught, content=raw, headers={"Content-Type": "application/json"})


def test_a_list_of_millions_is_refused_in_few_words(taught: TestClient) -> None:
    for body in (
        b'{"images": [' + b"1," * 2_000_000 + b"1]}",
        b'{"images": [' + b'"",' * 1_000_000 + b'""]}',
        b'{"images": [], "labels": [' + b'"",' * 1_000_000 + b'""]}',
        b"{" + b",".join(b'"k%d":1' % n for n in range(300_000)) + b"}",
        b"{" + b",".join(b'"k%d":1' % n for n in range(3000)) + b"}",
        b'{"' + b"k" * 10_000 + b'":1}',
    ):
        response = taught.post("/v1/classify", content=body, headers={"Content-Type": "application/json"})
        assert response.status_code == 422
        assert len(response.content) < 16_000
        assert len(response.json().get("errors", [])) <= 20
    told = taught.post("/v1/classify", json={f"k{n}": 1 for n in range(30)} | {"images": []}).json()
    assert (len(told["errors"]), told["detail"][:10]) == (20, "30 errors,")


def test_a_query_of_many_parameters_is_refused(taught: TestClient, picture: Picture) -> None:
    many = "&".join(f"a{n}=1" for n in range(3000))
    response = taught.post(f"/v1/classify?{many}", files={"images": picture(1)})
    assert response.status_code == 422
    assert "3000 parameters" in response.json()["detail"]
    some = "&".join(f"labels=l{n}" for n in range(1000))
    assert taught.post(f"/v1/classify?{some}", files={"images": picture(1)}).status_code == 200


def test_a_set_and_unknown_are_null_where_the_version_cannot_tell(taught: TestClient, picture: Picture) -> None:
    """Its classes had too few images for any to be held out."""
    (result,) = ask(taught, picture(1), set_coverage=0.9)["results"]
    assert (result["label_set"], result["unknown"], result["unknown_score"]) == (None, None, None)


@pytest.mark.parametrize("option", ["set_coverage", "known_share"])
def test_labels_have_neither_sets_nor_unknown_images(taught: TestClient, picture: Picture, option: str) -> None:
    files = [("images", ("a.png", picture(1)))]
    response = taught.post("/v1/classify", files=files, data={"labels": ["a", "b"], option: "0.9"})
    assert (response.status_code, "learned classes" in response.json()["detail"]) == (422, True)
    response = taught.post("/v1/classify", files=files, data={option: "1"})
    assert response.status_code == 422


def test_a_stored_version_answers_beside_the_served_one(
    client: TestClient, store: Store, teach: Callable[..., VersionId], picture: Picture
) -> None:
    first = teach("cat", "dog")
    second = teach("cat", "dog", "cow", seed=1)
    wait_until(lambda: client.get("/v1/versions").json()["serving"] == second)
    served = ask(client, picture(1), top_k=5)
    beside = ask(client, picture(1), top_k=5, version=first)
    assert beside["model_version"] == first
    assert {each["label"] for each in beside["results"][0]["predictions"]} == {"cat", "dog"}
    assert ask(client, picture(1), top_k=5, version=second) == served == ask(client, picture(1), top_k=5)
    for wrong in ("000009-0123456789ab", "../../etc"):
        refused = client.post("/v1/classify", files={"images": picture(1)}, data={"version": wrong})
        assert (refused.status_code, refused.json()["type"]) == (404, "urn:keepsight:problem:version-not-found")
