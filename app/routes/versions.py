"""Routes for versions. Their answers may be long, so they are written in the routes' threads."""

from __future__ import annotations

import functools
from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response, StreamingResponse

from app.class_facts import VersionClasses, class_facts
from app.deps import AdminCaller, AnyCaller, ServicesDep, TrainCaller
from app.errors import NoContributionsError
from app.exports import Format, make_export
from app.intake.keeping import keeping
from app.json_body import read_json
from app.media_types import media_type
from app.merges import queue_merge
from app.offload import as_json, in_thread
from app.openapi import json_body, problems
from app.schemas import (
    DamagedVersion,
    MergeAccepted,
    MergeBody,
    PinBody,
    Pinned,
    VersionList,
    VersionSummary,
    VersionVerified,
)
from app.wire.root import outside_path
from exchange.contracts import CONTRIBUTIONS_KEY, ContributionReport
from model_store.types import Manifest

router = APIRouter(prefix="/v1", tags=["versions"])
MAX_BODY_BYTES = 64 * 1024


@router.get("/versions", summary="All versions", responses=problems(), response_model=VersionList)
def list_versions(services: ServicesDep, caller: AnyCaller) -> Response:
    """List all versions, oldest first, with CURRENT and the version that this server serves.

    `current` is null while CURRENT cannot be read. `damaged` has the versions whose files are missing or altered.
    `held_because` has the reasons for which the gate holds a version.
    """
    pinned, survey = services.store.pinned(), services.store.survey()
    held = services.store.held(*survey.readable)
    return as_json(
        VersionList(
            current=services.store.readable_current(),
            serving=services.live.version_id,
            versions=[
                VersionSummary.of(m, pinned=m.version_id in pinned, held_because=held.get(m.version_id, ()))
                for m in survey.readable
            ],
            damaged=[DamagedVersion(version_id=version_id, reason=why) for version_id, why in survey.damaged.items()],
        )
    )


@router.get(
    "/versions/{version_id}", summary="One version's manifest", responses=problems(404, 409), response_model=Manifest
)
def get_version(version_id: str, services: ServicesDep, caller: AnyCaller) -> Response:
    """Return everything about a version except its tensors: parent, model, classes, data, settings, evaluation."""
    return as_json(services.store.manifest(version_id))


@router.get(
    "/versions/{version_id}/classes",
    summary="What is known of a version's classes",
    responses=problems(404, 409, 503),
    response_model=VersionClasses,
)
async def get_version_classes(version_id: str, services: ServicesDep, caller: AnyCaller) -> Response:
    """Return each class of a version with its accuracy, the nearest other classes, and what it is taken for."""
    facts = await services.pools.store.run(class_facts, services.store, services.test_sets, version_id)
    return await in_thread(as_json, facts)


@router.get(
    "/versions/{version_id}/contributions",
    summary="What a task had in common with what was known",
    responses=problems(404, 409),
    response_model=ContributionReport,
)
def get_contributions(version_id: str, services: ServicesDep, caller: AnyCaller) -> Response:
    """Return what the version's new classes had in common with the old ones, as it was told before they were learned.

    Four scores for every earlier task, the nearest classes through each modality, the old classes at risk, and a
    forecast of which tasks lose most with its measured correlation, or why there is none.
    """
    report = (services.store.manifest(version_id).report or {}).get(CONTRIBUTIONS_KEY)
    if report is None:
        raise NoContributionsError(f"nothing was told before {version_id} was learned")
    return as_json(ContributionReport.model_validate(report))


