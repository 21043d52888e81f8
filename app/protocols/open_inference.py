"""The wire format of the Open Inference Protocol (v2), with its binary tensor and classification extensions.

https://github.com/kserve/open-inference-protocol, and Triton's extensions to it. Images come in as one BYTES tensor;
results go out as FP32 and BYTES tensors, in the JSON or after it.
"""

from __future__ import annotations

import json
import math
import struct
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from app.encoded_images import from_base64
from app.errors import InvalidRequestError
from app.json_body import LongText, parse_json
from app.serving.engine import Scored
from segp_cl.errors import KeepsightError

IMAGES = "images"
HEADER_LENGTH = "Inference-Header-Content-Length"
OutputName = Literal["labels", "probabilities", "scores", "text_scores", "visual_scores"]
OUTPUTS: dict[OutputName, Literal["BYTES", "FP32"]] = {
    "labels": "BYTES",
    "probabilities": "FP32",
    "scores": "FP32",
    "text_scores": "FP32",
    "visual_scores": "FP32",
}


MAX_DIMENSIONS = 8
MAX_OUTPUTS = 32
_Dimension = Annotated[int, Field(ge=0, lt=2**31)]


class _Input(BaseModel):
    model_config = ConfigDict(extra="ignore")

    name: str
    shape: list[_Dimension] = Field(max_length=MAX_DIMENSIONS, fail_fast=True)
    datatype: str
    parameters: dict[str, Any] = {}
    data: list[Any] | None = None


class _Output(BaseModel):
    model_config = ConfigDict(extra="ignore")

    name: OutputName
    parameters: dict[str, Any] = {}


class _Body(BaseModel):
    model_config = ConfigDict(extra="ignore")

    id: str | None = None
    parameters: dict[str, Any] = {}
    inputs: list[_Input] = Field(fail_fast=True)
    outputs: list[_Output] = Field([], max_length=MAX_OUTPUTS, fail_fast=True)


@dataclass(frozen=True)
class Limits:
    """What a request may have at most; see the server's settings of the same names."""

    max_images: int
    max_image_bytes: int
    max_marks: int


@dataclass(frozen=True)
class Wanted:
    """One requested output. `classes` is how many best classes to return as text; 0 returns all numbers."""

    name: OutputName
    classes: int
    binary: bool


@dataclass(frozen=True)
class InferRequest:
    """A parsed `/infer` request. An image that failed to parse is carried as an error in its slot."""

    id: str | None
    images: list[bytes | KeepsightError]
    wanted: list[Wanted]
    timeout_ms: int | None


class InferAnswer(BaseModel):
    """The JSON of an answer. The data of binary tensors follows it."""

    model_name: str
    model_version: str
    id: str | None = None
    outputs: list[dict[str, Any]] = Field(description="name, datatype, shape, and data or parameters")


class ServerMetadata(BaseModel):
    """The server's metadata in the Open Inference Protocol."""

    name: str = "keepsight"
    version: str
    extensions: list[str] = ["binary_tensor_data", "classification"]


class Health(BaseModel):
    """Whether the server is alive and, on the ready routes, ready; if it is not, the status is not 200."""

    live: bool = True
    ready: bool | None = None


class TensorMetadata(BaseModel):
    """A tensor's name, type and shape; -1 stands for any size."""

    name: str
    datatype: str
    shape: list[int]


class ModelMetadata(BaseModel):
    """The model as the Open Inference Protocol describes it: the version that is served, and its tensors."""

    name: str
    versions: list[str]
    platform: str = "keepsight"
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


