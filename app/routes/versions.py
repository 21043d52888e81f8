"""Routes for versions and their classes. Their answers may be long, so they are written in the routes' threads."""

from __future__ import annotations

from fastapi import APIRouter
from fastapi.responses import Response

from app.deps import AnyCaller, ServicesDep
from app.offload import as_json
from app.openapi import problems
from app.schemas import ClassList, DamagedVersion, VersionList, VersionSummary
from model_store.types import ClassRecord, Manifest

router = APIRouter(prefix="/v1", tags=["versions"])


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


@router.get("/classes", summary="The classes that are served", responses=problems(503), response_model=ClassList)
async def list_classes(services: ServicesDep, caller: AnyCaller) -> Response:
    """List the classes of the version that this server serves, in the order of its scores."""
    served = await services.watcher.served()
    return as_json(
        ClassList(
            model_version=served.version_id,
            classes=[ClassRecord.model_validate(known) for known in served.classes],
        )
    )
