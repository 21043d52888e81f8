"""Routes for versions and their classes."""

from __future__ import annotations

from fastapi import APIRouter

from app.deps import AnyCaller, ServicesDep
from app.openapi import problems
from app.schemas import ClassList, VersionList, VersionSummary
from model_store.types import ClassRecord, Manifest

router = APIRouter(prefix="/v1", tags=["versions"])


@router.get("/versions", summary="All versions", responses=problems())
def list_versions(services: ServicesDep, caller: AnyCaller) -> VersionList:
    """List all versions, oldest first, with CURRENT and the version that this server serves."""
    pinned = services.store.pinned()
    return VersionList(
        current=services.store.current(),
        serving=services.live.version_id,
        versions=[VersionSummary.of(m, pinned=m.version_id in pinned) for m in services.store.list()],
    )


@router.get("/versions/{version_id}", summary="One version's manifest", responses=problems(404, 409))
def get_version(version_id: str, services: ServicesDep, caller: AnyCaller) -> Manifest:
    """Return everything about a version except its tensors: parent, model, classes, data, settings, evaluation."""
    return services.store.manifest(version_id)


@router.get("/classes", summary="The classes that are served", responses=problems(503))
def list_classes(services: ServicesDep, caller: AnyCaller) -> ClassList:
    """List the classes of the version that this server serves, in the order of its scores."""
    served = services.live.get()
    return ClassList(
        model_version=served.version_id,
        classes=[ClassRecord.model_validate(known) for known in served.classes],
    )
