"""Corrections in the worker: served at once, reported one by one, put on top of what is trained meanwhile."""

from __future__ import annotations

from datetime import timedelta
from threading import Event

import pytest

from exchange.contracts import (
    CORRECTIONS_KEY,
    CorrectionReport,
    JobError,
    JobRecord,
    JobState,
    UpdateJob,
    UpdateOutcome,
    utc_now,
)
from exchange.corrections import CorrectionLimits, Corrections
from exchange.jobs import Jobs
from exchange.redis_client import BrokerUnavailableError
from exchange.spool import Spool, SpoolError
from model_store.store import Store
from model_store.types import VersionId
from segp_cl.errors import InvalidTaskError
from tests.unit.worker.test_instant import task
from tests.unit.worker.test_pipeline import BIRDS, PETS, picture, update
from tests.unit.worker.test_pipeline import first as first
from tests.unit.worker.test_pipeline import settings as settings
from tests.unit.worker.test_pipeline import store as store
from worker.instant import run_instant
from worker.ledger import Ledger
from worker.settings import WorkerSettings
from worker.sweeper import Sweeper

LIMITS = CorrectionLimits(most=100, most_bytes=1 << 20, kept_s=3600.0)


@pytest.fixture
def corrections(settings: WorkerSettings) -> Corrections:
    return Corrections(Spool(settings.spool), LIMITS)


@pytest.fixture
def pets(settings: WorkerSettings, store: Store, first: VersionId) -> VersionId:
    """A version that was taught pets without training, made CURRENT."""
    job = task(settings, PETS, strategy="prototypes")
    run_instant(job, settings)
    outcome = update(job, settings)
    Spool(settings.spool).purge(job.job_id)
    return outcome.version_id


def report_of(outcome: UpdateOutcome) -> CorrectionReport:
    return CorrectionReport.model_validate(outcome.report[CORRECTIONS_KEY])


def learned_by(corrections: Corrections, redis_url: str, store: Store) -> UpdateJob:
    record = corrections.learn(Jobs(redis_url), submitted_by="ann", submitted_on=store.current() or "")
    return record.job


def test_they_are_served_at_once_and_told_one_by_one(
    settings: WorkerSettings, store: Store, pets: VersionId, corrections: Corrections, redis_url: str
) -> None:
    names = list(PETS)
    before = {each.name: each.images for each in store.manifest(pets).classes}
    for number in range(3):  # pictures that were taught, of which the sender says that they were taught wrongly
        image = picture(PETS[names[0]], number)
        corrections.add(image, names[1], corrected_by="ann", taught_as=names[0], answered=names[0])
    corrections.add(picture((250, 250, 10), 1), "sun", corrected_by="ann", prompt="A photo of a sun.")
    job = learned_by(corrections, redis_url, store)
    instant = run_instant(job, settings)
    assert (instant.promoted, store.current()) == (True, instant.version_id)
    manifest = store.manifest(instant.version_id or "")
    assert (manifest.made, manifest.strategy, manifest.parent) == ("corrected", "corrections", pets)
    assert store.journal()[-1].reason == f"job {job.job_id} learned 4 corrections"
    after = {each.name: each.images for each in manifest.classes}
    taken_back = before[names[0]] - after[names[0]]
    assert 1 <= taken_back <= 3  # some of them were held out, and so never taught
    assert after == {**before, names[0]: before[names[0]] - taken_back, names[1]: before[names[1]] + 3, "sun": 1}

    outcome = update(job, settings)  # there is nothing to train
    assert (outcome.version_id, outcome.promoted) == (instant.version_id, True)
    report = report_of(outcome)
    effects = report.effects
    assert [(each.number, each.label) for each in effects] == [
        (1, names[1]), (2, names[1]), (3, names[1]), (4, "sun"),
    ]  # fmt: skip
    assert all(each.before == names[0] and not each.right_before for each in effects[:3])
    assert effects[3].right_now
    assert report.right_now == sum(each.right_now for each in effects)
    assert report.mended == report.right_now - report.right_before + report.spoiled
    assert report.sampled > 0
    assert report.sampled_right_before >= report.sampled * 0.9


def test_they_are_put_on_a_version_that_was_trained_meanwhile(
    settings: WorkerSettings, store: Store, pets: VersionId, corrections: Corrections, redis_url: str
) -> None:
    birds = task(settings, BIRDS)
    run_instant(birds, settings)
    corrections.add(picture((250, 250, 10), 1), next(iter(PETS)), corrected_by="ann")
    job = learned_by(corrections, redis_url, store)

    def meanwhile() -> None:
        run_instant(job, settings)

    trained = update(birds, settings, before_publish=meanwhile)
    assert [manifest.made for manifest in store.lineage()][:3] == ["corrected", "trained", "instant"]
    Spool(settings.spool).purge(birds.job_id)
    outcome = update(job, settings)
    assert (outcome.promoted, store.current()) == (True, outcome.version_id)
    assert store.manifest(outcome.version_id).parent == trained.version_id


