"""Jobs and idempotency keys in Redis. Every change of a job's state is one atomic script.

The job's hash is authoritative; Celery's messages only wake a worker up. A message that is lost, duplicated or late
therefore costs time and never work: `claim` gives a job to one worker, and a finished job cannot be claimed.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, cast

from celery import Celery
from pydantic import BaseModel, ConfigDict, ValidationError
from redis import ResponseError

from exchange import scripts
from exchange.addresses import celery_url
from exchange.contracts import (
    INSTANT_KEY,
    JOBS_KEY,
    LATER_QUEUE,
    LEAST_PRIORITY,
    UPDATE_TASK,
    UPDATES_QUEUE,
    ContributionReport,
    InstantOutcome,
    JobError,
    JobProgress,
    JobRecord,
    JobState,
    LabelReport,
    PurgeReceipt,
    UpdateOutcome,
    events_channel,
    idempotency_key,
    job_key,
    record_from_hash,
    record_to_hash,
    utc_now,
)
from exchange.redis_client import BrokerUnavailableError, RedisClient, reaching, why_unavailable
from segp_cl.errors import KeepsightError

FINISHED_JOBS_KEPT_S: Final = 30 * 24 * 3600
"""Seconds for which a finished job can still be looked up."""
IDEMPOTENCY_KEPT_S: Final = 24 * 3600
"""Seconds for which an Idempotency-Key is remembered."""
_PAGE: Final = 200
"""Jobs that are read in one round trip."""

_Rows = list[tuple[str, dict[str, str] | Exception]]


class JobNotFoundError(KeepsightError):
    """No job has this id, or the record of the finished job has expired."""


class JobUnreadableError(JobNotFoundError):
    """The broker holds something under the job's id that this release cannot read."""


class JobExistsError(KeepsightError):
    """A job with this id already exists."""


@dataclass(frozen=True)
class Listing:
    """Stored jobs, newest first. `unreadable` has the raw fields of those that this release cannot read, by id."""

    records: list[JobRecord]
    unreadable: dict[str, dict[str, str]]
    more: bool = False


class IdempotencyEntry(BaseModel):
    """What an Idempotency-Key is bound to: a job, and the fingerprint of the request that created it."""

    model_config = ConfigDict(frozen=True)

    job_id: str
    fingerprint: str = ""


