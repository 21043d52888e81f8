"""One attempt at a job, whose process is a program of the test's own."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import redis

from exchange.contracts import LATER_QUEUE, JobRecord, JobState, UpdateJob, job_key, new_job_id, utc_now
from exchange.jobs import Jobs
from exchange.notes import Note, accept, read_note, restore
from exchange.spool import Spool
from tests.broker_proxy import REPLIES, BrokerProxy, always
from tests.unit.worker.watching import FOREVER, in_phase, running
from tests.waiting import wait_until
from worker.attempt import Attempt
from worker.ledger import Ledger
from worker.settings import WorkerSettings
from worker.warm import Processes

Submit = Callable[[], JobRecord]
ProcessThat = Callable[[str], Sequence[str]]


@dataclass(frozen=True)
class Claimed:
    """Claims a job and makes one attempt at it."""

    settings: WorkerSettings
    ledger: Ledger
    stop: threading.Event
    command: Sequence[str]

    def run(self, job_id: str) -> None:
        assert self.ledger.jobs.claim(job_id, owner="this worker") is None
        record = self.ledger.jobs.get(job_id)
        Attempt(
            record, self.settings, self.ledger, stop=self.stop, processes=Processes(self.settings, command=self.command)
        ).run()


Attempts = Callable[[str], Claimed]


@pytest.fixture
def attempt(
    settings: WorkerSettings, jobs: Jobs, spool: Spool, stop: threading.Event, process_that: ProcessThat
) -> Attempts:
    """An attempt whose process runs this program."""
    return lambda body: Claimed(settings, Ledger(jobs, spool, stop=stop), stop, process_that(body))


def test_progress_can_be_read_while_the_job_runs(attempt: Attempts, jobs: Jobs, submit: Submit) -> None:
    job_id = submit().job_id
    body = """
step("anchors", 1, 2)
step("anchors", 2, 2)
for i in range(1, 5):
    time.sleep(0.15)
    step("train", i, 10, total=0.5)
time.sleep(60)
"""
    with running(attempt(body), job_id):
        wait_until(in_phase(jobs, job_id, "train"))
        wait_until(lambda: (p := jobs.get(job_id).progress) is not None and p.step >= 3)
        record = jobs.get(job_id)
        jobs.request_cancel(job_id)
    progress = record.progress
    assert record.state == JobState.RUNNING
    assert progress is not None
    assert progress.steps == 10
    assert progress.losses == {"total": 0.5}
    assert progress.eta_s is not None
    assert 0 < progress.eta_s < 60
    assert progress.elapsed_s > 0


def test_a_failure_carries_its_sentence_and_leaves_no_images(
    attempt: Attempts, jobs: Jobs, spool: Spool, submit: Submit
) -> None:
    job_id = submit().job_id
    attempt('fail("ClassExistsError", "class cat is known already")').run(job_id)
    record = jobs.get(job_id)
    assert record.state == JobState.FAILED
    assert record.error is not None
    assert (record.error.kind, record.error.message) == ("ClassExistsError", "class cat is known already")
    assert not spool.folder(job_id).exists()


def test_cancel_ends_the_process_within_a_step_and_leaves_nothing(
    attempt: Attempts, jobs: Jobs, spool: Spool, submit: Submit, tmp_path: Path
) -> None:
    job_id = submit().job_id
    trace = tmp_path / "trace"
    body = f"""
for i in range(1, 1000):
    time.sleep(0.3)
    open({str(trace)!r}, "a").write("x")
    step("train", i, 1000)
"""
    with running(attempt(body), job_id):
        wait_until(in_phase(jobs, job_id, "train"))
        assert jobs.request_cancel(job_id).state == JobState.RUNNING
        steps_then = len(trace.read_text())
    assert len(trace.read_text()) <= steps_then + 1
    assert jobs.get(job_id).state == JobState.CANCELLED
    assert not spool.folder(job_id).exists()


def test_cancel_that_comes_before_publishing_prevents_it(
    attempt: Attempts, jobs: Jobs, submit: Submit, tmp_path: Path
) -> None:
    job_id = submit().job_id
    published = tmp_path / "published"
    body = f"""