def test_a_job_whose_instant_version_could_not_be_made_learns_them_all_the_same(
    settings: WorkerSettings, store: Store, pets: VersionId, corrections: Corrections, redis_url: str
) -> None:
    corrections.add(picture((250, 250, 10), 1), next(iter(PETS)), corrected_by="ann")
    outcome = update(learned_by(corrections, redis_url, store), settings)
    assert (outcome.promoted, store.manifest(outcome.version_id).made) == (True, "corrected")
    assert outcome.version_id == store.current()


def test_those_of_classes_that_are_gone_are_left_out(
    settings: WorkerSettings, store: Store, pets: VersionId, corrections: Corrections, redis_url: str
) -> None:
    corrections.add(picture((1, 1, 1), 1), "unicorn", corrected_by="ann")
    with pytest.raises(InvalidTaskError, match="none of the classes"):
        run_instant(learned_by(corrections, redis_url, store), settings)
    corrections.add(picture((1, 1, 1), 1), "unicorn", corrected_by="ann")
    corrections.add(picture((9, 9, 9), 1), next(iter(PETS)), corrected_by="ann")
    outcome = update(learned_by(corrections, redis_url, store), settings)
    report = report_of(outcome)
    assert (report.corrections, report.left_out) == (1, 1)


def test_what_is_missing_in_the_spool_fails_the_job(
    settings: WorkerSettings, store: Store, pets: VersionId, corrections: Corrections, redis_url: str
) -> None:
    corrections.add(picture((1, 1, 1), 1), next(iter(PETS)), corrected_by="ann")
    job = learned_by(corrections, redis_url, store)
    for path in Spool(settings.spool).folder(job.job_id).rglob("correction.json"):
        path.unlink()
    with pytest.raises(SpoolError, match="is missing from the spool"):
        run_instant(job, settings)


def test_the_receipt_says_what_became_of_them(
    settings: WorkerSettings, store: Store, pets: VersionId, corrections: Corrections, redis_url: str
) -> None:
    corrections.add(picture((1, 1, 1), 1), next(iter(PETS)), corrected_by="ann")
    jobs = Jobs(redis_url)
    job = learned_by(corrections, redis_url, store)
    jobs.claim(job.job_id, owner="me")
    record = jobs.get(job.job_id)
    Ledger(jobs, Spool(settings.spool), stop=Event()).conclude(
        record, JobState.FAILED, error=JobError(kind="X", message="no")
    )
    receipt = jobs.get(job.job_id).receipt
    assert receipt is not None
    assert (receipt.corrections, receipt.learned) == (1, False)
    assert not Spool(settings.spool).folder(job.job_id).exists()
    assert corrections.waiting() == []
    plain = JobRecord(job=task(settings, BIRDS), created_at=utc_now())
    jobs.create(plain)
    Ledger(jobs, Spool(settings.spool), stop=Event()).conclude(plain, JobState.CANCELLED)
    assert jobs.get(plain.job_id).receipt is None


def test_whoever_sweeps_first_has_those_that_are_due_learned(
    settings: WorkerSettings, store: Store, pets: VersionId, corrections: Corrections, redis_url: str
) -> None:
    settings = settings.model_copy(update={"corrections_learn_count": 2, "redis_url": redis_url})
    spool, jobs, stop = Spool(settings.spool), Jobs(redis_url), Event()
    sweepers = [Sweeper(settings, jobs, spool, stop=stop) for _ in range(2)]

    def learning() -> list[JobRecord]:
        return [record for job_id in spool.folders() if (record := jobs.get(job_id)).job.corrections]

    corrections.add(picture((1, 1, 1), 1), next(iter(PETS)), corrected_by="ann")
    for sweeper in sweepers:
        sweeper.sweep()
    assert (len(corrections.waiting()), learning()) == (1, [])
    corrections.add(picture((9, 9, 9), 1), next(iter(PETS)), corrected_by="ann")
    for sweeper in sweepers:
        sweeper.sweep()
    assert corrections.waiting() == []
    assert [(record.job.corrections, record.job.submitted_by) for record in learning()] == [(2, "keepsight")]

    old = utc_now() - timedelta(seconds=settings.corrections_kept_s + 1)
    corrections = Corrections(spool, CorrectionLimits.of(settings))
    corrections.add(picture((7, 7, 7), 1), next(iter(PETS)), corrected_by="ann", at=old)
    sweepers[0].sweep()
    assert list((spool.root / "corrections").glob("0*")) == []


def test_corrections_expire_without_a_broker_too(
    settings: WorkerSettings, store: Store, pets: VersionId, corrections: Corrections
) -> None:
    spool = Spool(settings.spool)
    corrections.add(picture((1, 1, 1), 1), next(iter(PETS)), corrected_by="ann", at=utc_now() - timedelta(seconds=3601))
    gone = Jobs("redis://127.0.0.1:1/0", timeout_s=0.2)
    settings = settings.model_copy(update={"corrections_kept_s": 3600.0})
    with pytest.raises(BrokerUnavailableError):
        Sweeper(settings, gone, spool, stop=Event()).sweep()
    assert list((spool.root / "corrections").glob("0*")) == []
