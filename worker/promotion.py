"""Makes a published version CURRENT, unless that was done already."""

from __future__ import annotations

import logging

from exchange.contracts import Evaluation, GateResult, UpdateJob, UpdateOutcome
from exchange.rollout import Limits, RolloutError, RolloutUnfinishedError, move_current
from exchange.roster import Roster
from model_store.gate import REPORT_KEY, reasons_of
from model_store.store import Store
from model_store.types import ConflictError, Manifest, MovedMeanwhileError, VersionId
from worker.settings import WorkerSettings

logger = logging.getLogger(__name__)


def promote(
    store: Store, job: UpdateJob, version: VersionId, parent: VersionId | None, settings: WorkerSettings
) -> str | None:
    """Make the version CURRENT on all servers if CURRENT is still its parent. Returns None, or why it did not."""

    moves = store.moves()

    def move_pointer() -> None:
        store.promote(version, expected=parent, who=job.submitted_by, reason=reason_of(job), after_moves=moves)

    roster = Roster(settings.redis_url, store.identity())
    try:
        done = move_current(
            roster, version, move_pointer, limits=Limits.of(settings), prepare_here=lambda: store.open(version)
        )
        logger.info("%d servers serve %s", len(done.members), version)
    except MovedMeanwhileError as error:
        logger.warning("published %s but did not promote it: %s", version, error)
        return f"{error}; the version is kept and can be promoted by hand"
    except ConflictError as error:
        logger.warning("published %s but did not promote it: %s", version, error)
        return (
            f"CURRENT was moved to {error.actual} while this was learned on {parent}; "
            f"the version is kept and can be promoted by hand"
        )
    except RolloutUnfinishedError as error:  # it is CURRENT, and late servers follow by themselves
        logger.warning("%s", error)
    except RolloutError as error:
        logger.warning("published %s but did not promote it: %s", version, error)
        return f"{error}; the version is kept and can be promoted by hand"
    finally:
        roster.close()
    logger.info("promoted %s", version)
    return None


def resume(store: Store, job: UpdateJob, version: VersionId, settings: WorkerSettings) -> UpdateOutcome:
    """Return the outcome of a job that has published already; promote its version if it never was and is not held."""
    logger.info("this job has published %s already", version)
    return outcome_of(store, job, store.manifest(version), settings)


def outcome_of(store: Store, job: UpdateJob, manifest: Manifest, settings: WorkerSettings) -> UpdateOutcome:
    """Promote a published version if it never was and is not held, and return the job's outcome.

    The gate decided before the version was published, and its manifest holds the result. So an attempt that was killed
    at any moment since finds the same decision, even if the policy has changed.
    """
    version, report = manifest.version_id, dict(manifest.report or {})
    gate = report.pop(REPORT_KEY, None)
    refused: str | None = None
    reasons: tuple[str, ...] = ()
    # a promoted version may have been rolled back since on purpose: that is not undone
    if not _was_current(store, version):
        reasons = reasons_of(manifest)
        if reasons:
            refused = f"held: {'; '.join(reasons)}"
            logger.warning("published %s and %s", version, refused)
        else:
            refused = promote(store, job, version, manifest.parent, settings)
    return UpdateOutcome(
        version_id=version,
        promoted=refused is None,
        not_promoted_because=refused,
        held_because=reasons,
        gate=None if gate is None else GateResult.model_validate(gate),
        evaluation=Evaluation.model_validate(manifest.evaluation) if manifest.evaluation else None,
        report=report,
    )


def _was_current(store: Store, version: VersionId) -> bool:
    """Return whether the version is or was CURRENT.

    Only CURRENT itself, or a move away from the version, proves it: a promotion is written to the journal before
    CURRENT moves, so after a crash the line may describe a move that never happened.
    """
    moves = (entry for entry in store.journal() if entry.action in ("promote", "rollback"))
    return store.current() == version or any(move.from_ == version for move in moves)


def reason_of(job: UpdateJob) -> str:
    """Return the reason that the journal gives for this job's actions."""
    return f"job {job.job_id} learned {job.task_name!r}"
