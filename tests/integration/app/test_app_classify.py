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
    probabilities = classifier.fused_probabilities(scores.fused)
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
                == pytest.approx(float(scores.fused[row, i]), abs=FLOAT32_REORDERED)
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