def read_request(pieces: deque[bytes], header_length: int | None, limits: Limits) -> InferRequest:
    """Parse a request's body, whose first `header_length` bytes are JSON (None: all), and empty `pieces`.

    Raises:
        InvalidRequestError: this model cannot answer it; the message says why.
        RequestValidationError: its JSON does not follow the protocol.
    """
    size = sum(map(len, pieces))
    if header_length is not None and not 0 <= header_length <= size:
        raise InvalidRequestError(f"{HEADER_LENGTH} is {header_length}, but the body has {size} bytes")
    head = pieces if header_length is None else _take(pieces, header_length)
    parsed = parse_json(head, _Body, max_marks=limits.max_marks)
    if len(parsed.inputs) != 1 or parsed.inputs[0].name != IMAGES or parsed.inputs[0].datatype != "BYTES":
        found = ", ".join(f"{tensor.name!r} ({tensor.datatype})" for tensor in parsed.inputs) or "nothing"
        raise InvalidRequestError(f"inputs are {found}; expected one, {IMAGES!r} (BYTES)")
    images = _images(parsed.inputs[0], pieces, limits)
    all_binary = parsed.parameters.get("binary_data_output") is True
    wanted = [_wanted(output, all_binary) for output in parsed.outputs]
    timeout_us = parsed.parameters.get("timeout")
    if timeout_us is not None and not (type(timeout_us) is int and timeout_us > 0):  # bool is an int too
        raise InvalidRequestError(f"timeout is {timeout_us!r}; expected a positive number of microseconds")
    return InferRequest(
        id=parsed.id,
        images=images,
        wanted=wanted or [Wanted(name, 0, all_binary) for name in OUTPUTS],
        timeout_ms=None if timeout_us is None else -(-timeout_us // 1000),  # rounded up, whatever its size
    )


def write_answer(
    scored: Sequence[Scored], request: InferRequest, *, model_name: str, model_version: str
) -> tuple[bytes, int | None]:
    """Return the body of an answer, and how many bytes of it are JSON (None: all)."""
    outputs: list[dict[str, Any]] = []
    behind: list[bytes] = []
    for wanted in request.wanted:
        datatype, shape, values, raw = _tensor(scored, wanted)
        output: dict[str, Any] = {"name": wanted.name, "datatype": datatype, "shape": shape}
        if wanted.binary:
            output["parameters"] = {"binary_data_size": len(raw)}
            behind.append(raw)
        else:
            output["data"] = values
        outputs.append(output)
    answer = InferAnswer(model_name=model_name, model_version=model_version, id=request.id, outputs=outputs)
    head = json.dumps(answer.model_dump(exclude_none=True), ensure_ascii=False).encode()
    return b"".join((head, *behind)), len(head) if behind else None


def _images(tensor: _Input, behind: deque[bytes], limits: Limits) -> list[bytes | KeepsightError]:
    """Return the images; their number is checked before any is decoded."""
    count = math.prod(tensor.shape)
    if count > limits.max_images:
        raise InvalidRequestError(f"shape {tensor.shape} has {count} images; at most {limits.max_images} are allowed")
    size = tensor.parameters.get("binary_data_size")
    if size is not None:
        got = sum(map(len, behind))
        if size != got:
            raise InvalidRequestError(f"binary_data_size is {size!r}, but {got} bytes follow the JSON")
        return [*_elements(behind, got, tensor.shape, count, limits.max_image_bytes)]
    texts = _flat(tensor.data or [], MAX_DIMENSIONS)
    if not all(isinstance(text, str | LongText) for text in texts):
        raise InvalidRequestError("data has elements that are not text; expected images in base64")
    if count != len(texts):
        raise InvalidRequestError(f"shape {tensor.shape} has {count} elements; got {len(texts)}")
    return [from_base64(text, max_bytes=limits.max_image_bytes) for text in texts]


def _elements(pieces: deque[bytes], size: int, shape: list[int], count: int, max_bytes: int) -> list[bytes]:
    """Split a binary BYTES tensor, where each element follows its length in four bytes (little-endian).

    Of an element that has more than `max_bytes`, one byte more than these is kept.
    """
    found: list[bytes] = []
    while size:
        length = int.from_bytes(b"".join(_take(pieces, 4)), "little")
        if size < 4 + length:
            raise InvalidRequestError(f"element {len(found)} of {IMAGES!r} goes beyond the end of the body")
        if len(found) == count:
            raise InvalidRequestError(f"shape {shape} has {count} elements; more follow the JSON")
        size -= 4 + length
        element = bytearray()
        for piece in _take(pieces, length):
            element += piece[: max_bytes + 1 - len(element)]
        found.append(bytes(element))
    if len(found) != count:
        raise InvalidRequestError(f"shape {shape} has {count} elements; got {len(found)}")
    return found


def _take(pieces: deque[bytes], count: int) -> deque[bytes]:
    """Take the first `count` bytes off `pieces`."""
    taken: deque[bytes] = deque()
    while count and pieces:
        piece = pieces.popleft()
        taken.append(piece[:count])
        if len(piece) > count:
            pieces.appendleft(piece[count:])
        count -= len(taken[-1])
    return taken


def _flat(data: list[Any], depth: int) -> list[Any]:
    if not depth:
        raise InvalidRequestError(f"data is nested more than {MAX_DIMENSIONS} deep")
    return [item for each in data for item in (_flat(each, depth - 1) if isinstance(each, list) else [each])]


def _wanted(output: _Output, all_binary: bool) -> Wanted:
    classes = output.parameters.get("classification", 0)
    if not isinstance(classes, int) or classes < 0 or (classes and OUTPUTS[output.name] != "FP32"):
        raise InvalidRequestError(
            f"classification is {classes!r} for {output.name!r}; expected 0 or more, and 0 unless the output is FP32"
        )
    return Wanted(output.name, classes, output.parameters.get("binary_data", all_binary) is True)


def _tensor(scored: Sequence[Scored], wanted: Wanted) -> tuple[str, list[int], list[Any], bytes]:
    """Return the datatype, the shape, and the values as a flat list and as binary tensor bytes."""
    if wanted.name == "labels":
        best = [image.labels[int(image.ranking.argmax())] for image in scored]
        return "BYTES", [len(best)], best, _bytes(best)
    rows = torch.stack([_row(image, wanted.name) for image in scored])
    if wanted.classes:
        values, places = rows.sort(descending=True, stable=True)
        texts = [
            f"{value:f}:{place}:{image.labels[place]}"
            for image, of_image, at_image in zip(scored, values.tolist(), places.tolist(), strict=True)
            for value, place in zip(of_image[: wanted.classes], at_image[: wanted.classes], strict=True)
        ]
        return "BYTES", [len(rows), min(wanted.classes, rows.shape[1])], texts, _bytes(texts)
    numbers = rows.to(torch.float32)
    return "FP32", list(rows.shape), numbers.flatten().tolist(), numbers.numpy().astype("<f4").tobytes()


def _row(image: Scored, name: OutputName) -> Tensor:
    row = {
        "probabilities": image.probabilities,
        "scores": image.ranking,
        "text_scores": image.text,
        "visual_scores": image.visual,
    }[name]
    assert row is not None, "learned classes have prototypes"
    return row


def _bytes(texts: Sequence[str]) -> bytes:
    return b"".join(struct.pack("<I", len(data)) + data for data in (text.encode() for text in texts))
