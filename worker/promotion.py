"""Making a published version CURRENT, and finding out whether that was done already."""

from __future__ import annotations

import logging

from exchange.contracts import Evaluation, UpdateJob, UpdateOutcome
from exchange.rollout import Limits, RolloutError, RolloutUnfinishedError, move_current
from exchange.roster import Roster
from model_store.store import Store
from model_store.types import ConflictError, VersionId
from worker.settings import WorkerSettings

logger = logging.getLogger(__name__)


def promote(
    store: Store, job: UpdateJob, version: VersionId, parent: VersionId | None, settings: WorkerSettings
) -> str | None:
    """Make the version CURRENT on all servers, if CURRENT is still what it was learned on. Returns why not, None if it
    is done."""

    def move_pointer() -> None:
        store.promote(version, expected=parent, who=job.submitted_by, reason=reason_of(job))

    roster = Roster(settings.redis_url, store.identity())
    try:
        done = move_current(
            roster, version, move_pointer, limits=Limits.of(settings), prepare_here=lambda: store.open(version)
        )
        logger.info("%d servers serve %s", len(done.members), version)
    except ConflictError as error:
        logger.warning("published %s but did not promote it: %s", version, error)
        return (
            f"CURRENT was moved to {error.actual} while this was learned on {parent}; "
            f"the version is kept and can be promoted by hand"
        )
    except RolloutUnfinishedError as error:  # it is CURRENT, and whoever is late follows by itself
        logger.warning("%s", error)
    except RolloutError as error:
        logger.warning("published %s but did not promote it: %s", version, error)
        return f"{error}; the version is kept and can be promoted by hand"
    finally:
        roster.close()
    logger.info("promoted %s", version)
    return None


def resume(store: Store, job: UpdateJob, version: VersionId, settings: WorkerSettings) -> UpdateOutcome:
    """The outcome of a job whose version is there already, promoted now if that was never done."""
    manifest = store.manifest(version)
    logger.info("this job has published %s already", version)
    refused = None
    # once promoted, it may have been rolled back since on purpose: that is not undone
    if not _was_current(store, version):
        refused = promote(store, job, version, manifest.parent, settings)
    return UpdateOutcome(
        version_id=version,
        promoted=refused is None,
        not_promoted_because=refused,
        evaluation=Evaluation.model_validate(manifest.evaluation) if manifest.evaluation else None,
        report=manifest.report or {},
    )


def _was_current(store: Store, version: VersionId) -> bool:
    """Whether CURRENT is or has been at the version.

    Only where the pointer stands, and moves away from there, prove it: the journal's line of a promotion is written
    before the pointer moves, so after a crash it may stand for a move that never happened.
    """
    moves = (entry for entry in store.journal() if entry.action in ("promote", "rollback"))
    return store.current() == version or any(move.from_ == version for move in moves)


def reason_of(job: UpdateJob) -> str:
    """What the journal says of this job's actions."""
    return f"job {job.job_id} learned {job.task_name!r}"
