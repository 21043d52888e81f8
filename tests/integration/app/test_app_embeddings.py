"""Vectors over HTTP: those of the method, in OpenAI's shape, with the space that they belong to."""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import openai
import pytest
import torch
from starlette.testclient import TestClient
from torch import Tensor

from app.settings import Settings
from model_store.store import Store
from model_store.types import Provenance, VersionId
from segp_cl.data.decoding import decode_image
from segp_cl.data.preprocessing import to_pixels
from segp_cl.learn.learner import initial_state
from segp_cl.models.backbone import Backbone
from segp_cl.models.lora import find_targets
from segp_cl.runtime.classifier import Classifier, Features
from segp_cl.types import LoraFactors, LoraState
from tests.tolerances import FLOAT32_REORDERED

Teach = Callable[..., VersionId]
Picture = Callable[..., bytes]


def uri(image: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(image).decode()


def vectors(client: TestClient, *inputs: str, **options: Any) -> Any:
    response = client.post("/v1/embeddings", json={"input": list(inputs), **options})
    assert response.status_code == 200, response.text
    return response.json()


def refused(client: TestClient, status: int, **body: Any) -> Any:
    response = client.post("/v1/embeddings", json=body)
    assert response.status_code == status, response.text
    return response.json()


def adapted(store: Store, backbone: Backbone) -> VersionId:
    """Publish and promote a version whose text tower is moved by one adapter."""
    target = find_targets(backbone.text_tower, "text", attention=False, feed_forward=True, fraction=1.0)[0]
    rows, columns = backbone.text_tower.get_submodule(target.path).get_parameter(target.parameter).shape
    draw = torch.Generator().manual_seed(0)
    factors = LoraFactors(a=torch.randn(2, columns, generator=draw), b=torch.randn(rows, 2, generator=draw))
    lora = LoraState(rank=2, scale=1.0, factors={target.key: factors})
    before = store.current()
    state = replace(initial_state(backbone), lora=lora)
    version = store.publish(state, parent=before, provenance=Provenance(who="test")).version_id
    store.promote(version, expected=before, who="test")
    return version


def test_vectors_are_those_of_the_method_in_the_order_of_the_input(
    client: TestClient, tiny_backbone: Backbone, store: Store, picture: Picture
) -> None:
    answer = vectors(client, "a cat", uri(picture(1)), "a dog", uri(picture(2)))
    assert (answer["object"], answer["model"]) == ("list", tiny_backbone.spec.name)
    assert answer["model_version"] == store.current()
    assert answer["matches_stored"] is None
    assert [item["index"] for item in answer["data"]] == [0, 1, 2, 3]
    found = torch.tensor([item["embedding"] for item in answer["data"]])

    classifier = Classifier(tiny_backbone, initial_state(tiny_backbone))
    pixels = torch.stack([to_pixels(decode_image(picture(n)), tiny_backbone.preprocessing) for n in (1, 2)])
    assert torch.allclose(found[[0, 2]], classifier.encode_prompts(["a cat", "a dog"]), atol=FLOAT32_REORDERED)
    assert torch.allclose(found[[1, 3]], classifier.features(pixels).image, atol=FLOAT32_REORDERED)
    assert torch.allclose(found.norm(dim=1), torch.ones(4), atol=FLOAT32_REORDERED)


def test_one_text_may_come_without_a_list_and_a_trained_text_is_embedded_without_a_template(
    client: TestClient, tiny_backbone: Backbone
) -> None:
    answer = client.post("/v1/embeddings", json={"input": "a cat, as on example.org"}).json()
    (vector,) = (torch.tensor(item["embedding"]) for item in answer["data"])
    assert torch.allclose(vector, tiny_backbone.text_features(["a cat, as on example.org"])[0], atol=FLOAT32_REORDERED)


def test_base64_holds_the_same_numbers(client: TestClient) -> None:
    (as_float,) = vectors(client, "a cat")["data"]
    (as_text,) = vectors(client, "a cat", encoding_format="base64")["data"]
    decoded = torch.frombuffer(bytearray(base64.b64decode(as_text["embedding"])), dtype=torch.float32)
    assert decoded.tolist() == pytest.approx(as_float["embedding"], abs=FLOAT32_REORDERED)


def test_the_unmodified_openai_client_gets_vectors(
    configure: Callable[..., Settings], listen: Callable[[Settings], str], tiny_backbone: Backbone, picture: Picture
) -> None:
    with openai.OpenAI(base_url=f"{listen(configure())}/v1", api_key="unused") as client:
        answer = client.embeddings.create(model="keepsight", input=["a cat", uri(picture(1))])
        with pytest.raises(openai.UnprocessableEntityError) as refusal:
            client.embeddings.create(model="gpt", input="a cat")
    expected = tiny_backbone.text_features(["a cat"])[0]
    assert answer.data[0].embedding == pytest.approx(expected.tolist(), abs=FLOAT32_REORDERED)
    assert len(answer.data) == 2
    assert "model is 'gpt'" in refusal.value.response.json()["detail"]


def test_a_client_is_told_whether_its_stored_vectors_still_match(
    client: TestClient,
    store: Store,
    teach: Teach,
    tiny_backbone: Backbone,
    configure: Callable[..., Settings],
    serve: Callable[..., TestClient],
) -> None:
    first = vectors(client, "a cat")
    one = first["model_version"]
    assert vectors(client, "a cat", stored_version=one)["matches_stored"] is True

    two = teach("cat", "dog")  # prototypes and texts of classes: the space stays
    same = vectors(serve(configure()), "a cat", stored_version=one)
    assert (same["model_version"], same["matches_stored"], same["space"]) == (two, True, first["space"])

    three = adapted(store, tiny_backbone)
    other = vectors(serve(configure()), "a cat", stored_version=one)
    assert (other["model_version"], other["matches_stored"]) == (three, False)
    assert other["space"] != first["space"]
    assert other["data"][0]["embedding"] != pytest.approx(first["data"][0]["embedding"], abs=1e-3)
    assert vectors(serve(configure()), "a cat", stored_version=first["space"])["matches_stored"] is False
    assert vectors(serve(configure()), "a cat", stored_version=other["space"])["matches_stored"] is True


def test_what_cannot_be_embedded_is_refused_with_its_place(
    configure: Callable[..., Settings], serve: Callable[..., TestClient], picture: Picture
) -> None:
    client = serve(configure(max_images=2, max_labels=3))
    assert "input 1: " in refused(client, 422, input=["a cat", "data:image/png;base64,aGk="])["detail"]
    assert "base64" in refused(client, 422, input=["data:image/png;base64,%%%"])["detail"]
    assert "empty" in refused(client, 422, input=[])["detail"]
    assert "input 1 has 0 characters" in refused(client, 422, input=["a", ""])["detail"]
    assert "3 images" in refused(client, 422, input=[uri(picture(n)) for n in range(3)])["detail"]
    assert "4 texts" in refused(client, 422, input=["a"] * 4)["detail"]
    assert "colour" in refused(client, 422, input="a", colour="red")["detail"]
    assert "encoding_format" in refused(client, 422, input="a", encoding_format="int8")["detail"]
    assert refused(client, 404, input="a", stored_version="000009-0123456789ab")["type"].endswith("version-not-found")
    assert client.post("/v1/embeddings", content=b"{").status_code == 422


def test_an_image_that_the_model_fails_on_refuses_the_request_without_telling_why(
    client: TestClient, picture: Picture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(self: Classifier, pixels: Tensor) -> Features:
        raise RuntimeError("a secret of the model")

    monkeypatch.setattr(Classifier, "features", failing)
    problem = refused(client, 500, input=[uri(picture(1))])
    assert problem["type"] == "urn:keepsight:problem:internal-error"
    assert "secret" not in str(problem)


def test_what_an_input_was_taken_for_is_said(client: TestClient, picture: Picture) -> None:
    jpeg = base64.b64encode(picture(1, kind="JPEG")).decode()
    inputs = {
        "a cat": "text",
        uri(picture(1)): "image",
        "DATA:IMAGE/JPEG;BASE64," + jpeg: "image",
        "data:application/octet-stream;base64," + jpeg: "image",
        jpeg: "image",
        base64.encodebytes(picture(1)).decode(): "image",
        "a text " * 1200: "text",
    }
    answer = vectors(client, *inputs)
    assert [item["kind"] for item in answer["data"]] == [*inputs.values()]
    same = [answer["data"][n]["embedding"] for n in (2, 3, 4)]
    assert same[0] == same[1] == same[2] != answer["data"][0]["embedding"]


@pytest.mark.parametrize(
    "text",
    ["https://example.org/cat.jpg", "http://localhost/x", "photos/cat.jpg", "data:text/plain,hello",
     base64.b64encode(bytes(range(256))).decode(), "data:application/octet-stream;base64,aGVsbG8="],
)  # fmt: skip
def test_what_is_no_text_is_never_embedded_as_one(client: TestClient, text: str) -> None:
    detail = refused(client, 422, input=["a cat", text])["detail"]
    assert detail.startswith("input 1: ")


def test_a_text_that_is_too_long_is_refused_however_long_it_is(client: TestClient) -> None:
    for length in (10_001, 20_000, 300_000):
        assert "10000" in refused(client, 422, input=["x " * (length // 2) + "x" * (length % 2)])["detail"]
    assert "entries" in refused(client, 422, input=["a"] * 2000)["detail"]
    assert "marks" not in refused(client, 422, input=[1] * 3000)["detail"]
    assert "strings, commas" in refused(client, 422, input=["a"] * 100_000)["detail"]
