"""Cleans up after dead workers and servers, and after a broker that forgot.

It queues silent jobs and lost messages again, restores lost jobs from their notes, and removes forgotten images, and
test sets whose time is over.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial
from typing import Final

from exchange.contracts import JobRecord, JobState, utc_now
from exchange.corrections import CorrectionLimits, Corrections, CorrectionsBusyError, NoCorrectionsError
from exchange.jobs import JobNotFoundError, Jobs
from exchange.notes import restore
from exchange.redis_client import BrokerUnavailableError
from exchange.spool import Spool, SpoolError
from model_store.pointer import POINTER_FILE, read_pointer
from model_store.test_sets import StoredTestSets
from model_store.types import StoreError
from worker.ledger import Ledger
from worker.log import job_logging
from worker.settings import WorkerSettings

logger = logging.getLogger(__name__)

ABANDONED_AFTER_S: Final = 3600.0
"""Seconds without a new file after which a folder of no job counts as abandoned: longer than any pause in an upload."""

TEST_SETS_EVERY_S: Final = 60.0
"""Seconds between two looks at the test sets."""

UNREADABLE: Final = (
    "the job's record is damaged, or of a release that this worker does not know; "
    "update the worker, or send the task again"
)


@dataclass(frozen=True)
class _Sighting:
    signs: tuple[object, ...]
    since: float


class Sweeper:
    """Takes jobs over from dead workers. Every worker runs one.

    A job counts as silent when its heartbeat has not changed for `stale_after_s` of this process's own clock, during
    which Redis was reachable: neither clocks that disagree or jump, nor an outage, make a living worker look dead.
    """

    def __init__(
        self,
        settings: WorkerSettings,
        jobs: Jobs,
        spool: Spool,
        *,
        stop: threading.Event,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stale_after_s = settings.stale_after_s
        self._store = settings.store
        self._corrections = Corrections(spool, CorrectionLimits.of(settings))
        self._jobs = jobs
        self._spool = spool
        self._ledger = Ledger(jobs, spool, stop=stop)
        self._stop = stop
        self._clock = clock
        self._sightings: dict[str, _Sighting] = {}
        self._folders: dict[str, _Sighting] = {}
        self._test_sets = StoredTestSets(settings.store)
        self._test_sets_at = float("-inf")
        self._finished: set[str] = set()  # a final state never changes, so these are not read again

    def start(self) -> threading.Thread:
        """Sweep now, and then several times per `stale_after_s` on its own thread, until `stop` is set."""
        thread = threading.Thread(target=self._loop, name="sweeper", daemon=True)
        thread.start()
        return thread

    def sweep_test_sets(self) -> None:
        """Remove test sets whose time is over, and what removed ones left, if that was not done within a minute."""
        if self._clock() - self._test_sets_at < TEST_SETS_EVERY_S:
            return
        self._test_sets_at = self._clock()
        for receipt in self._test_sets.sweep():
            logger.info("the time of the test set %s was over; its images were removed", receipt.name)

    def _loop(self) -> None:
        while True:
            try:
                self.sweep_test_sets()
            except Exception:
                logger.exception("the test sets could not be swept; it is tried again")
            try:
                self.sweep()
            except BrokerUnavailableError:
                self._sightings.clear()
            except Exception:
                logger.exception("sweeping failed; it is tried again")
            if self._stop.wait(self._stale_after_s / 5):
                return

    def sweep(self) -> None:
        """Sweep once. A job that cannot be dealt with does not keep the others from it.

        Raises:
            BrokerUnavailableError: Redis is gone.
        """
        self._sweep_corrections()
        listing = self._jobs.listing(skip=self._finished)
        self._finished |= {record.job_id for record in listing.records if record.state.terminal}
        waiting = {record.job_id: record for record in listing.records if not record.state.terminal}
        unreadable = {
            job_id: fields
            for job_id, fields in listing.unreadable.items()
            if fields.get("state") not in ("succeeded", "failed", "cancelled")
        }
        for job_id, record in waiting.items():
            if self._is_silent(job_id, (record.state, record.attempts, record.owner, record.heartbeat)):
                self._one(job_id, partial(self._wake, record))
        for job_id, fields in unreadable.items():
            if self._is_silent(job_id, tuple(sorted(fields.items()))):
                self._one(job_id, partial(self._ledger.refuse, job_id, UNREADABLE))
        self._sightings = {
            job_id: seen for job_id, seen in self._sightings.items() if job_id in {*waiting, *unreadable}
        }
        self._sweep_folders({*waiting, *listing.unreadable})

    def _sweep_corrections(self) -> None:
        """Remove corrections that have expired, and have the others learned once they are due."""
        now = utc_now()
        try:
            if not self._corrections.sweep(now):
                return
            current = read_pointer(self._store / POINTER_FILE)
            if current is None:
                return
            record = self._corrections.learn(self._jobs, submitted_by="keepsight", submitted_on=current, if_due=now)
            logger.info("%d corrections are learned by job %s", record.job.corrections, record.job_id)
        except NoCorrectionsError:
            pass  # another worker was faster
        except (CorrectionsBusyError, StoreError, OSError) as error:
            logger.warning("corrections could not be swept: %s", error)

    def _is_silent(self, job_id: str, signs: tuple[object, ...]) -> bool:
        """Return whether this job has shown no new sign of life for `stale_after_s`. Then it counts anew."""
        if self._unchanged_s(self._sightings, job_id, signs) < self._stale_after_s:
            return False
        del self._sightings[job_id]
        return True

    def _unchanged_s(self, sightings: dict[str, _Sighting], job_id: str, signs: tuple[object, ...]) -> float:
        seen = sightings.get(job_id)
        if seen is None or seen.signs != signs:
            seen = sightings[job_id] = _Sighting(signs, self._clock())
        return self._clock() - seen.since

    def _one(self, job_id: str, work: Callable[[], None]) -> None:
        """Deal with one job; what goes wrong with it is logged, and the others have their turn."""
        with job_logging(job_id):
            try:
                work()
            except BrokerUnavailableError:
                raise
            except Exception:
                logger.exception("the job could not be swept; it is tried again")

    def _wake(self, record: JobRecord) -> None:
        if record.state == JobState.RUNNING:
            if self._ledger.put_back(record):
                logger.warning(
                    "no sign of life from %s for %.0f s; the job is queued again", record.owner, self._stale_after_s
                )
        elif record.job_id in self._jobs.waiting_instantly():
            pass  # its turn comes
        elif record.job.is_quick or self._jobs.waiting_messages() == 0:
            logger.warning("the job is queued without a message; the message is sent again")
            self._jobs.send_again(record)

    def _sweep_folders(self, open_jobs: Collection[str]) -> None:
        folders = self._spool.folders()
        self._folders = {job_id: seen for job_id, seen in self._folders.items() if job_id in folders}
        for job_id, stamp in folders.items():
            if job_id not in open_jobs:
                self._one(job_id, partial(self._sweep_folder, job_id, stamp))

    def _sweep_folder(self, job_id: str, stamp: int) -> None:
        """Restore the job of a folder that the broker does not know, or remove a folder that no job needs."""
        record: JobRecord | None
        try:
            record = self._jobs.get(job_id)  # again: it may have been queued since the jobs were listed
        except JobNotFoundError:
            record = self._restored(job_id)
        if record is None:
            patience = self._stale_after_s if self._spool.is_orphaned(job_id) else ABANDONED_AFTER_S
            abandoned = self._unchanged_s(self._folders, job_id, (stamp,)) > patience
        else:
            abandoned = record.state.terminal
        if abandoned:
            logger.warning("removing spooled images that no job needs")
            self._ledger.purge(job_id)

    def _restored(self, job_id: str) -> JobRecord | None:
        try:
            return restore(self._jobs, self._spool, job_id)
        except SpoolError as error:  # a damaged note; the folder is removed when it counts as abandoned
            logger.warning("%s", error)
            return None
