"""The lane of instant versions: whatever becomes of one, its job goes on to the queue of updates."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pytest

from exchange.contracts import JobRecord, JobState
from exchange.jobs import Jobs
from exchange.notes import Note, accept
from exchange.spool import Spool
from tests.waiting import wait_until
from worker.instant_lane import InstantLane
from worker.ledger import Ledger
from worker.messages import Order
from worker.process import JobProcess
from worker.settings import WorkerSettings
from worker.supervisor import Supervisor
from worker.warm import Processes

ProcessThat = Callable[[str], Sequence[str]]
SERVES = """
ask()
say("done_instantly", outcome={"version_id": "000002-0123456789ab", "promoted": True, "seconds": 1.5,
                               "at": "2026-01-01T00:00:00Z"})
time.sleep(60)
"""


@dataclass
class Lane:
    lane: InstantLane
    processes: Processes
    jobs: Jobs
    stop: threading.Event

    def next(self) -> None:
        self.lane.next(0.1)


@pytest.fixture
def lane(
    settings: WorkerSettings, jobs: Jobs, spool: Spool, stop: threading.Event, process_that: ProcessThat
) -> Callable[..., Lane]:
    def make(body: str, **changes: object) -> Lane:
        chosen = settings.model_copy(update=changes)
        processes = Processes(chosen, command=process_that(body))
        ledger = Ledger(jobs, spool, stop=stop)
        supervisor = Supervisor(chosen, jobs, spool, stop=stop, processes=processes)
        made = InstantLane(chosen, ledger, processes, run=supervisor.run, stop=stop)
        return Lane(made, processes, jobs, stop)

    return make


@pytest.fixture
def accepted(submit: Callable[[], JobRecord], jobs: Jobs, spool: Spool) -> JobRecord:
    """A job that is to have an instant version, and waits for it."""
    record = submit()
    jobs.discard(record.job_id)
    record = record.model_copy(update={"job": record.job.model_copy(update={"instant": True})})
    before = jobs.waiting_messages()
    accept(jobs, spool, Note(record=record))
    assert jobs.waiting_messages() == before
    return record


def test_what_became_of_it_is_in_the_job_which_then_waits_for_its_update(
    lane: Callable[[str], Lane], jobs: Jobs, accepted: JobRecord
) -> None:
    before = jobs.waiting_messages()
    lane(SERVES).next()
    record = jobs.get(accepted.job_id)
    assert record.instant is not None
    assert (record.instant.version_id, record.instant.promoted) == ("000002-0123456789ab", True)
    assert (record.state, record.attempts, jobs.waiting_messages()) == (JobState.QUEUED, 0, before + 1)


@pytest.mark.parametrize(
    ("body", "kind", "words"),
    [
        ('fail("ClassExistsError", "already known")', "ClassExistsError", "already known"),
        ("os.kill(os.getpid(), signal.SIGKILL)", "LostError", "SIGKILL"),
        ("sys.exit(3)", "LostError", "status 3"),
    ],
)
def test_a_job_whose_instant_version_failed_says_why_and_is_trained(
    lane: Callable[[str], Lane], jobs: Jobs, accepted: JobRecord, body: str, kind: str, words: str
) -> None:
    before = jobs.waiting_messages()
    lane(body).next()
    instant = jobs.get(accepted.job_id).instant
    assert instant is not None
    assert instant.error is not None
    assert instant.error.kind == kind
    assert words in instant.error.message
    assert jobs.waiting_messages() == before + 1


@pytest.mark.parametrize(
    ("body", "kept"), [(SERVES, True), ('fail("StoreError", "File too large")\ntime.sleep(60)', False)]
)
def test_a_process_is_used_again_only_if_its_order_succeeded(
    lane: Callable[..., Lane], accepted: JobRecord, monkeypatch: pytest.MonkeyPatch, body: str, kept: bool
) -> None:
    """What it lacked, it may lack for ever: files, memory, room."""
    made = lane(body, warm=True)
    taken: list[JobProcess] = []
    take = made.processes.take

    def noting(order: Order) -> JobProcess:
        taken.append(take(order))
        return taken[-1]

    monkeypatch.setattr(made.processes, "take", noting)
    made.next()
    assert taken[0].runs is kept
    made.processes.close()


def test_a_process_that_is_stuck_is_given_up(lane: Callable[..., Lane], jobs: Jobs, accepted: JobRecord) -> None:
    lane("time.sleep(60)", max_silence_s=0.3).next()
    instant = jobs.get(accepted.job_id).instant
    assert instant is not None
    assert instant.error is not None
    assert "no sign of life" in instant.error.message


def test_a_job_that_is_cancelled_before_it_is_published_has_none(
    lane: Callable[[str], Lane], jobs: Jobs, accepted: JobRecord
) -> None:
    made = lane(SERVES)
    jobs.request_cancel(accepted.job_id)
    made.next()
    record = jobs.get(accepted.job_id)
    assert (record.state, record.instant) == (JobState.CANCELLED, None)


def test_a_cancel_that_comes_while_it_is_made_prevents_it(
    lane: Callable[[str], Lane], jobs: Jobs, accepted: JobRecord
) -> None:
    made = lane('step("prototypes", 1, 2)\ntime.sleep(1)\n' + SERVES)
    working = threading.Thread(target=made.next)
    working.start()
    wait_until(lambda: jobs.next_instant(0.05) is None)
    jobs.request_cancel(accepted.job_id)
    working.join(20)
    assert not working.is_alive()
    assert jobs.get(accepted.job_id).instant is None


def test_a_job_that_is_running_already_is_left_alone(
    lane: Callable[[str], Lane], jobs: Jobs, accepted: JobRecord
) -> None:
    assert jobs.claim(accepted.job_id, owner="another worker") is None
    before = jobs.waiting_messages()
    lane(SERVES).next()
    assert jobs.get(accepted.job_id).instant is None
    assert jobs.waiting_messages() == before


def test_a_worker_that_stops_leaves_the_job_to_the_next_one(
    lane: Callable[[str], Lane], jobs: Jobs, accepted: JobRecord
) -> None:
    made = lane("time.sleep(60)")
    made.stop.set()
    made.next()
    assert jobs.get(accepted.job_id).instant is None
    assert jobs.next_instant(0.1) == accepted.job_id


def test_an_empty_list_and_an_unknown_job_do_nothing(lane: Callable[[str], Lane], jobs: Jobs) -> None:
    made = lane("sys.exit(1)")
    made.next()
    jobs.ask_instantly("0" * 32)
    made.next()
    assert jobs.next_instant(0.05) is None


def test_what_comes_after_the_job_has_ended_is_not_stored(jobs: Jobs, accepted: JobRecord) -> None:
    from exchange.contracts import InstantOutcome, utc_now

    jobs.finish(accepted.job_id, JobState.CANCELLED)
    assert not jobs.save_instant(accepted.job_id, InstantOutcome(at=utc_now()))
    assert jobs.get(accepted.job_id).instant is None


def test_signs_of_life_are_shown_while_it_is_made(lane: Callable[[str], Lane], jobs: Jobs, accepted: JobRecord) -> None:
    made = lane("time.sleep(60)")
    working = threading.Thread(target=made.next)
    working.start()
    seen: set[str | None] = {None}

    def has_beaten() -> bool:
        seen.add(jobs.get(accepted.job_id).heartbeat)
        return len(seen) > 3

    try:
        wait_until(has_beaten)
    finally:
        made.stop.set()
        working.join(20)
    assert not working.is_alive()
    assert jobs.get(accepted.job_id).state == JobState.QUEUED
    jobs.finish(accepted.job_id, JobState.CANCELLED)
    assert not jobs.waiting_heartbeat(accepted.job_id)
