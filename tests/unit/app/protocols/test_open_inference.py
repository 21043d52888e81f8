"""The wire format, against a reader and a writer of these tests' own, and against whatever a client may send."""

from __future__ import annotations

import base64
import contextlib
import json
import struct
from collections import deque
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from fastapi.exceptions import RequestValidationError
from hypothesis import example, given
from hypothesis import strategies as st

from app.errors import InvalidRequestError
from app.protocols.open_inference import IMAGES, OUTPUTS, InferRequest, Limits, Wanted, read_request, write_answer
from app.serving.engine import Scored
from segp_cl.errors import ImageDecodeError

Images = list[bytes]
images = st.lists(st.binary(max_size=40), max_size=6)
numbers = st.integers() | st.sampled_from([-1, 2**31, 2**63, 10**400, -(10**4000), 10**4000])
anything = st.recursive(
    st.none() | st.booleans() | numbers | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


def elements(data: Sequence[bytes]) -> bytes:
    """A BYTES tensor as the protocol describes it."""
    return b"".join(struct.pack("<I", len(item)) + item for item in data)


def split(raw: bytes) -> Images:
    """The elements of a BYTES tensor."""
    found = []
    while raw:
        (length,) = struct.unpack_from("<I", raw)
        found.append(raw[4 : 4 + length])
        raw = raw[4 + length :]
    return found


def head(shape: object, *, outputs: Sequence[object] = (), **tensor: object) -> bytes:
    fields = {"name": IMAGES, "shape": shape, "datatype": "BYTES", **tensor}
    return json.dumps({"inputs": [fields], "outputs": list(outputs)}).encode()


def read(body: bytes, header_length: int | None, *, piece: int = 7) -> InferRequest:
    """What is read from a body that arrives in pieces."""
    pieces = deque(body[at : at + piece] for at in range(0, len(body), piece))
    return read_request(pieces, header_length, Limits(max_images=64, max_image_bytes=1000, max_marks=1000))


def read_if_well_formed(body: bytes, header_length: int | None) -> InferRequest | None:
    """What was read; None if it was refused as it should be. Any other exception is a failure."""
    with contextlib.suppress(InvalidRequestError, RequestValidationError):
        return read(body, header_length)
    return None


@given(images)
def test_binary_images_arrive_as_they_were_sent(data: Images) -> None:
    raw = elements(data)
    json_part = head([len(data)], parameters={"binary_data_size": len(raw)})
    assert read(json_part + raw, len(json_part)).images == data


@given(st.lists(st.binary(min_size=1, max_size=40), max_size=6), st.sampled_from(["", "data:image/png;base64,"]))
def test_base64_images_arrive_as_they_were_sent(data: Images, prefix: str) -> None:
    texts = [prefix + base64.b64encode(item).decode() for item in data]
    assert read(head([len(data)], data=texts), None).images == data
    nested = [[text] for text in texts]
    assert read(head([len(data), 1], data=nested), None).images == data


@given(st.text(max_size=20))
def test_text_that_is_not_base64_is_an_error_in_its_own_slot(text: str) -> None:
    first, second = read(head([2], data=[text, "aW1n"]), None).images
    assert second == b"img"
    assert isinstance(first, bytes | ImageDecodeError)


@given(st.binary(max_size=60))
@example(b"\xff\xff\xff\xff")
@example(b"\0\0\0")
def test_a_binary_tensor_is_refused_or_read_to_its_last_byte(raw: bytes) -> None:
    with contextlib.suppress(struct.error):  # the reader here takes well-formed tensors only
        if elements(split(raw)) == raw:
            json_part = head([len(split(raw))], parameters={"binary_data_size": len(raw)})
            assert read(json_part + raw, len(json_part)).images == split(raw)
            return
    for count in range(len(raw) + 1):
        json_part = head([count], parameters={"binary_data_size": len(raw)})
        with pytest.raises(InvalidRequestError, match="beyond the end of the body"):
            read(json_part + raw, len(json_part))


@given(st.binary(max_size=60), st.none() | st.integers())
@example(b"{}", -1)
@example(b"{}", 10**4000)
def test_any_bytes_and_any_header_length_are_refused_in_words(body: bytes, header_length: int | None) -> None:
    read_if_well_formed(body, header_length)


tensors = st.fixed_dictionaries(
    {
        "name": st.sampled_from([IMAGES, "x"]) | anything,
        "shape": st.lists(numbers, max_size=3) | anything,
        "datatype": st.sampled_from(["BYTES", "FP32"]) | anything,
    },
    optional={
        "parameters": st.fixed_dictionaries({}, optional={"binary_data_size": anything}) | anything,
        "data": st.lists(st.text(max_size=8), max_size=3) | anything,
    },
)
asked = st.fixed_dictionaries(
    {"name": st.sampled_from([*OUTPUTS, "x"]) | anything},
    optional={
        "parameters": st.fixed_dictionaries({}, optional={"classification": anything, "binary_data": anything})
        | anything
    },
)
bodies = st.fixed_dictionaries(
    {"inputs": st.lists(tensors, min_size=1, max_size=2) | anything},
    optional={
        "id": anything,
        "parameters": st.fixed_dictionaries({}, optional={"timeout": anything, "binary_data_output": anything}),
        "outputs": st.lists(asked, max_size=2) | anything,
    },
)


@given(bodies, st.binary(max_size=20), st.booleans())
@example({"inputs": [{"name": IMAGES, "shape": [10**4000, 10**4000], "datatype": "BYTES"}]}, b"", True)
@example(
    {"inputs": [{"name": IMAGES, "shape": [0], "datatype": "BYTES"}], "parameters": {"timeout": 10**400}}, b"", True
)
def test_any_json_is_read_or_refused_in_words(body: dict[str, Any], behind: bytes, whole: bool) -> None:
    json_part = json.dumps(body).encode()
    request = read_if_well_formed(json_part if whole else json_part + behind, None if whole else len(json_part))
    if request is not None:
        assert request.timeout_ms is None or request.timeout_ms > 0
        assert all(wanted.name in OUTPUTS and wanted.classes >= 0 for wanted in request.wanted)
        write_answer([scored_of([0.25, 0.75], ["a", "b"])], request, model_name="m", model_version="v")


@pytest.mark.parametrize("shape", [[-1, -2], [2**31], [1] * 9, [10**4000, 10**4000]])
def test_a_shape_that_no_request_has_is_refused(shape: list[int]) -> None:
    with pytest.raises(RequestValidationError):
        read(head(shape, data=["aW1n", "aW1n"]), None)


@pytest.mark.parametrize(("microseconds", "milliseconds"), [(1, 1), (1000, 1), (1001, 2), (10**90, 10**87)])
def test_a_timeout_is_rounded_up_to_milliseconds(microseconds: int, milliseconds: int) -> None:
    body = json.loads(head([0], data=[])) | {"parameters": {"timeout": microseconds}}
    assert read(json.dumps(body).encode(), None).timeout_ms == milliseconds


@pytest.mark.parametrize("timeout", [0, -1, 1.5, "1", True])
def test_a_timeout_that_is_no_number_of_microseconds_is_refused(timeout: object) -> None:
    body = json.loads(head([0], data=[])) | {"parameters": {"timeout": timeout}}
    with pytest.raises(InvalidRequestError, match="timeout is"):
        read(json.dumps(body).encode(), None)


def scored_of(scores: Sequence[float], labels: Sequence[str]) -> Scored:
    fused = torch.tensor(scores, dtype=torch.float32)
    return Scored(tuple(labels), "fused", fused / 2, fused / 4, fused, fused.softmax(0))


@st.composite
def answers(draw: st.DrawFn) -> list[Scored]:
    """Scores of one to three images over the same labels."""
    labels = draw(st.lists(st.text(max_size=6), min_size=1, max_size=5, unique=True))
    rows = st.lists(st.floats(-100, 100, width=32), min_size=len(labels), max_size=len(labels))
    return [scored_of(row, labels) for row in draw(st.lists(rows, min_size=1, max_size=3))]


def outputs_of(content: bytes, head_length: int | None) -> dict[str, Any]:
    """Every output's values, wherever they are, as a client reads them."""
    parsed = json.loads(content[:head_length])
    behind = content[len(content) if head_length is None else head_length :]
    found: dict[str, Any] = {}
    for output in parsed["outputs"]:
        size = output.get("parameters", {}).get("binary_data_size")
        if size is None:
            found[output["name"]] = output["data"]
            continue
        raw, behind = behind[:size], behind[size:]
        values = [item.decode() for item in split(raw)] if output["datatype"] == "BYTES" else floats(raw)
        found[output["name"]] = values
    assert behind == b""
    return found


def floats(raw: bytes) -> list[float]:
    return [value for (value,) in struct.iter_unpack("<f", raw)]


@given(answers(), st.integers(0, 6), st.lists(st.booleans(), min_size=len(OUTPUTS), max_size=len(OUTPUTS)))
def test_binary_and_json_outputs_say_the_same(scored: list[Scored], classes: int, binary: list[bool]) -> None:
    def answer(*binary: bool) -> dict[str, Any]:
        wanted = [
            Wanted(name, classes if datatype == "FP32" else 0, behind)
            for (name, datatype), behind in zip(OUTPUTS.items(), binary, strict=True)
        ]
        request = InferRequest(id="i", images=[], wanted=wanted, timeout_ms=None)
        return outputs_of(*write_answer(scored, request, model_name="m", model_version="v"))

    in_json = answer(*[False] * len(OUTPUTS))
    assert answer(*binary) == in_json
    assert answer(*[True] * len(OUTPUTS)) == in_json
    count = len(scored[0].labels)
    assert in_json["labels"] == [image.labels[int(image.ranking.argmax())] for image in scored]
    for name in ("probabilities", "scores", "text_scores", "visual_scores"):
        assert len(in_json[name]) == len(scored) * (min(classes, count) or count)
    if classes == 0:
        assert in_json["scores"] == [float(value) for image in scored for value in image.ranking]
