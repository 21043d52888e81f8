"""Routes of the Open Inference Protocol (v2), for clients such as Triton's."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response

from app.deps import AnyCaller, ClassifyCaller, ServicesDep, from_here_if_keyless
from app.errors import InvalidRequestError, ModelNotFoundError
from app.json_body import receive
from app.media_types import check_not_compressed
from app.offload import in_thread, off_loop
from app.openapi import problems
from app.protocols.open_inference import (
    HEADER_LENGTH,
    IMAGES,
    OUTPUTS,
    Health,
    InferAnswer,
    Limits,
    ModelMetadata,
    ServerMetadata,
    TensorMetadata,
    read_request,
    write_answer,
)
from app.routes.health import require_ready
from app.services import Services
from app.serving.answer_images import Pixels, all_or_nothing, answer_images, check_image_count
from app.serving.engine import Scored
from app.serving.live_model import Served

_BYTES_PER_SCORE = 64  # in an answer with all outputs
router = APIRouter(prefix="/v2", tags=["open inference"])
NAME = "keepsight"
_BODY = {
    "required": True,
    "content": {
        "application/json": {
            "example": {"inputs": [{"name": IMAGES, "shape": [1], "datatype": "BYTES", "data": ["iVBORw0KGgo="]}]}
        },
        "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
    },
}

_INFER: dict[str, Any] = {
    "response_model": InferAnswer,
    "responses": problems(400, 404, 409, 413, 415, 422, 429, 503, 504),
    "openapi_extra": {"requestBody": _BODY},
}


@router.get("", summary="The server", responses=problems())
async def server(caller: AnyCaller) -> ServerMetadata:
    """Return the server's name, its version, and the protocol extensions that it supports."""
    return ServerMetadata(version=version("keepsight"))


@router.get(
    "/health/live",
    summary="The process answers",
    response_model_exclude_none=True,
    responses=problems(keyed=False),
)
async def live() -> Health:
    """Answer 200 while the process runs."""
    return Health()


@router.get(
    "/health/ready",
    summary="A version is loaded and answers",
    responses=problems(403, 503, keyed=False),
    dependencies=[Depends(from_here_if_keyless)],
)
async def ready(services: ServicesDep) -> Health:
    """Answer 200 when `/readyz` does, else 503."""
    await require_ready(services)
    return Health(ready=True)


@router.get(
    "/models/{name}/versions/{version_id}/ready", summary="This version is served", responses=problems(404, 503)
)
@router.get("/models/{name}/ready", summary="The model is served", responses=problems(404, 503))
async def model_ready(services: ServicesDep, caller: AnyCaller, name: str, version_id: str | None = None) -> Health:
    """Answer 200 if this is served and an inference was answered within the last seconds."""
    await _served(services, name, version_id)
    await require_ready(services)
    return Health(ready=True)


@router.get("/models/{name}/versions/{version_id}", summary="This version's tensors", responses=problems(404, 503))
@router.get("/models/{name}", summary="The model's tensors", responses=problems(404, 503))
async def model(services: ServicesDep, caller: AnyCaller, name: str, version_id: str | None = None) -> ModelMetadata:
    """Describe the model's inputs and outputs. The only version listed is the one that is served."""
    served = await _served(services, name, version_id)
    shapes = {"BYTES": [-1], "FP32": [-1, len(served.classes)]}
    return ModelMetadata(
        name=name,
        versions=[served.version_id],
        inputs=[TensorMetadata(name=IMAGES, datatype="BYTES", shape=[-1])],
        outputs=[
            TensorMetadata(name=output, datatype=datatype, shape=shapes[datatype])
            for output, datatype in OUTPUTS.items()
        ],
    )


@router.post("/models/{name}/versions/{version_id}/infer", summary="Classify images by this version", **_INFER)
@router.post("/models/{name}/infer", summary="Classify images", **_INFER)
async def infer(
    request: Request, services: ServicesDep, caller: ClassifyCaller, name: str, version_id: str | None = None
) -> Response:
    """Score images by the fused path. If an image cannot be decoded, the request is refused.

    Images are one BYTES tensor, in binary after the JSON or in base64 in it. `labels` has the best label per image;
    `scores` and `probabilities` are fused. With `classification: k`, an FP32 output is k texts `value:index:label`.
    """
    served = await _served(services, name, version_id)
    request.state.model_version = served.version_id
    served.check_classes()
    announced = request.headers.get(HEADER_LENGTH)
    if announced is not None and not (announced.isdecimal() and len(announced) < 20):  # more than any body has
        raise InvalidRequestError(f"{HEADER_LENGTH} is {announced[:60]!r}; expected a number of bytes")
    check_not_compressed(request)
    settings = services.settings
    limits = Limits(settings.max_images, settings.max_image_bytes, settings.max_json_marks)
    # images in binary are not parsed, so they may have more bytes
    pieces = await receive(request, settings.max_json_bytes if announced is None else settings.max_classify_bytes)
    asked = await in_thread(read_request, pieces, None if announced is None else int(announced), limits)
    check_image_count(len(asked.images), services)

    async def ask(pixels: Sequence[Pixels]) -> Sequence[Scored | Exception]:
        return await services.engine.scores(served, pixels, "fused")

    names = [f"image {index}" for index in range(len(asked.images))]
    slots = await services.admission.while_wanted(
        request,
        lambda: answer_images(services, served, asked.images, ask, outcome="classified", all_named=names),
        timeout_ms=asked.timeout_ms,
    )
    scored = all_or_nothing(slots, names)
    numbers = sum(len(each.labels) for each in scored)
    content, head = await off_loop(
        _BYTES_PER_SCORE * numbers, write_answer, scored, asked, model_name=name, model_version=served.version_id
    )
    if head is None:
        return Response(content, media_type="application/json")
    return Response(content, media_type="application/octet-stream", headers={HEADER_LENGTH: str(head)})


async def _served(services: Services, name: str, version_id: str | None) -> Served:
    served = await services.watcher.served()
    if name not in (NAME, services.settings.model):
        raise ModelNotFoundError(f"there is no model {name!r}; this server has {NAME!r}")
    if version_id not in (None, served.version_id):
        raise ModelNotFoundError(f"version {version_id!r} is not served; {served.version_id} is")
    return served
