from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis

from exchange.contracts import JobRecord, JobState, job_key, new_job_id
from exchange.jobs import Jobs
from exchange.spool import Spool
from tests.waiting import wait_until
from worker.settings import WorkerSettings
from worker.supervisor import Supervisor

Submit = Callable[[], JobRecord]
ProcessThat = Callable[[str], Sequence[str]]
Supervise = Callable[[str], Supervisor]

FOREVER = """
step("train", 1, 100, total=1.5)
time.sleep(60)
"""


@pytest.fixture
def supervise(
    settings: WorkerSettings, jobs: Jobs, spool: Spool, stop: threading.Event, process_that: ProcessThat
) -> Supervise:
    return lambda body: Supervisor(settings, jobs, spool, stop=stop, command=process_that(body))


@contextmanager
def running(supervisor: Supervisor, job_id: str) -> Iterator[threading.Thread]:
    thread = threading.Thread(target=supervisor.run, args=(job_id,))
    thread.start()
    yield thread
    thread.join(20)
    assert not thread.is_alive()


def in_phase(jobs: Jobs, job_id: str, phase: str) -> Callable[[], bool]:
    def check() -> bool:
        progress = jobs.get(job_id).progress
        return progress is not None and progress.phase == phase

    return check


def test_a_job_that_succeeds_is_recorded_and_its_images_are_removed(
    supervise: Supervise, jobs: Jobs, spool: Spool, submit: Submit
) -> None:
    job_id = submit().job_id
    supervise('step("train", 1, 1)\nask()\ndone("000002-0123456789ab")').run(job_id)

    record = jobs.get(job_id)
    assert record.state == JobState.SUCCEEDED
    assert record.outcome is not None
    assert record.outcome.version_id == "000002-0123456789ab"
    assert record.attempts == 1
    assert record.started_at is not None
    assert record.finished_at is not None
    assert record.owner is None
    assert not spool.folder(job_id).exists()


def test_progress_can_be_read_while_the_job_runs(supervise: Supervise, jobs: Jobs, submit: Submit) -> None:
    job_id = submit().job_id
    body = """
step("anchors", 1, 2)
step("anchors", 2, 2)
for i in range(1, 5):
    time.sleep(0.15)
    step("train", i, 10, total=0.5)
time.sleep(60)
"""
    with running(supervise(body), job_id):
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
    supervise: Supervise, jobs: Jobs, spool: Spool, submit: Submit
) -> None:
    job_id = submit().job_id
    supervise('fail("ClassExistsError", "class cat is known already")').run(job_id)
    record = jobs.get(job_id)
    assert record.state == JobState.FAILED
    assert record.error is not None
    assert (record.error.kind, record.error.message) == ("ClassExistsError", "class cat is known already")
    assert not spool.folder(job_id).exists()


def test_cancel_ends_the_process_within_a_step_and_leaves_nothing(
    supervise: Supervise, jobs: Jobs, spool: Spool, submit: Submit, tmp_path: Path
) -> None:
    job_id = submit().job_id
    trace = tmp_path / "trace"
    body = f"""
for i in range(1, 1000):
    time.sleep(0.3)
    open({str(trace)!r}, "a").write("x")
    step("train", i, 1000)
"""
    with running(supervise(body), job_id):
        wait_until(in_phase(jobs, job_id, "train"))
        assert jobs.request_cancel(job_id).state == JobState.RUNNING
        steps_then = len(trace.read_text())
    assert len(trace.read_text()) <= steps_then + 1
    assert jobs.get(job_id).state == JobState.CANCELLED
    assert not spool.folder(job_id).exists()


