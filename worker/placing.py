"""Where a task's version belongs: what it is trained on, and what is put on top of it again.

Versions on top of CURRENT's line may be instant versions of tasks that wait for their training, and edits of the
classes. A task is trained below all of these instant versions. When it is ready, those of the others and the edits are
made anew on top of it, so that what came meanwhile is not lost, and CURRENT moves once.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from itertools import takewhile

from exchange.contracts import UpdateJob
from exchange.notes import read_note
from exchange.spool import Spool, SpoolError
from model_store.gate import reasons_of
from model_store.store import Store
from model_store.types import PUT_AGAIN, Manifest, VersionId, VersionNotFoundError
from segp_cl.errors import KeepsightError
from segp_cl.types import OnProgress
from worker.editing import edit_again
from worker.instant import put_on
from worker.promotion import promote
from worker.settings import WorkerSettings
from worker.task_data import TaskData

logger = logging.getLogger(__name__)

Waits = Callable[[str], bool]
"""Tells of a job's id whether its training is still to come: whether its images are spooled."""


def waits_in(spool: Spool) -> Waits:
    """Return what tells by the spool which jobs still wait."""

    def waits(job_id: str) -> bool:
        try:
            return (spool.folder(job_id) / "index.json").exists()
        except SpoolError:
            return False

    return waits


def base_of(lineage: Sequence[Manifest], waits: Waits) -> VersionId:
    """Return the version that the next task is trained on: the one below all instant versions of waiting tasks.

    Args:
        lineage: CURRENT, its parent, and so on.
        waits: tells which jobs wait.

    Raises:
        VersionNotFoundError: that version was removed by hand.
    """
    above = enumerate(takewhile(lambda manifest: manifest.made in PUT_AGAIN, lineage))
    lowest = max((at for at, here in above if here.is_instant and waits(here.job_id or "")), default=-1)
    if lowest + 1 == len(lineage):
        raise VersionNotFoundError(lineage[lowest].parent or "")
    return lineage[lowest + 1].version_id


def twin_of(store: Store, job_id: str, parent: VersionId) -> Manifest | None:
    """Return the job's instant version on a parent, if it was made."""
    return next((twin for twin in store.instants_of_job(job_id) if twin.parent == parent), None)


def put_in_place(
    store: Store, job: UpdateJob, manifest: Manifest, settings: WorkerSettings, on_progress: OnProgress
) -> str | None:
    """Make a trained version CURRENT, or what is put on top of it again. Returns None, or why CURRENT did not move.

    Args:
        store: the store.
        job: the job that published the version.
        manifest: the version's.
        settings: the worker's settings.
        on_progress: called after every step of what is made anew.
    """
    waits = waits_in(Spool(settings.spool))
    with store.top_lock():
        lineage = store.lineage()
        if any(here.version_id == manifest.version_id for here in lineage):
            return None  # an earlier attempt has put it there
        current = lineage[0].version_id
        above = list(takewhile(lambda here: here.version_id != manifest.parent, lineage))
        if len(above) == len(lineage) or any(here.made not in PUT_AGAIN for here in above):
            return (
                f"CURRENT was moved to {current} while this was learned on {manifest.parent}; "
                "the version is kept and can be promoted by hand"
            )
        if was_taken_back(store, job.job_id):
            return "its instant version was rolled back meanwhile; this version is kept and can be promoted by hand"
        top = manifest.version_id
        for meanwhile in reversed(above):
            if meanwhile.made == "edited" or (meanwhile.job_id != job.job_id and waits(meanwhile.job_id or "")):
                top = _again(store, meanwhile, top, settings, on_progress)
        return promote(store, job, top, current, settings)


def was_taken_back(store: Store, job_id: str) -> bool:
    """Return whether a rollback took the job's instant version out of what is served, and nothing brought it back."""
    manifests = {manifest.version_id: manifest for manifest in store.list()}

    def has_it(version: VersionId | None) -> bool:
        while version is not None and (manifest := manifests.get(version)) is not None:
            if manifest.is_instant and manifest.job_id == job_id:
                return True
            version = manifest.parent
        return False

    taken_back = False
    for move in store.journal():
        if move.action in ("promote", "rollback", "recover"):
            taken_back = not has_it(move.to) and (taken_back or (move.action == "rollback" and has_it(move.from_)))
    return taken_back


def _again(
    store: Store, before: Manifest, top: VersionId, settings: WorkerSettings, on_progress: OnProgress
) -> VersionId:
    """Make an instant version or an edit anew, and return what is on top now: without it, if that cannot be done."""
    try:
        if before.made == "edited":
            again = edit_again(store, before, top, settings, on_progress=on_progress)
        else:
            note = read_note(Spool(settings.spool), before.job_id or "")
            if note is None:
                return top
            again = put_on(store, TaskData.read(note.record.job, settings), top, settings, on_progress=on_progress)
    except (KeepsightError, OSError) as error:  # such as a cancelled job, whose images are gone
        logger.warning("%s of job %s cannot be put on %s: %s", before.version_id, before.job_id, top, error)
        return top
    if reasons := reasons_of(again):
        logger.warning("%s is held, so it is not put on %s: %s", again.version_id, top, "; ".join(reasons))
        return top
    return again.version_id
