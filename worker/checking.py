"""Looks at a task's labels, and learns nothing."""

from __future__ import annotations

import logging

from exchange.contracts import UpdateJob, UpdateOutcome
from model_store.store import Store
from segp_cl.types import OnProgress
from worker.instant import in_closed_form
from worker.labels import OnLabels
from worker.settings import WorkerSettings
from worker.task_data import TaskData

logger = logging.getLogger(__name__)


def check_task(
    store: Store, job: UpdateJob, settings: WorkerSettings, *, on_progress: OnProgress, on_labels: OnLabels
) -> UpdateOutcome:
    """Tell what looks wrong in the labels of a task. Nothing is published, and CURRENT does not move.

    Args:
        store: the store, whose current version the task would be learned on.
        job: the task; its images lie in the spool.
        settings: the worker's settings.
        on_progress: called after every step. An exception from it ends the work.
        on_labels: called with what was found.

    Raises:
        KeepsightError: the task cannot be taught, so a job that learns it would fail too; the message says why.
    """
    current = store.known_current()
    data = TaskData.read(job, settings)
    taught = in_closed_form(store.open(current), data, settings, on_progress=on_progress)
    on_labels(taught.labels(data, on_progress))
    logger.info("looked at the labels of %d images", len(data.index.files))
    return UpdateOutcome(
        version_id=current, promoted=False, not_promoted_because="it was checked, and nothing was learned"
    )
