"""Queues the merge of two versions. A worker does it, in seconds and without an image."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from pydantic import JsonValue

from app.queueing import queue_without_images
from exchange.contracts import JobRecord, UpdateJob, new_job_id, utc_now
from exchange.jobs import Jobs
from exchange.spool import Spool
from model_store.store import Store
from model_store.types import VersionId

logger = logging.getLogger(__name__)


def queue_merge(
    store: Store,
    spool: Spool,
    jobs: Jobs,
    versions: tuple[VersionId, VersionId],
    *,
    name: str,
    config: Mapping[str, JsonValue],
    seed: int,
    submitted_by: str,
) -> JobRecord:
    """Check that two versions can be merged, and queue the job that does it. Synchronous: run it in a thread.

    Args:
        store: the store.
        spool: where the job's note is kept.
        jobs: the queue.
        versions: the parent of the merged version, and the other one.
        name: why, in the journal.
        config: hyper-parameters to override.
        seed: seed of all random choices.
        submitted_by: recorded in the journal.

    Raises:
        VersionNotFoundError: there is no such version.
        NoCommonAncestorError: it cannot be told what each has learned that the other has not.
        HeldError: the gate holds one of them.
        CorruptVersionError: the manifest of one of them is damaged.
        BrokerUnavailableError: Redis is gone; the job does not exist.
        SpoolUnusableError: its note cannot be written; the job does not exist.
    """
    jobs.ping()
    store.common_ancestor(*versions)
    for version in versions:
        store.check_not_held(version)
    job = UpdateJob(
        job_id=new_job_id(),
        task_name=name,
        merges=versions,
        config=dict(config),
        seed=seed,
        submitted_at=utc_now(),
        submitted_by=submitted_by,
        submitted_on=store.current(),
    )
    record = queue_without_images(jobs, spool, job)
    logger.info("merge accepted job_id=%s versions=%s", job.job_id, " ".join(versions))
    return record
