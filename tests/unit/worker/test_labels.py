"""What looks wrong in the labels of a task is told by path, before anything is published, by either lane."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest

from exchange.contracts import JobRecord, LabelReport, UpdateJob, utc_now
from exchange.jobs import Jobs
from exchange.notes import Note, write_note
from exchange.spool import Spool
from model_store.store import Store
from model_store.types import VersionId
from tests.unit.worker.test_instant_lane import Lane
from tests.unit.worker.test_instant_lane import accepted as accepted
from tests.unit.worker.test_instant_lane import lane as lane
from tests.unit.worker.test_pipeline import BIRDS, PETS, picture, spooled, update
from tests.unit.worker.test_pipeline import first as first
from tests.unit.worker.test_pipeline import store as store
from worker import labels
from worker.instant import run_instant
from worker.settings import WorkerSettings


def with_wrong_labels(settings: WorkerSettings) -> UpdateJob:
    """A task of cats and dogs, where one dog is called a cat, and one picture is nearly that of the other class."""
    job = spooled(settings, PETS, strategy="prototypes")
    spool = Spool(settings.spool)
    spool.purge(job.job_id)
    with spool.create(job.job_id) as writer:
        for label, (name, colour) in enumerate(PETS.items()):
            for number in range(8):
                writer.add(label, picture(colour, number), ".png", path=f"pets/{name}/{number}.png")
        writer.add(0, picture(PETS["dog"], 20), ".png", path="pets/cat/a dog.png")
        index = writer.close(list(PETS))
    counts = {"cat": 9, "dog": 8}
    classes = tuple(each.model_copy(update={"images": counts[each.name]}) for each in job.classes)
    job = job.model_copy(update={"dataset_digest": index.digest, "instant": True, "classes": classes})
    write_note(spool, Note(record=JobRecord(job=job, created_at=utc_now())))
    return job


def test_wrong_labels_are_told_before_the_version_is_published(
    settings: WorkerSettings, store: Store, first: VersionId
) -> None:
    told: list[LabelReport] = []

    def before_publish() -> None:
        assert len(told) == 1
        assert [manifest.version_id for manifest in store.list()] == [first]

    run_instant(with_wrong_labels(settings), settings, on_labels=told.append, before_publish=before_publish)
    report = told[0]
    assert report.images == 17
    assert (report.likely_wrong_count, report.likely_wrong[0].path) == (1, "pets/cat/a dog.png")
    wrong = report.likely_wrong[0]
    assert (wrong.label, wrong.likely) == ("cat", "dog")
    assert wrong.label_probability < wrong.likely_probability
    same = [(each.path, each.other_path) for each in report.nearly_same]
    assert report.nearly_same_count == len(same) > 0
    assert all("pets/cat/a dog.png" in pair for pair in same)
    assert "labels" not in (store.list()[-1].report or {})  # paths do not go into the store


def test_right_labels_are_not_told(settings: WorkerSettings, store: Store, first: VersionId) -> None:
    told: list[LabelReport] = []
    run_instant(spooled(settings, PETS, strategy="prototypes"), settings, on_labels=told.append)
    assert (told[0].likely_wrong, told[0].nearly_same, told[0].images) == ((), (), 16)


def test_a_task_without_an_instant_version_is_told_of_once(
    settings: WorkerSettings, store: Store, first: VersionId
) -> None:
    told: list[LabelReport] = []
    job = with_wrong_labels(settings).model_copy(update={"instant": False})
    update(job, settings, on_labels=told.append)
    assert [each.likely_wrong[0].path for each in told] == ["pets/cat/a dog.png"]
    birds = spooled(settings, BIRDS).model_copy(update={"instant": True})
    run_instant(birds, settings, on_labels=told.append)
    update(birds, settings, on_labels=told.append)
    assert len(told) == 2


def test_lists_are_cut_and_counted(
    settings: WorkerSettings, store: Store, first: VersionId, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.instant.labels_of", partial(labels.labels_of, most_told=0))
    monkeypatch.setattr(labels, "MOST_LOOKED_AT", 10)
    told: list[LabelReport] = []
    run_instant(with_wrong_labels(settings), settings, on_labels=told.append)
    assert told[0].images == 10
    assert (told[0].likely_wrong, told[0].nearly_same) == ((), ())
    monkeypatch.setattr(labels, "MOST_LOOKED_AT", 17)
    store.rollback(first, who="ann", reason="again")
    run_instant(with_wrong_labels(settings), settings, on_labels=told.append)
    assert (told[1].likely_wrong, told[1].likely_wrong_count) == ((), 1)


def test_the_lane_keeps_what_is_told_in_the_job(lane: Callable[[str], Lane], jobs: Jobs, accepted: JobRecord) -> None:
    lane('say("told", labels={"images": 3, "likely_wrong_count": 2})\nfail("X", "no")').next()
    found = jobs.get(accepted.job_id).labels
    assert found is not None
    assert (found.images, found.likely_wrong_count) == (3, 2)