step("train", 1, 1)
time.sleep(0.1)
ask()
open({str(published)!r}, "w")
done()
"""
    with running(attempt(body), job_id):
        wait_until(in_phase(jobs, job_id, "train"))
        jobs.request_cancel(job_id)
    assert jobs.get(job_id).state == JobState.CANCELLED
    assert not published.exists()


def test_cancel_that_comes_while_publishing_is_too_late(attempt: Attempts, jobs: Jobs, submit: Submit) -> None:
    job_id = submit().job_id
    with running(attempt('ask()\nstep("publishing", 0, 0)\ntime.sleep(0.6)\ndone()'), job_id):
        wait_until(in_phase(jobs, job_id, "publishing"))
        jobs.request_cancel(job_id)
    assert jobs.get(job_id).state == JobState.SUCCEEDED


def test_a_killed_process_is_run_again(attempt: Attempts, jobs: Jobs, spool: Spool, submit: Submit) -> None:
    job_id = submit().job_id
    assert jobs.waiting_messages() == 1
    attempt("os.kill(os.getpid(), signal.SIGKILL)").run(job_id)
    record = jobs.get(job_id)
    assert record.state == JobState.QUEUED
    assert record.attempts == 1
    wait_until(lambda: jobs.waiting_messages() == 2)
    assert spool.read(job_id).classes == ("cat", "dog")

    attempt("ask()\ndone()").run(job_id)
    assert jobs.get(job_id).state == JobState.SUCCEEDED
    assert jobs.get(job_id).attempts == 2


def test_a_job_whose_process_is_killed_every_time_fails_after_three_attempts(
    attempt: Attempts, jobs: Jobs, spool: Spool, submit: Submit, tmp_path: Path
) -> None:
    job_id = submit().job_id
    learned = tmp_path / "learned"
    body = f"""
if order["resume_only"]:
    fail("NotPublishedError", "nothing")
    sys.exit()
