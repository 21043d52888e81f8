"""A job's note: its record in the spool, beside its images, so that no accepted job depends on the broker's memory.

The note is on disk before a job counts as accepted. If the broker loses the job, it is queued again from its note. A
worker writes the job's end into the note before it removes the images, so that a broker in trouble cannot make it
forget the outcome either. Whoever removes the folder removes the note first.
"""

from __future__ import annotations

import contextlib
import logging
import os

from pydantic import BaseModel, ConfigDict, ValidationError

from exchange.contracts import JobRecord, JobState
from exchange.jobs import JobExistsError, JobNotFoundError, Jobs, JobUnreadableError
from exchange.redis_client import BrokerUnavailableError
from exchange.spool import NOTE_FILE, Spool, SpoolError, sync_folder

logger = logging.getLogger(__name__)


class Note(BaseModel):
    """What is kept of a job. `key` is the Idempotency-Key it was sent with, `fingerprint` that of its request."""

    model_config = ConfigDict(frozen=True)

    record: JobRecord
    key: str | None = None
    fingerprint: str = ""


def write_note(spool: Spool, note: Note) -> None:
    """Write a job's note and sync it to disk; it replaces the one before at once or not at all.

    Raises:
        OSError: the job has no folder, or the disk is full. The note before is still there.
    """
    folder = spool.folder(note.record.job_id)
    new = folder / f"{NOTE_FILE}.new"
    try:
        with new.open("w", encoding="utf-8") as file:
            file.write(note.model_dump_json())
            file.flush()
            os.fsync(file.fileno())
        new.replace(folder / NOTE_FILE)
        sync_folder(folder)
    except OSError:
        with contextlib.suppress(OSError):
            new.unlink()
        raise


def read_note(spool: Spool, job_id: str) -> Note | None:
    """Return a job's note, or None if it has none.

    Raises:
        SpoolError: the note cannot be read, or belongs to another job.
    """
    try:
        note = Note.model_validate_json((spool.folder(job_id) / NOTE_FILE).read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValidationError) as error:
        raise SpoolError(f"the note of job {job_id} cannot be read by this release: {type(error).__name__}") from error
    if note.record.job_id != job_id:
        raise SpoolError(f"the note of job {job_id} is that of job {note.record.job_id}")
    return note


def accept(jobs: Jobs, spool: Spool, note: Note) -> None:
    """Queue a job whose images are spooled. Once this returns, the job is learned or ends with a reason.

    Raises:
        BrokerUnavailableError: the broker does not answer; there is no such job.
        OSError: the note cannot be written; there is no such job.
    """
    job_id = note.record.job_id
    try:
        jobs.create(note.record)
        write_note(spool, note)
    except BaseException:
        with contextlib.suppress(BrokerUnavailableError):  # it may have stored the job and lost the answer
            jobs.discard(job_id)
        raise
    try:
        jobs.send(note.record)
    except BrokerUnavailableError as error:  # a worker notices a job without a message
        logger.warning("job %s is queued, but no worker could be woken up: %s", job_id, error)


def note_attempt(spool: Spool, record: JobRecord) -> None:
    """Note how often a job was begun, so that a broker that forgets does not reset the count.

    Raises:
        OSError: see `write_note`.
        SpoolError: see `read_note`.
    """
    before = read_note(spool, record.job_id)
    waiting = record.model_copy(update={"state": JobState.QUEUED, "owner": None, "heartbeat": None, "progress": None})
    write_note(spool, before.model_copy(update={"record": waiting}) if before else Note(record=waiting))


def find(jobs: Jobs, spool: Spool, job_id: str) -> JobRecord:
    """Return a job's record; one that the broker has lost is restored first.

    Raises:
        BrokerUnavailableError: the broker does not answer.
        JobNotFoundError: there is no such job, or its record cannot be read.
    """
    try:
        return jobs.get(job_id)
    except JobUnreadableError:
        raise
    except JobNotFoundError:
        with contextlib.suppress(SpoolError):
            if (record := restore(jobs, spool, job_id)) is not None:
                return record
        raise


def restore(jobs: Jobs, spool: Spool, job_id: str) -> JobRecord | None:
    """Give the broker a job back that it has lost, from the job's note; one that waited is sent to a worker.

    Returns:
        The job's record in the broker now, or None if there is no note.

    Raises:
        BrokerUnavailableError: the broker does not answer.
        SpoolError: the note cannot be read.
    """
    note = read_note(spool, job_id)
    if note is None:
        return None
    if note.key is not None and not note.record.state.terminal:
        jobs.remember(note.key, job_id, fingerprint=note.fingerprint)
    with contextlib.suppress(JobExistsError):  # somebody else was faster
        jobs.create(note.record)
        logger.warning("the broker had lost job %s, which is %s; it was restored", job_id, note.record.state)
        if not note.record.state.terminal:
            jobs.send(note.record)
    return jobs.get(job_id)