@router.post(
    "/versions/merge",
    status_code=202,
    summary="Merge two versions",
    responses=problems(400, 404, 409, 413, 415, 422, 503, 507),
    openapi_extra={"requestBody": json_body(MergeBody)},
)
async def merge_versions(
    request: Request, response: Response, services: ServicesDep, caller: TrainCaller
) -> MergeAccepted:
    """Queue the merge of two versions that were taught different tasks from one, such as tasks that named a parent.

    A job makes one version of both in seconds, without training: statistics are added, adapters averaged. It passes
    the gate like any other, and is promoted if the current version is part of it.
    """
    media_type(request, "application/json")
    body = await read_json(request, MergeBody, max_bytes=MAX_BODY_BYTES, long_bytes=MAX_BODY_BYTES)
    first, second = body.versions
    queue = functools.partial(
        queue_merge,
        services.store,
        services.spool,
        services.jobs,
        (first, second),
        name=body.reason or f"merge of {first} and {second}",
        config=body.config,
        seed=body.seed,
        submitted_by=caller.name,
    )

    def work() -> str:
        with keeping():
            return queue().job_id

    job_id = await services.pools.broker.run(work)
    location = outside_path(request.scope, f"/v1/jobs/{job_id}")
    response.headers["Location"] = location
    return MergeAccepted(job_id=job_id, location=location)


@router.post(
    "/versions/{version_id}/pin",
    summary="Keep a version",
    responses=problems(400, 404, 409, 413, 415, 422, 503, 507),
    openapi_extra={"requestBody": json_body(PinBody)},
)
async def pin_version(version_id: str, request: Request, services: ServicesDep, caller: AdminCaller) -> Pinned:
    """Keep a version from being pruned. Pinning it again changes nothing."""
    media_type(request, "application/json")
    body = await read_json(request, PinBody, max_bytes=MAX_BODY_BYTES, long_bytes=MAX_BODY_BYTES)
    await services.pools.upkeep.run(services.store.pin, version_id, who=caller.name, reason=body.reason)
    return Pinned(version_id=version_id, pinned=True)


@router.delete("/versions/{version_id}/pin", summary="Keep a version no longer", responses=problems(404, 422, 503, 507))
async def unpin_version(
    version_id: str,
    services: ServicesDep,
    caller: AdminCaller,
    reason: Annotated[str, Query(max_length=1000, description="Kept in the journal.")] = "",
) -> Pinned:
    """Let a version be pruned again. Nothing changes if it is not pinned."""
    await services.pools.upkeep.run(services.store.unpin, version_id, who=caller.name, reason=reason)
    return Pinned(version_id=version_id, pinned=False)


@router.get(
    "/versions/{version_id}/export",
    summary="A version as a file",
    response_class=StreamingResponse,
    responses={
        200: {"description": "The file.", "content": {"application/octet-stream": {}}},
        **problems(400, 404, 409, 422, 501, 503, 504, 507),
    },
)
async def export_version(
    version_id: str,
    request: Request,
    services: ServicesDep,
    caller: AdminCaller,
    file_format: Annotated[
        Format, Query(alias="format", description="`safetensors`: as it is; `onnx`: a model that gives its answers.")
    ] = "safetensors",
) -> Response:
    """Return a version as one file for use elsewhere. One is made at a time, at low priority; others wait their turn.

    An ONNX model takes 8-bit pixels and gives the calibrated probabilities of the served classes. Its answers are
    compared with the service's before it is handed out; `Keepsight-Difference` has the largest difference.
    """
    export = functools.partial(
        make_export, version_id, file_format, store=services.store, spool=services.spool, settings=services.settings
    )
    made = await services.exports.run(request, caller.key_id, lambda check: export(check=check))
    return made.response()


@router.post("/versions/{version_id}/verify", summary="Verify a version", responses=problems(404, 503))
async def verify_version(version_id: str, services: ServicesDep, caller: AdminCaller) -> VersionVerified:
    """Check every byte of a version against its digests, and its golden answers on this server's base model.

    A version that is damaged, or that answers otherwise than when it was published, is told as such, with status 200.
    """
    found = await services.pools.upkeep.run(services.verify, version_id)
    return VersionVerified(
        version_id=version_id, ok=found.ok, files=found.files, answers=found.answers, problem=found.problem
    )