open({str(learned)!r}, "a").write("x")
os.kill(os.getpid(), signal.SIGKILL)
"""
    attempts = attempt(body)
    for _ in range(4):
        attempts.run(job_id)
    record = jobs.get(job_id)
    assert learned.read_text() == "xxx"
    assert record.state == JobState.FAILED
    assert record.error is not None
    assert "begun 3 times" in record.error.message
    assert not spool.folder(job_id).exists()


def test_a_version_published_by_the_last_attempt_before_it_was_killed_counts(
    attempt: Attempts, jobs: Jobs, submit: Submit
) -> None:
    job_id = submit().job_id
    attempts = attempt('done() if order["resume_only"] else os.kill(os.getpid(), signal.SIGKILL)')
    for _ in range(4):
        attempts.run(job_id)
    assert jobs.get(job_id).state == JobState.SUCCEEDED


def test_cancel_of_a_job_that_is_to_be_run_again_looks_for_a_published_version_first(
    attempt: Attempts, jobs: Jobs, spool: Spool, submit: Submit
) -> None:
    job_id = submit().job_id
    body = 'fail("NotPublishedError", "nothing") if order["resume_only"] else os.kill(os.getpid(), signal.SIGKILL)'
    attempt(body).run(job_id)
    assert jobs.request_cancel(job_id).state == JobState.QUEUED
    attempt(body).run(job_id)
    assert jobs.get(job_id).state == JobState.CANCELLED
    assert not spool.folder(job_id).exists()


def test_a_stopping_worker_puts_its_job_back_without_counting_the_attempt(
    attempt: Attempts, jobs: Jobs, spool: Spool, submit: Submit, stop: threading.Event
) -> None:
    job_id = submit().job_id
    with running(attempt(FOREVER), job_id):
        wait_until(in_phase(jobs, job_id, "train"))
        stop.set()
    record = jobs.get(job_id)
    assert record.state == JobState.QUEUED
    assert record.attempts == 0
    assert jobs.waiting_messages() == 2
    assert spool.read(job_id).classes == ("cat", "dog")


def test_a_stopping_worker_lets_a_publishing_job_finish(
    attempt: Attempts, jobs: Jobs, submit: Submit, stop: threading.Event
) -> None:
    job_id = submit().job_id
    with running(attempt('ask()\nstep("publishing", 0, 0)\ntime.sleep(0.5)\ndone()'), job_id):
        wait_until(in_phase(jobs, job_id, "publishing"))
        stop.set()
    assert jobs.get(job_id).state == JobState.SUCCEEDED


def test_the_heartbeat_changes_while_the_process_is_silent(attempt: Attempts, jobs: Jobs, submit: Submit) -> None:
    job_id = submit().job_id
    with running(attempt(FOREVER), job_id):
        wait_until(in_phase(jobs, job_id, "train"))
        first = jobs.get(job_id).heartbeat
        wait_until(lambda: jobs.get(job_id).heartbeat != first)
        jobs.request_cancel(job_id)


def test_a_record_that_redis_lost_is_written_again(
    attempt: Attempts, jobs: Jobs, submit: Submit, own_redis: str
) -> None:
    job_id = submit().job_id
    with running(attempt('step("train", 1, 2)\ntime.sleep(1.5)\nask()\ndone()'), job_id):
        wait_until(in_phase(jobs, job_id, "train"))
        with redis.Redis.from_url(own_redis) as client:
            client.delete(job_key(job_id))
        wait_until(lambda: any(r.job_id == job_id for r in jobs.list()))
        assert jobs.get(job_id).state == JobState.RUNNING
    assert jobs.get(job_id).state == JobState.SUCCEEDED


def test_the_process_ends_when_its_job_was_finished_by_another_worker(
    attempt: Attempts, jobs: Jobs, submit: Submit
) -> None:
    job_id = submit().job_id
    with running(attempt(FOREVER), job_id) as thread:
        wait_until(in_phase(jobs, job_id, "train"))
        assert jobs.finish(job_id, JobState.CANCELLED)
        thread.join(5)
        assert not thread.is_alive()


@pytest.mark.parametrize(
    ("body", "limits", "says"),
    [
        ("os.kill(os.getpid(), signal.SIGSTOP)", {"max_silence_s": 0.4}, "no sign of life for 0.4 s"),
        ("time.sleep(60)", {"max_silence_s": 0.4}, "no sign of life for 0.4 s"),
        (
            'while True:\n    step("waiting", 0, 0)\n    time.sleep(0.05)',
            {"max_job_s": 1.0},
            "waited for the store, or for another update",
        ),
        (
            'ask()\nwhile True:\n    say("alive")\n    time.sleep(0.05)',
            {"max_job_s": 1.0},
            "published for more than 1 s",
        ),
    ],
)
def test_a_process_that_is_stuck_is_ended_and_counts_as_an_attempt(
    attempt: Attempts,
    jobs: Jobs,
    submit: Submit,
    body: str,
    limits: dict[str, float],
    says: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    job_id = submit().job_id
    begun = attempt(body)
    impatient = begun.settings.model_copy(update=limits)
    Claimed(impatient, begun.ledger, begun.stop, begun.command).run(job_id)
    assert (jobs.get(job_id).state, jobs.get(job_id).attempts) == (JobState.QUEUED, 1)
    assert says in caplog.text


def test_a_job_that_learns_for_too_long_fails_for_it(
    attempt: Attempts, jobs: Jobs, spool: Spool, submit: Submit
) -> None:
    job_id = submit().job_id
    begun = attempt('while True:\n    step("train", 1, 10)\n    time.sleep(0.05)')
    Claimed(begun.settings.model_copy(update={"max_job_s": 0.5}), begun.ledger, begun.stop, begun.command).run(job_id)
    record = jobs.get(job_id)
    assert record.state == JobState.FAILED
    assert record.error is not None
    assert (record.error.kind, record.attempts) == ("TookTooLongError", 1)
    assert "longer than 0.5 s" in record.error.message
    assert not spool.folder(job_id).exists()


@pytest.mark.parametrize("phase", ["loading", "train", "publishing"])
@pytest.mark.parametrize("code", ["READONLY", "OOM", "MISCONF", "NOREPLICAS", "LOADING"])
def test_a_job_survives_a_broker_that_answers_with_errors_while_it_runs_and_ends(
    settings: WorkerSettings,
    process_that: ProcessThat,
    jobs: Jobs,
    spool: Spool,
    submit: Submit,
    stop: threading.Event,
    tmp_path: Path,
    phase: str,
    code: str,
) -> None:
    job_id, go_on = submit().job_id, tmp_path / "go-on"
    body = f"""
