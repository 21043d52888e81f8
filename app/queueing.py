"""Queues jobs that need no upload."""

from __future__ import annotations

import contextlib

from exchange.contracts import JobRecord, UpdateJob
from exchange.jobs import Jobs
from exchange.notes import Note, accept
from exchange.spool import Spool


def queue_without_images(jobs: Jobs, spool: Spool, job: UpdateJob) -> JobRecord:
    """Queue a job whose folder in the spool holds nothing but its note. If this fails, nothing of it is left.

    Raises:
        BrokerUnavailableError: Redis is gone; the job does not exist.
        OSError: its note cannot be written; the job does not exist.
    """
    record = JobRecord(job=job, created_at=job.submitted_at)
    try:
        spool.reserve(job.job_id)
        accept(jobs, spool, Note(record=record))
    except BaseException:
        with contextlib.suppress(OSError):  # a sweeper removes what is left of it
            spool.purge(job.job_id)
        raise
    return record
