"""Makes a published version CURRENT, unless that was done already."""

from __future__ import annotations

import logging

from exchange.contracts import UpdateJob
from exchange.rollout import Limits, RolloutError, RolloutUnfinishedError, move_current
from exchange.roster import Roster
from model_store.store import Store
from model_store.types import ConflictError, MovedMeanwhileError, VersionId
from worker.settings import WorkerSettings
from worker.task_data import reason_of

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


def was_current(store: Store, version: VersionId) -> bool:
    """Return whether the version is or was CURRENT.

    Only CURRENT itself, or a move away from the version, proves it: a promotion is written to the journal before
    CURRENT moves, so after a crash the line may describe a move that never happened.
    """
    moves = (entry for entry in store.journal() if entry.action in ("promote", "rollback"))
    return store.current() == version or any(move.from_ == version for move in moves)