for phase in ("loading", "train", "publishing"):
    if phase == "publishing":
        ask()
    step(phase, 1, 2)
    while phase == {phase!r} and not os.path.exists({str(go_on)!r}):
        time.sleep(0.02)
done()
"""
    with BrokerProxy(settings.redis_url) as proxy:
        behind = Jobs(proxy.url, timeout_s=1.0)
        runner = Claimed(settings, Ledger(behind, spool, stop=stop), stop, process_that(body))
        with running(runner, job_id):
            wait_until(in_phase(jobs, job_id, phase))
            proxy.fault = always(REPLIES[code])
            go_on.touch()
            if phase == "publishing":  # the end is noted and the images are gone while the broker cannot be told
                wait_until(lambda: (note := read_note(spool, job_id)) is not None and note.record.state.terminal)
                wait_until(lambda: [path.name for path in spool.folder(job_id).iterdir()] == ["job.json"])
                assert jobs.get(job_id).state == JobState.RUNNING
            proxy.fault = None
        behind.close()
    assert jobs.get(job_id).state == JobState.SUCCEEDED
    assert not spool.folder(job_id).exists()


def test_a_job_that_was_restored_behind_its_workers_back_is_taken_again(
    attempt: Attempts, jobs: Jobs, submit: Submit, spool: Spool, own_redis: str
) -> None:
    job_id = submit().job_id
    with running(attempt('step("train", 1, 2)\ntime.sleep(1.5)\nask()\ndone()'), job_id):
        wait_until(in_phase(jobs, job_id, "train"))
        with redis.Redis.from_url(own_redis) as client:
            client.flushdb()
        restore(jobs, spool, job_id)
        wait_until(lambda: jobs.get(job_id).owner == "this worker")
    assert jobs.get(job_id).state == JobState.SUCCEEDED


def test_an_evaluation_gives_way_to_an_update_and_waits_behind_it(
    attempt: Attempts, jobs: Jobs, spool: Spool, submit: Submit
) -> None:
    job = UpdateJob(job_id=new_job_id(), task_name="e", evaluates=("000001-0123456789ab",), submitted_at=utc_now())
    record = JobRecord(job=job, created_at=job.submitted_at)
    spool.reserve(job.job_id)
    accept(jobs, spool, Note(record=record))
    jobs._redis.delete(LATER_QUEUE)  # its message was taken
    with running(attempt('step("evaluating", 1, 9)\ntime.sleep(60)'), job.job_id):
        wait_until(in_phase(jobs, job.job_id, "evaluating"))
        assert jobs.get(job.job_id).state == JobState.RUNNING
        submit()
        wait_until(lambda: jobs.get(job.job_id).state == JobState.QUEUED)
    assert jobs.get(job.job_id).attempts == 0, "the attempt does not count"
    assert (jobs.update_waits(), jobs.waiting_messages()) == (True, 2)


def test_an_update_does_not_give_way(attempt: Attempts, jobs: Jobs, submit: Submit) -> None:
    job_id = submit().job_id
    submit()
    assert jobs.update_waits()
    attempt('step("train", 1, 9)\ntime.sleep(0.3)\nask()\ndone()').run(job_id)
    assert jobs.get(job_id).state == JobState.SUCCEEDED
