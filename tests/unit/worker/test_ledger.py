"""What must reach Redis however long it is gone, and the images that are removed before."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import redis

from exchange.contracts import JobError, JobRecord, JobState, PurgeReceipt, UpdateOutcome, job_key
from exchange.jobs import Jobs
from exchange.notes import read_note
from exchange.redis_client import BrokerUnavailableError
from exchange.spool import Spool
from worker import ledger as module
from worker.ledger import Ledger

Submit = Callable[[], JobRecord]
OUTCOME = UpdateOutcome(version_id="000002-0123456789ab", promoted=True)


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_FIRST_DELAY_S", 0.001)
    monkeypatch.setattr(module, "_LONGEST_DELAY_S", 0.002)


@pytest.fixture
def ledger(jobs: Jobs, spool: Spool, stop: threading.Event) -> Ledger:
    return Ledger(jobs, spool, stop=stop)


@pytest.fixture
def claimed(jobs: Jobs, submit: Submit) -> JobRecord:
    job_id = submit().job_id
    jobs.claim(job_id, owner="this worker")
    return jobs.get(job_id)


class Outage:
    """Redis that does not answer for the first so many calls."""

    def __init__(self, calls: float, then: Callable[[], str] = lambda: "answer") -> None:
        self.left, self.then = calls, then

    def __call__(self) -> str:
        if self.left > 0:
            self.left -= 1
            raise BrokerUnavailableError("Redis does not answer")
        return self.then()


def test_a_call_is_repeated_until_redis_answers(ledger: Ledger, caplog: pytest.LogCaptureFixture) -> None:
    assert ledger.insist(Outage(5)) == "answer"
    assert caplog.text.count("trying again in") == 5


def test_an_error_of_another_kind_is_not_repeated(ledger: Ledger) -> None:
    def fail() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        ledger.insist(fail)


def test_a_worker_that_is_to_stop_tries_for_a_while_only(
    ledger: Ledger, stop: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop.set()
    assert ledger.insist(Outage(3)) == "answer"
    monkeypatch.setattr(module, "_GRACE_S", 0.05)
    with pytest.raises(BrokerUnavailableError):
        ledger.insist(Outage(float("inf")))


def test_the_images_are_gone_before_the_final_state_is_known(
    claimed: JobRecord, jobs: Jobs, spool: Spool, stop: threading.Event
) -> None:
    seen: list[list[str]] = []

    class Watched(Jobs):
        def finish(
            self,
            job_id: str,
            state: JobState,
            *,
            outcome: UpdateOutcome | None = None,
            error: JobError | None = None,
            receipt: PurgeReceipt | None = None,
        ) -> bool:
            seen.append([path.name for path in spool.folder(job_id).iterdir()])
            noted = read_note(spool, job_id)
            assert noted is not None
            assert (noted.record.state, noted.record.outcome) == (state, outcome)
            return super().finish(job_id, state, outcome=outcome, error=error, receipt=receipt)

    watched = Watched(jobs.redis_url)
    assert spool.folder(claimed.job_id).exists()
    Ledger(watched, spool, stop=stop).conclude(claimed, JobState.SUCCEEDED, outcome=OUTCOME)
    watched.close()
    assert seen == [["job.json"]]
    assert not spool.folder(claimed.job_id).exists()
    ended = jobs.get(claimed.job_id)
    assert (ended.state, ended.outcome, ended.owner) == (JobState.SUCCEEDED, OUTCOME, None)


def test_images_that_cannot_be_removed_do_not_keep_a_job_from_ending(
    claimed: JobRecord, jobs: Jobs, spool: Spool, stop: threading.Event, caplog: pytest.LogCaptureFixture
) -> None:
    class Stuck(Spool):
        def purge(self, job_id: str) -> None:
            raise OSError("device or resource busy")

    error = JobError(kind="SomeError", message="it did not work")
    Ledger(jobs, Stuck(spool.root), stop=stop).conclude(claimed, JobState.FAILED, error=error)
    ended = jobs.get(claimed.job_id)
    assert (ended.state, ended.error) == (JobState.FAILED, error)
    assert "device or resource busy" in caplog.text


def test_the_end_of_a_job_that_redis_lost_is_written_all_the_same(
    ledger: Ledger, claimed: JobRecord, jobs: Jobs, own_redis: str
) -> None:
    with redis.Redis.from_url(own_redis) as client:
        client.delete(job_key(claimed.job_id))
    ledger.conclude(claimed, JobState.SUCCEEDED, outcome=OUTCOME)
    ended = jobs.get(claimed.job_id)
    assert (ended.state, ended.outcome, ended.owner, ended.heartbeat) == (JobState.SUCCEEDED, OUTCOME, None, None)
    assert ended.finished_at is not None


def test_an_end_that_was_written_by_another_worker_stands(ledger: Ledger, claimed: JobRecord, jobs: Jobs) -> None:
    assert jobs.finish(claimed.job_id, JobState.CANCELLED)
    ledger.conclude(claimed, JobState.SUCCEEDED, outcome=OUTCOME)
    assert jobs.get(claimed.job_id).state == JobState.CANCELLED


@pytest.mark.parametrize(("counts", "attempts"), [(True, 1), (False, 0)])
def test_a_job_that_is_put_back_waits_with_a_message_of_its_own(
    ledger: Ledger, claimed: JobRecord, jobs: Jobs, spool: Spool, counts: bool, attempts: int
) -> None:
    assert jobs.waiting_messages() == 1
    assert ledger.put_back(claimed, counts=counts)
    record = jobs.get(claimed.job_id)
    assert (record.state, record.attempts, record.owner) == (JobState.QUEUED, attempts, None)
    assert jobs.waiting_messages() == 2
    assert spool.read(claimed.job_id).classes == ("cat", "dog")


def test_a_job_whose_worker_gave_a_sign_of_life_is_not_put_back(ledger: Ledger, claimed: JobRecord, jobs: Jobs) -> None:
    assert jobs.heartbeat(claimed.job_id, owner="this worker")
    assert not ledger.put_back(claimed)
    assert jobs.get(claimed.job_id).state == JobState.RUNNING
    assert jobs.waiting_messages() == 1


def test_a_record_that_is_there_is_left_as_it_is(ledger: Ledger, claimed: JobRecord, jobs: Jobs) -> None:
    other = claimed.model_copy(update={"attempts": 7})
    assert ledger.restore_if_lost(other) == jobs.get(claimed.job_id) == claimed


def test_images_of_a_job_are_removed_once(ledger: Ledger, claimed: JobRecord, spool: Spool, tmp_path: Path) -> None:
    ledger.purge(claimed.job_id)
    ledger.purge(claimed.job_id)
    assert not spool.folder(claimed.job_id).exists()
