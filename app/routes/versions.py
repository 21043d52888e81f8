"""Routes for versions. Their answers may be long, so they are written in the routes' threads."""

from __future__ import annotations

import functools

from fastapi import APIRouter, Request
from fastapi.responses import Response

from app.deps import AnyCaller, ServicesDep, TrainCaller
from app.errors import NoContributionsError
from app.intake.keeping import keeping
from app.json_body import read_json
from app.media_types import media_type
from app.merges import queue_merge
from app.offload import as_json
from app.openapi import json_body, problems
from app.schemas import DamagedVersion, MergeAccepted, MergeBody, VersionList, VersionSummary
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