class Jobs(RedisClient):
    """The jobs in one broker, for server and worker. Thread-safe.

    Every method raises `redis_client.BrokerUnavailableError` when the broker cannot be reached within `timeout_s`.

    Args:
        redis_url: `redis://host:port/db`, the same for jobs and for Celery's messages.
        timeout_s: seconds to wait for a connection or an answer.
    """

    def __init__(self, redis_url: str, *, timeout_s: float = 3.0) -> None:
        super().__init__(redis_url, timeout_s=timeout_s)
        self._celery = Celery("keepsight-client", broker=celery_url(redis_url), set_as_current=False)
        self._celery.conf.update(
            task_serializer="json",
            accept_content=["json"],
            task_ignore_result=True,
            task_publish_retry=False,
            broker_connection_timeout=timeout_s,
            broker_transport_options={
                "socket_connect_timeout": timeout_s,
                "socket_timeout": timeout_s,
                "max_retries": 0,
            },
        )

    def close(self) -> None:
        """Close the connections."""
        super().close()
        self._celery.close()

    def ping(self) -> None:
        """Raise `BrokerUnavailableError` unless the broker answers."""
        with reaching():
            self._redis.ping()

    # --- jobs -----------------------------------------------------------------------------------------------------

    def create(self, record: JobRecord) -> None:
        """Store a new job without sending it to a worker. Storing the same job twice is storing it once.

        Raises:
            JobExistsError: another job with this id exists, or the job has begun.
        """
        fields = record_to_hash(record)
        kept_s = FINISHED_JOBS_KEPT_S if record.state.terminal else 0
        arguments = [record.job_id, str(record.created_at.timestamp()), str(kept_s)]
        arguments += [text for pair in fields.items() for text in pair]
        if self._script(scripts.CREATE, [job_key(record.job_id), JOBS_KEY], arguments) != "created":
            # the answer to a call that was made twice, because the connection broke after the first, is no conflict
            with contextlib.suppress(JobNotFoundError):
                if self.get(record.job_id) == record:
                    return
            raise JobExistsError(f"job {record.job_id} already exists")

    def discard(self, job_id: str) -> None:
        """Remove everything that is stored under a job's id, whatever it is."""
        with reaching():
            self._redis.delete(job_key(job_id))
            self._redis.zrem(JOBS_KEY, job_id)

    def send_update(self, job_id: str, *, later: bool = False) -> None:
        """Send the Celery message that wakes a worker up for this job, by task name on the queue `updates`.

        With `later`, a worker takes it when no other message waits.
        """
        with reaching():
            self._celery.send_task(
                UPDATE_TASK,
                args=[job_id],
                queue=UPDATES_QUEUE,
                ignore_result=True,
                priority=LEAST_PRIORITY if later else 0,
            )

    def send(self, record: JobRecord) -> None:
        """Have a queued job's work begin: with its instant version, if it is to have one and has none yet.

        An edit or a check waits for instant versions, edits and checks alone: it is done where they are made.
        """
        if record.job.is_quick or (record.job.instant and record.instant is None):
            self.ask_instantly(record.job_id)
        else:
            self.send_update(record.job_id, later=record.job.can_wait)

    def send_again(self, record: JobRecord) -> None:
        """Wake a worker up for a job that was begun, or whose message was lost: without an instant version."""
        if record.job.is_quick:
            self.ask_instantly(record.job_id)
        else:
            self.send_update(record.job_id, later=record.job.can_wait)

    def ask_instantly(self, job_id: str, *, first: bool = False) -> None:
        """Put a job at the end (or at the front) of the list of those that wait for their instant version."""
        with reaching():
            (self._redis.lpush if first else self._redis.rpush)(INSTANT_KEY, job_id)

    def waiting_instantly(self) -> frozenset[str]:
        """The ids of the jobs on that list."""
        with reaching():
            return frozenset(cast("list[str]", self._redis.lrange(INSTANT_KEY, 0, -1)))

    def next_instant(self, timeout_s: float) -> str | None:
        """Take the first job off that list; None if there is none for `timeout_s`, at most half the client's patience.

        Whoever takes a job and dies leaves it in the queue without a message, which a worker notices.
        """
        with reaching():
            taken = cast("tuple[str, str] | None", self._redis.blpop([INSTANT_KEY], timeout_s))
        return None if taken is None else taken[1]

    def save_instant(self, job_id: str, outcome: InstantOutcome) -> bool:
        """Store what became of a job's instant version. Return False and store nothing if the job has ended."""
        return self._script(scripts.INSTANT, self._job(job_id), [outcome.model_dump_json()]) == "saved"

    def save_contributions(self, job_id: str, report: ContributionReport, *, owner: str) -> bool:
        """Store what a running job's new classes have in common with the old ones. Return False if it is not its."""
        return self._script(scripts.CONTRIBUTIONS, self._job(job_id), [owner, report.model_dump_json()]) == "saved"

    def save_labels(self, job_id: str, report: LabelReport) -> bool:
        """Store what looks wrong in a job's labels. Return False and store nothing if the job has ended."""
        return self._script(scripts.LABELS, self._job(job_id), [report.model_dump_json()]) == "saved"

    def save_receipt(self, job_id: str, receipt: PurgeReceipt) -> None:
        """Store that the images of a cancelled job's corrections were removed."""
        with reaching():
            self._redis.hset(job_key(job_id), "receipt", receipt.model_dump_json())

    def get(self, job_id: str) -> JobRecord:
        """Return the job's current record.

        Raises:
            JobNotFoundError: there is no such job.
            JobUnreadableError: its record is damaged, or of a release that says more than this one knows.
        """
        try:
            with reaching():
                fields = cast("dict[str, str]", self._redis.hgetall(job_key(job_id)))
        except ResponseError as error:
            raise _unreadable(job_id, error) from error
        return _record(job_id, fields)

    def list(self) -> list[JobRecord]:
        """Return all stored jobs that can be read, newest first."""
        return self.listing().records

    def listing(self, *, limit: int | None = None, before: str | None = None, skip: Collection[str] = ()) -> Listing:
        """Return stored jobs, newest first, in a few round trips however many there are.

        Args:
            limit: how many at most; None: all.
            before: only jobs older than this one.
            skip: ids that are left out.

        Raises:
            JobNotFoundError: there is no job `before`.
        """
        first = 0
        if before is not None:
            with reaching():
                rank = self._redis.zrevrank(JOBS_KEY, before)
            if rank is None:
                raise JobNotFoundError(f"no job has the id {before!r}")
            first = int(cast("int", rank)) + 1
        found, expired = Listing([], {}), list[str]()
        for ids in self._ids(first):
            for job_id, fields in self._fields([job_id for job_id in ids if job_id not in skip]):
                if limit is not None and len(found.records) == limit:
                    self._forget(expired)
                    return Listing(found.records, found.unreadable, more=True)
                try:
                    found.records.append(_record(job_id, fields))
                except JobUnreadableError:
                    found.unreadable[job_id] = fields if isinstance(fields, dict) else {}
                except JobNotFoundError:  # its record expired
                    expired.append(job_id)
        self._forget(expired)
        return found

    def _ids(self, first: int) -> Iterator[Sequence[str]]:
        """Yield pages of ids from a place on. A job that comes meanwhile moves places: none is yielded twice."""
        while True:
            with reaching():
                ids = cast("list[str]", self._redis.zrevrange(JOBS_KEY, first, first + _PAGE - 1))
            if ids:
                yield ids
            if len(ids) < _PAGE:
                return
            with reaching():
                rank = cast("int | None", self._redis.zrevrank(JOBS_KEY, ids[-1]))
            first = first + len(ids) if rank is None else rank + 1

    def _forget(self, expired: Sequence[str]) -> None:
        if expired:
            with contextlib.suppress(BrokerUnavailableError), reaching():
                self._redis.zrem(JOBS_KEY, *expired)

    def _fields(self, ids: Sequence[str]) -> _Rows:
        """Return what is stored under each id, in one round trip; an error where it is no job."""
        if not ids:
            return []
        with reaching(), self._redis.pipeline(transaction=False) as pipeline:
            for job_id in ids:
                pipeline.hgetall(job_key(job_id))
            answers = pipeline.execute(raise_on_error=False)
        for answer in answers:
            if isinstance(answer, Exception) and why_unavailable(answer) is not None:
                with reaching():
                    raise answer
        return list(zip(ids, answers, strict=True))

    def request_cancel(self, job_id: str) -> JobRecord:
        """Request a job's stop: a queued job is cancelled at once, a running one within a step, a finished one never.

        A queued job that was started before may have published a version; a worker checks that before it cancels it.
        The caller purges the job's spool if the returned record is `cancelled`.

        Raises:
            JobNotFoundError: there is no such job.
        """
        self._script(scripts.REQUEST_CANCEL, self._job(job_id), [utc_now().isoformat(), str(FINISHED_JOBS_KEPT_S)])
        return self.get(job_id)

    def cancel_requested(self, job_id: str) -> bool:
        """Return whether a stop of the job was requested."""
        with reaching():
            return bool(self._redis.hget(job_key(job_id), "cancel_requested") == "1")

    # --- the worker's side ----------------------------------------------------------------------------------------

    def claim(self, job_id: str, *, owner: str) -> JobState | None:
        """Claim a queued job: it becomes `running`, with one more attempt, and `owner` may write its progress.

        Returns:
            None if `owner` now has the job, else the state that prevents it.

        Raises:
            JobNotFoundError: there is no such job.
        """
        answer = self._script(scripts.CLAIM, self._job(job_id), [owner, utc_now().isoformat(), _beat()])
        if answer == "missing":
            raise JobNotFoundError(f"no job has the id {job_id!r}")
        return None if answer == "claimed" else JobState(answer)

    def heartbeat(self, job_id: str, *, owner: str) -> bool:
        """Record that `owner` is still working on the job. Return False if it no longer has the job."""
        return self._script(scripts.HEARTBEAT, self._job(job_id), [owner, _beat()]) == "beaten"

    def waiting_heartbeat(self, job_id: str) -> bool:
        """Record that a queued job's instant version is being made. Return False if the job is not queued any more."""
        return self._script(scripts.WAITING_HEARTBEAT, self._job(job_id), [_beat()]) == "beaten"

    def save_progress(self, job_id: str, progress: JobProgress, *, owner: str) -> bool:
        """Store the job's progress and a heartbeat. Return False and store nothing if `owner` no longer has the job."""
        return (
            self._script(scripts.PROGRESS, self._job(job_id), [owner, _beat(), progress.model_dump_json()]) == "saved"
        )

    def requeue(
        self, job_id: str, *, owner: str | None = None, heartbeat: str | None = None, counts: bool = True
    ) -> bool:
        """Set a running job back to `queued`; the caller sends the message.

        Args:
            job_id: the job.
            owner: if given, requeue only if this owner still has the job.
            heartbeat: if given, requeue only if this is still the job's last heartbeat.
            counts: whether the interrupted attempt counts; False if the worker was told to stop.

        Returns:
            Whether this call requeued the job.
        """
        arguments = [owner or "", heartbeat or "", "1" if counts else "0"]
        return self._script(scripts.REQUEUE, self._job(job_id), arguments) == "requeued"

    def finish(
        self,
        job_id: str,
        state: JobState,
        *,
        outcome: UpdateOutcome | None = None,
        error: JobError | None = None,
        receipt: PurgeReceipt | None = None,
    ) -> bool:
        """Set a job's final state. Return False and change nothing if it already has one or is gone."""
        assert state.terminal, state
        arguments = [
            str(state),
            utc_now().isoformat(),
            outcome.model_dump_json() if outcome else "",
            error.model_dump_json() if error else "",
            str(FINISHED_JOBS_KEPT_S),
            receipt.model_dump_json() if receipt else "",
        ]
        return self._script(scripts.FINISH, self._job(job_id), arguments) == "finished"

    def update_waits(self) -> bool:
        """Return whether a message waits that goes before those sent with `later`."""
        with reaching():
            return bool(self._redis.llen(UPDATES_QUEUE))

    def waiting_messages(self) -> int:
        """Return the number of messages in the queue `updates` that no worker has taken."""
        with reaching():
            return int(self._redis.llen(UPDATES_QUEUE)) + int(self._redis.llen(LATER_QUEUE))

    # --- idempotency ----------------------------------------------------------------------------------------------

    def remember(self, key: str, job_id: str, *, fingerprint: str = "") -> IdempotencyEntry:
        """Bind an Idempotency-Key to a job unless it is bound already.

        Returns:
            What the key is bound to now: a `job_id` other than the caller's means that another request was first.
        """
        entry = IdempotencyEntry(job_id=job_id, fingerprint=fingerprint)
        with reaching():
            name = idempotency_key(key)
            before = self._redis.set(name, entry.model_dump_json(), nx=True, get=True, ex=IDEMPOTENCY_KEPT_S)
        return entry if before is None else IdempotencyEntry.model_validate_json(cast("str", before))

    def recall(self, key: str) -> IdempotencyEntry | None:
        """Return what an Idempotency-Key is bound to, or None."""
        with reaching():
            raw = self._redis.get(idempotency_key(key))
        return None if raw is None else IdempotencyEntry.model_validate_json(cast("str", raw))

    def forget(self, key: str) -> None:
        """Free an Idempotency-Key whose request was not accepted."""
        with reaching():
            self._redis.delete(idempotency_key(key))

    # --- plumbing -------------------------------------------------------------------------------------------------

    def _job(self, job_id: str) -> tuple[str, str]:
        return job_key(job_id), events_channel(job_id)


def _record(job_id: str, fields: dict[str, str] | Exception) -> JobRecord:
    if isinstance(fields, Exception):
        raise _unreadable(job_id, fields)
    if not fields:
        raise JobNotFoundError(f"no job has the id {job_id!r}")
    try:
        return record_from_hash(fields)
    except ValidationError as error:
        raise _unreadable(job_id, error) from error


def _unreadable(job_id: str, error: Exception) -> JobUnreadableError:
    return JobUnreadableError(f"the record of job {job_id} cannot be read by this release: {type(error).__name__}")


def _beat() -> str:
    # a heartbeat only has to differ from the one before: watchers compare it with the last one seen, not with a clock
    return str(time.time_ns())
