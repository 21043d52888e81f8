"""Routes that measure versions on the test sets, report what was learned and forgotten, and compare versions."""

from __future__ import annotations

import functools
from typing import Annotated

from fastapi import APIRouter, Path, Query, Request, Response

from app.deps import AnyCaller, ServicesDep, TrainCaller
from app.evaluations import MAX_CHANGED, compare, evaluation_of, queue_evaluation, report_of
from app.intake.keeping import keeping
from app.json_body import read_json
from app.media_types import media_type
from app.offload import as_json
from app.openapi import json_body, problems
from app.schemas import PathName
from app.set_schemas import SET_NAME, Comparison, EvaluateAccepted, EvaluateBody, Report
from app.wire.root import outside_path
from exchange.contracts import SetEvaluation

router = APIRouter(prefix="/v1", tags=["test sets"])
MAX_BODY_BYTES = 64 * 1024
SetName = Annotated[str, Path(pattern=SET_NAME, description="The test set's name.")]
OnlySet = Annotated[str | None, Query(pattern=SET_NAME, description="The only test set that counts. Default: all.")]


@router.post(
    "/evaluations",
    status_code=202,
    summary="Measure versions on test sets",
    responses=problems(400, 404, 409, 413, 415, 422, 503, 507),
    openapi_extra={"requestBody": json_body(EvaluateBody)},
)
async def evaluate(
    request: Request, response: Response, services: ServicesDep, caller: TrainCaller
) -> EvaluateAccepted:
    """Queue a job that measures versions which are older than a test set. It runs when no update waits.

    A version that was measured already is not measured again, and nothing is published or moved.
    """
    media_type(request, "application/json")
    body = await read_json(request, EvaluateBody, max_bytes=MAX_BODY_BYTES, long_bytes=MAX_BODY_BYTES)
    queue = functools.partial(
        queue_evaluation,
        services.store,
        services.test_sets,
        services.spool,
        services.jobs,
        body.versions,
        body.test_set,
        submitted_by=caller.name,
    )

    def work() -> str:
        with keeping():
            return queue().job_id

    job_id = await services.pools.broker.run(work)
    location = outside_path(request.scope, f"/v1/jobs/{job_id}")
    response.headers["Location"] = location
    return EvaluateAccepted(job_id=job_id, location=location)


@router.get(
    "/versions/{version_id}/test-sets/{name}",
    summary="One version on one test set",
    responses=problems(404, 409, 422),
    response_model=SetEvaluation,
)
def get_evaluation(version_id: str, name: SetName, services: ServicesDep, caller: AnyCaller) -> Response:
    """Return what a version answers to a test set: by path, by class, what it confuses, and how sure it is."""
    return as_json(evaluation_of(services.store, services.test_sets, version_id, name))


@router.get(
    "/versions/{version_id}/report",
    summary="What was learned and forgotten",
    responses=problems(404, 409, 422),
    response_model=Report,
)
def get_report(
    version_id: str,
    services: ServicesDep,
    caller: AnyCaller,
    path: Annotated[PathName, Query(description="Whose answers count.")] = "fused",
    test_set: OnlySet = None,
) -> Response:
    """Return the accuracy on every task after every task of a version's lineage, on the test sets' images.

    From it follow Last, Avg, backward transfer and forgetting. Cells that were not measured are null, and `measure` is
    the command that measures them.
    """
    return as_json(report_of(services.store, services.test_sets, version_id, path=path, test_set=test_set))


@router.get(
    "/versions/{a}/compare/{b}",
    summary="Two versions on the same images",
    responses=problems(404, 409, 422),
    response_model=Comparison,
)
def get_comparison(
    a: str,
    b: str,
    services: ServicesDep,
    caller: AnyCaller,
    test_set: OnlySet = None,
    most: Annotated[int, Query(ge=0, le=MAX_CHANGED, description="Most changed images in the answer.")] = 100,
) -> Response:
    """Compare two versions on the test images that both were measured on: wins, losses, ties, and an exact sign test.

    If one of them was not measured yet, the problem `not-evaluated` names the command that does it.
    """
    return as_json(compare(services.store, services.test_sets, a, b, test_set=test_set, most=most))
