"""A task that is only checked: its labels are looked at where instant versions are made, and nothing is learned."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from exchange.contracts import JobRecord, JobState, LabelReport, UpdateJob
from exchange.jobs import Jobs
from exchange.notes import Note, accept
from exchange.spool import Spool
from model_store.store import Store
from model_store.types import VersionId
from tests.unit.worker.test_instant_lane import Lane
from tests.unit.worker.test_instant_lane import lane as lane
from tests.unit.worker.test_labels import with_wrong_labels
from tests.unit.worker.test_pipeline import first as first
from tests.unit.worker.test_pipeline import store as store
from tests.unit.worker.test_pipeline import update
from worker.pipeline import NotPublishedError, run_update
from worker.settings import WorkerSettings

CHECKS = """
say("told", labels={"images": 2})
say("done", outcome={"version_id": "000001-0123456789ab", "promoted": False, "not_promoted_because": "checked"})
time.sleep(60)
"""


def checked(job: UpdateJob) -> UpdateJob:
    return job.model_copy(update={"instant": False, "dry_run": True})


def test_wrong_labels_are_told_and_nothing_is_published(
    settings: WorkerSettings, store: Store, first: VersionId
) -> None:
    told: list[LabelReport] = []
    outcome = update(checked(with_wrong_labels(settings)), settings, on_labels=told.append)
    assert [(report.images, report.likely_wrong[0].path) for report in told] == [(17, "pets/cat/a dog.png")]
    assert (outcome.version_id, outcome.promoted) == (first, False)
    assert outcome.not_promoted_because == "it was checked, and nothing was learned"
    assert [manifest.version_id for manifest in store.list()] == [first]
    assert store.current() == first


def test_a_check_has_nothing_to_resume(settings: WorkerSettings, store: Store, first: VersionId) -> None:
    with pytest.raises(NotPublishedError, match="a check publishes no version"):
        run_update(checked(with_wrong_labels(settings)), settings, on_progress=lambda progress: None, resume_only=True)


def test_a_check_is_done_where_instant_versions_are_made_and_its_images_are_removed(
    lane: Callable[[str], Lane], submit: Callable[[], JobRecord], jobs: Jobs, spool: Spool
) -> None:
    record = submit()
    jobs.discard(record.job_id)
    record = record.model_copy(update={"job": checked(record.job)})
    before = jobs.waiting_messages()
    accept(jobs, spool, Note(record=record))
    assert jobs.waiting_messages() == before, "no update waits for it"
    lane(CHECKS).next()
    after = jobs.get(record.job_id)
    assert (after.state, after.labels is not None) == (JobState.SUCCEEDED, True)
    assert not spool.folder(record.job_id).exists()