def test_cancel_that_comes_before_publishing_prevents_it(
    supervise: Supervise, jobs: Jobs, submit: Submit, tmp_path: Path
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
    with running(supervise(body), job_id):
        wait_until(in_phase(jobs, job_id, "train"))
        jobs.request_cancel(job_id)
    assert jobs.get(job_id).state == JobState.CANCELLED
    assert not published.exists()


def test_cancel_that_comes_while_publishing_is_too_late(supervise: Supervise, jobs: Jobs, submit: Submit) -> None:
    job_id = submit().job_id
    with running(supervise('ask()\nstep("publishing", 0, 0)\ntime.sleep(0.6)\ndone()'), job_id):
        wait_until(in_phase(jobs, job_id, "publishing"))
        jobs.request_cancel(job_id)
    assert jobs.get(job_id).state == JobState.SUCCEEDED


def test_a_killed_process_is_run_again(supervise: Supervise, jobs: Jobs, spool: Spool, submit: Submit) -> None:
    job_id = submit().job_id
    assert jobs.waiting_messages() == 1
    supervise("os.kill(os.getpid(), signal.SIGKILL)").run(job_id)
    record = jobs.get(job_id)
    assert record.state == JobState.QUEUED
    assert record.attempts == 1
    assert jobs.waiting_messages() == 2
    assert spool.read(job_id).classes == ("cat", "dog")

    supervise("ask()\ndone()").run(job_id)
    assert jobs.get(job_id).state == JobState.SUCCEEDED
    assert jobs.get(job_id).attempts == 2


def test_a_job_whose_process_is_killed_every_time_fails_after_three_attempts(
    supervise: Supervise, jobs: Jobs, spool: Spool, submit: Submit, tmp_path: Path
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
    supervisor = supervise(body)
    for _ in range(4):
        supervisor.run(job_id)
    record = jobs.get(job_id)
    assert learned.read_text() == "xxx"
    assert record.state == JobState.FAILED
    assert record.error is not None
    assert "begun 3 times" in record.error.message
    assert not spool.folder(job_id).exists()


def test_a_version_published_by_the_last_attempt_before_it_was_killed_counts(
    supervise: Supervise, jobs: Jobs, submit: Submit
) -> None:
    job_id = submit().job_id
    supervisor = supervise('done() if order["resume_only"] else os.kill(os.getpid(), signal.SIGKILL)')
    for _ in range(4):
        supervisor.run(job_id)
    assert jobs.get(job_id).state == JobState.SUCCEEDED


def test_cancel_of_a_job_that_is_to_be_run_again_looks_for_a_published_version_first(
    supervise: Supervise, jobs: Jobs, spool: Spool, submit: Submit
) -> None:
    job_id = submit().job_id
    body = 'fail("NotPublishedError", "nothing") if order["resume_only"] else os.kill(os.getpid(), signal.SIGKILL)'
    supervise(body).run(job_id)
    assert jobs.request_cancel(job_id).state == JobState.QUEUED
    supervise(body).run(job_id)
    assert jobs.get(job_id).state == JobState.CANCELLED
    assert not spool.folder(job_id).exists()


def test_messages_for_a_finished_job_change_nothing(
    supervise: Supervise, jobs: Jobs, submit: Submit, tmp_path: Path
) -> None:
    job_id = submit().job_id
    runs = tmp_path / "runs"
    supervisor = supervise(f'open({str(runs)!r}, "a").write("x")\nask()\ndone()')
    supervisor.run(job_id)
    before = jobs.get(job_id)
    supervisor.run(job_id)
    assert jobs.get(job_id) == before
    assert runs.read_text() == "x"


def test_a_second_message_for_a_running_job_changes_nothing(supervise: Supervise, jobs: Jobs, submit: Submit) -> None:
    job_id = submit().job_id
    supervisor = supervise('step("train", 1, 2)\ntime.sleep(0.5)\nask()\ndone()')
    with running(supervisor, job_id):
        wait_until(in_phase(jobs, job_id, "train"))
        supervisor.run(job_id)
        assert jobs.get(job_id).state == JobState.RUNNING
    assert jobs.get(job_id).attempts == 1


def test_a_job_cancelled_in_the_queue_never_starts(
    supervise: Supervise, jobs: Jobs, spool: Spool, submit: Submit, tmp_path: Path
) -> None:
    job_id = submit().job_id
    assert jobs.request_cancel(job_id).state == JobState.CANCELLED
    started = tmp_path / "started"
    supervise(f'open({str(started)!r}, "w")').run(job_id)
    assert not started.exists()
    assert not spool.folder(job_id).exists()


def test_a_message_for_an_unknown_job_is_logged_and_dropped(
    supervise: Supervise, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        supervise("done()").run(new_job_id())
    assert "not known" in caplog.text


def test_a_stopping_worker_puts_its_job_back_without_counting_the_attempt(
    supervise: Supervise, jobs: Jobs, spool: Spool, submit: Submit, stop: threading.Event
) -> None:
    job_id = submit().job_id
    with running(supervise(FOREVER), job_id):
        wait_until(in_phase(jobs, job_id, "train"))
        stop.set()
    record = jobs.get(job_id)
    assert record.state == JobState.QUEUED
    assert record.attempts == 0
    assert jobs.waiting_messages() == 2
    assert spool.read(job_id).classes == ("cat", "dog")


def test_a_stopping_worker_lets_a_publishing_job_finish(
    supervise: Supervise, jobs: Jobs, submit: Submit, stop: threading.Event
) -> None:
    job_id = submit().job_id
    with running(supervise('ask()\nstep("publishing", 0, 0)\ntime.sleep(0.5)\ndone()'), job_id):
        wait_until(in_phase(jobs, job_id, "publishing"))
        stop.set()
    assert jobs.get(job_id).state == JobState.SUCCEEDED


def test_the_heartbeat_changes_while_the_process_is_silent(supervise: Supervise, jobs: Jobs, submit: Submit) -> None:
    job_id = submit().job_id
    with running(supervise(FOREVER), job_id):
        wait_until(in_phase(jobs, job_id, "train"))
        first = jobs.get(job_id).heartbeat
        wait_until(lambda: jobs.get(job_id).heartbeat != first)
        jobs.request_cancel(job_id)


def test_a_record_that_redis_lost_is_written_again(
    supervise: Supervise, jobs: Jobs, submit: Submit, own_redis: str
) -> None:
    job_id = submit().job_id
    with running(supervise('step("train", 1, 2)\ntime.sleep(1.5)\nask()\ndone()'), job_id):
        wait_until(in_phase(jobs, job_id, "train"))
        with redis.Redis.from_url(own_redis) as client:
            client.delete(job_key(job_id))
        wait_until(lambda: any(r.job_id == job_id for r in jobs.list()))
        assert jobs.get(job_id).state == JobState.RUNNING
    assert jobs.get(job_id).state == JobState.SUCCEEDED


def test_the_process_ends_when_its_job_was_finished_by_another_worker(
    supervise: Supervise, jobs: Jobs, submit: Submit
) -> None:
    job_id = submit().job_id
    with running(supervise(FOREVER), job_id) as thread:
        wait_until(in_phase(jobs, job_id, "train"))
        assert jobs.finish(job_id, JobState.CANCELLED)
        thread.join(5)
        assert not thread.is_alive()


def test_a_process_that_cannot_be_started_fails_its_job(
    settings: WorkerSettings, jobs: Jobs, spool: Spool, submit: Submit, stop: threading.Event
) -> None:
    job_id = submit().job_id
    Supervisor(settings, jobs, spool, stop=stop, command=("/nowhere/python",)).run(job_id)
    record = jobs.get(job_id)
    assert record.state == JobState.FAILED
    assert record.error is not None
    assert record.error.kind == "InternalError"
    assert not spool.folder(job_id).exists()


def test_log_lines_carry_the_job(
    supervise: Supervise, submit: Submit, capfd: pytest.CaptureFixture[str], jobs: Jobs
) -> None:
    from worker.log import configure_logging

    root = logging.getLogger()
    handlers = root.handlers[:]
    names = ("", "worker", "model_store", "segp_cl", "celery")
    levels = {name: logging.getLogger(name).level for name in names}
    job_id = submit().job_id
    try:
        configure_logging("INFO")
        supervise("ask()\ndone()").run(job_id)
    finally:
        root.handlers[:] = handlers
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
        logging.captureWarnings(False)
    lines = [line for line in capfd.readouterr().err.splitlines() if "worker." in line]
    assert lines
    assert all(f"job_id={job_id}" in line for line in lines)
