"""The Open Inference Protocol, spoken with Triton's own client over real sockets."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
import tritonclient.http as triton
from starlette.testclient import TestClient
from tritonclient.utils import InferenceServerException

from app.settings import Settings
from model_store.store import Store
from model_store.types import VersionId
from segp_cl.data.decoding import decode_image
from segp_cl.data.preprocessing import to_pixels
from segp_cl.models.backbone import Backbone
from segp_cl.runtime.classifier import Classifier
from tests.tolerances import FLOAT32_REORDERED

Teach = Callable[..., VersionId]
Picture = Callable[..., bytes]
NAMES = ("cat", "dog", "fox")


@pytest.fixture
def version(client: TestClient, teach: Teach) -> VersionId:
    """A store whose current version knows three classes."""
    return teach(*NAMES)


@pytest.fixture
def speak(
    version: VersionId, configure: Callable[..., Settings], listen: Callable[[Settings], str]
) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(listen(configure()).removeprefix("http://")) as client:
        yield client


def images(*data: bytes) -> list[triton.InferInput]:
    tensor = triton.InferInput("images", [len(data)], "BYTES")
    tensor.set_data_from_numpy(np.array(data, dtype=np.object_))
    return [tensor]


def expected(store: Store, backbone: Backbone, *data: bytes) -> dict[str, torch.Tensor]:
    current = store.current()
    assert current is not None
    classifier = Classifier(backbone, store.open(current))
    scores = classifier.scores(torch.stack([to_pixels(decode_image(d), backbone.preprocessing) for d in data]))
    return {
        "probabilities": classifier.class_probabilities(scores.fused, "fused"),
        "scores": classifier.weighted_mean(scores.fused),
        "text_scores": scores.text,
        "visual_scores": scores.visual,
    }


def test_the_unmodified_client_gets_every_output(
    speak: triton.InferenceServerClient, version: VersionId, store: Store, tiny_backbone: Backbone, picture: Picture
) -> None:
    data = [picture(1), picture(2), picture(3, "JPEG")]
    answer = speak.infer("keepsight", images(*data), request_id="mine")
    truth = expected(store, tiny_backbone, *data)
    for name, rows in truth.items():
        assert answer.as_numpy(name).dtype == np.float32
        assert np.allclose(answer.as_numpy(name), rows.numpy(), atol=FLOAT32_REORDERED), name
    best = [NAMES[place] for place in truth["scores"].argmax(1).tolist()]
    assert [label.decode() for label in answer.as_numpy("labels")] == best
    response = answer.get_response()
    assert (response["model_name"], response["model_version"], response["id"]) == ("keepsight", version, "mine")


@pytest.mark.parametrize("binary", [True, False])
def test_it_gets_classifications(
    speak: triton.InferenceServerClient, store: Store, tiny_backbone: Backbone, picture: Picture, binary: bool
) -> None:
    wanted = [
        triton.InferRequestedOutput("probabilities", binary_data=binary, class_count=2),
        triton.InferRequestedOutput("labels", binary_data=not binary),
    ]
    answer = speak.infer("keepsight", images(picture(1), picture(2)), outputs=wanted)
    found = answer.as_numpy("probabilities")
    assert found.shape == (2, 2)
    assert answer.as_numpy("scores") is None  # was not asked for
    for row, likely in zip(found, expected(store, tiny_backbone, picture(1), picture(2))["probabilities"], strict=True):
        order = likely.argsort(descending=True)[:2].tolist()
        for text, place in zip(row, order, strict=True):
            value, index, label = (text.decode() if isinstance(text, bytes) else text).split(":")
            assert (int(index), label) == (place, NAMES[place])
            assert float(value) == pytest.approx(float(likely[place]), abs=FLOAT32_REORDERED)


def test_it_learns_what_is_served(speak: triton.InferenceServerClient, version: VersionId, picture: Picture) -> None:
    assert speak.is_server_live()
    assert speak.is_server_ready()
    assert "binary_tensor_data" in speak.get_server_metadata()["extensions"]
    assert speak.is_model_ready("keepsight")
    assert speak.is_model_ready("keepsight", version)
    assert not speak.is_model_ready("keepsight", "000009-0123456789ab")
    assert not speak.is_model_ready("resnet")
    described = speak.get_model_metadata("keepsight")
    assert described["versions"] == [version]
    assert described["inputs"] == [{"name": "images", "datatype": "BYTES", "shape": [-1]}]
    shapes = {output["name"]: (output["datatype"], output["shape"]) for output in described["outputs"]}
    assert (shapes["labels"], shapes["probabilities"]) == (("BYTES", [-1]), ("FP32", [-1, 3]))
    by_version = speak.infer("keepsight", images(picture(1)), model_version=version)
    assert by_version.as_numpy("scores").shape == (1, 3)


def test_it_is_told_what_was_wrong(speak: triton.InferenceServerClient, picture: Picture) -> None:
    with pytest.raises(InferenceServerException, match="image 1: expected an image") as wrong:
        speak.infer("keepsight", images(picture(1), b"no image"))
    assert wrong.value.status() == "422"
    with pytest.raises(InferenceServerException, match="no model 'resnet'"):
        speak.infer("resnet", images(picture(1)))
    with pytest.raises(InferenceServerException, match="version '7' is not served"):
        speak.infer("keepsight", images(picture(1)), model_version="7")
    with pytest.raises(InferenceServerException, match="outputs"):
        speak.infer("keepsight", images(picture(1)), outputs=[triton.InferRequestedOutput("logits")])
    with pytest.raises(InferenceServerException, match="classification is 2 for 'labels'"):
        speak.infer("keepsight", images(picture(1)), outputs=[triton.InferRequestedOutput("labels", class_count=2)])
    pixels = triton.InferInput("images", [1, 2], "FP32")
    pixels.set_data_from_numpy(np.zeros((1, 2), np.float32))
    with pytest.raises(InferenceServerException, match="'images' \\(FP32\\)"):
        speak.infer("keepsight", [pixels])
    with pytest.raises(InferenceServerException, match="no image"):
        speak.infer("keepsight", images())


def test_a_deadline_in_microseconds_is_kept(speak: triton.InferenceServerClient, picture: Picture) -> None:
    assert speak.infer("keepsight", images(picture(1)), timeout=20_000_000).as_numpy("labels").shape == (1,)
    with pytest.raises(InferenceServerException, match=r"within 0\.001 s"):
        speak.infer("keepsight", images(*(picture(n, size=(900, 900)) for n in range(4))), timeout=1)


@pytest.fixture
def taught(version: VersionId, configure: Callable[..., Settings], serve: Callable[..., TestClient]) -> TestClient:
    return serve(configure())


def infer(client: TestClient, content: bytes, **headers: Any) -> Any:
    return client.post("/v2/models/keepsight/infer", content=content, headers=headers)


def test_images_may_come_as_base64_within_the_json(taught: TestClient, picture: Picture) -> None:
    data = [[base64.b64encode(picture(1)).decode()], [base64.b64encode(picture(2)).decode()]]
    body = {"inputs": [{"name": "images", "shape": [2, 1], "datatype": "BYTES", "data": data}]}
    answer = infer(taught, json.dumps(body).encode())
    assert answer.status_code == 200, answer.text
    outputs = {output["name"]: output for output in answer.json()["outputs"]}
    assert (outputs["scores"]["shape"], len(outputs["scores"]["data"])) == ([2, 3], 6)
    assert set(outputs["labels"]["data"]) <= set(NAMES)
    assert "id" not in answer.json()


def test_broken_bodies_are_refused_with_a_reason(taught: TestClient, picture: Picture) -> None:
    def body(size: int | None, shape: list[int], **more: Any) -> bytes:
        parameters = {} if size is None else {"binary_data_size": size}
        tensor = {"name": "images", "shape": shape, "datatype": "BYTES", "parameters": parameters}
        return json.dumps({"inputs": [tensor], **more}).encode()

    def refused(head: bytes, raw: bytes = b"", length: str | bytes | None = None) -> str:
        answer = infer(taught, head + raw, **{"Inference-Header-Content-Length": length or str(len(head))})
        assert answer.status_code == 422, answer.text
        assert answer.json()["error"] == answer.json()["detail"]
        return str(answer.json()["error"])

    assert "5 bytes follow" in refused(body(4, [1]), b"12345")
    assert "goes beyond the end" in refused(body(5, [1]), b"\xff\xff\xff\xff1")
    assert "shape [3] has 3 elements; got 1" in refused(body(5, [3]), b"\x01\0\0\0x")
    assert "the body has" in refused(body(None, [1]), length="100000")
    for length in ("-1", b"\xb2", "1" * 5000):
        assert "expected a number" in refused(body(None, [1]), length=length)
    assert "65 images" in refused(body(65 * 4, [65]), bytes(65 * 4))
    assert "timeout is" in refused(body(0, [0], parameters={"timeout": -1}))
    assert "inputs" in refused(b"{}")
    assert "JSON" in refused(b"{not json")
    assert infer(taught, b"{}", Authorization="Bearer ks_unknown").status_code == 422  # no keys: anybody from here


def test_a_body_that_is_too_large_is_refused_in_the_protocols_words(
    version: VersionId, configure: Callable[..., Settings], serve: Callable[..., TestClient]
) -> None:
    answer = infer(serve(configure(max_classify_bytes=10)), b"x" * 11)
    assert (answer.status_code, answer.headers["connection"]) == (413, "close")
    assert answer.json()["error"] == answer.json()["detail"]


def test_before_the_first_task_there_is_nothing_to_infer(client: TestClient, picture: Picture) -> None:
    answer = infer(client, b"{}")
    assert (answer.status_code, answer.json()["type"]) == (409, "urn:keepsight:problem:no-classes")
    assert client.get("/v2/models/keepsight").json()["outputs"][1]["shape"] == [-1, 0]
