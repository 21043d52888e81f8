from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import redis

from exchange.contracts import JobRecord, JobState, UpdateOutcome, job_key, new_job_id
from exchange.jobs import Jobs
from exchange.notes import Note, write_note
from exchange.spool import Spool
from tests.unit.worker.watching import in_phase, running
from tests.waiting import wait_until
from worker.settings import WorkerSettings
from worker.supervisor import Supervisor
from worker.warm import Processes

Submit = Callable[[], JobRecord]
ProcessThat = Callable[[str], Sequence[str]]
Supervise = Callable[[str], Supervisor]


@pytest.fixture
def supervise(
    settings: WorkerSettings, jobs: Jobs, spool: Spool, stop: threading.Event, process_that: ProcessThat
) -> Supervise:
    return lambda body: Supervisor(
        settings, jobs, spool, stop=stop, processes=Processes(settings, command=process_that(body))
    )


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
    assert "does not exist" in caplog.text


@pytest.mark.parametrize("command", [("/nowhere/python",), ("/",), (sys.executable, "-c", "import no_such_module")])
def test_a_process_that_cannot_be_started_is_tried_a_few_times_and_then_failed(
    settings: WorkerSettings,
    jobs: Jobs,
    spool: Spool,
    submit: Submit,
    stop: threading.Event,
    command: tuple[str, ...],
    process_that: ProcessThat,
) -> None:
    job_id = submit().job_id
    supervisor = Supervisor(settings, jobs, spool, stop=stop, processes=Processes(settings, command=command))
    for attempt in range(1, settings.max_attempts + 1):
        supervisor.run(job_id)
        assert (jobs.get(job_id).state, jobs.get(job_id).attempts) == (JobState.QUEUED, attempt)
    other = submit().job_id
    Supervisor(
        settings, jobs, spool, stop=stop, processes=Processes(settings, command=process_that("ask()\ndone()"))
    ).run(other)
    assert jobs.get(other).state == JobState.SUCCEEDED
    supervisor.run(job_id)
    record = jobs.get(job_id)
    assert record.state == JobState.FAILED
    assert record.error is not None
    assert record.error.kind == "AttemptsExhaustedError"
    assert f"begun {settings.max_attempts} times and its process" in record.error.message
    assert not spool.folder(job_id).exists()


def test_a_process_for_which_there_is_no_thread_left_counts_as_an_attempt_and_is_ended(
    supervise: Supervise, jobs: Jobs, submit: Submit, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    job_id, pid = submit().job_id, tmp_path / "pid"

    def none_left(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", none_left)
        supervise(f'open({str(pid)!r}, "w").write(str(os.getpid()))\ntime.sleep(60)').run(job_id)
    assert (jobs.get(job_id).state, jobs.get(job_id).attempts) == (JobState.QUEUED, 1)


def test_a_job_whose_worker_died_each_time_is_failed_before_a_process_is_started(
    settings: WorkerSettings, supervise: Supervise, jobs: Jobs, submit: Submit, tmp_path: Path
) -> None:
    job_id, started = submit().job_id, tmp_path / "started"
    for number in range(settings.max_attempts + 1):
        jobs.claim(job_id, owner=f"worker {number} that dies")
        jobs.requeue(job_id)
    supervise(f'open({str(started)!r}, "w")').run(job_id)
    record = jobs.get(job_id)
    assert record.state == JobState.FAILED
    assert not started.exists()


@pytest.mark.parametrize("what", ["newer", "garbage", "state", "another type"])
def test_a_record_that_cannot_be_read_ends_and_holds_nothing_up(
    supervise: Supervise, jobs: Jobs, spool: Spool, submit: Submit, own_redis: str, what: str
) -> None:
    job_id = submit().job_id
    with redis.Redis.from_url(own_redis) as client:
        if what == "newer":
            client.hset(job_key(job_id), "job", '{"written": "by a newer release"}')
        elif what == "garbage":
            client.hset(job_key(job_id), "job", b"\xff\xfe")
        elif what == "state":
            client.hset(job_key(job_id), "state", "pondering")
        else:
            client.delete(job_key(job_id))
            client.lpush(job_key(job_id), "x")
    supervise("ask()\ndone()").run(job_id)
    assert not spool.folder(job_id).exists()
    if what == "newer":
        assert jobs.listing().unreadable[job_id]["state"] == "failed"
        assert "update the worker" in jobs.listing().unreadable[job_id]["error"]
    other = submit().job_id
    supervise("ask()\ndone()").run(other)
    assert jobs.get(other).state == JobState.SUCCEEDED


def test_an_end_that_an_earlier_worker_noted_and_could_not_write_stands(
    supervise: Supervise, jobs: Jobs, spool: Spool, submit: Submit, tmp_path: Path
) -> None:
    record, started = submit(), tmp_path / "started"
    jobs.claim(record.job_id, owner="a worker that dies")
    outcome = UpdateOutcome(version_id="000002-0123456789ab", promoted=True)
    ended = record.model_copy(update={"state": JobState.SUCCEEDED, "outcome": outcome})
    write_note(spool, Note(record=ended))
    spool.purge_images(record.job_id)
    jobs.requeue(record.job_id)
    supervise(f'open({str(started)!r}, "w")').run(record.job_id)
    assert (jobs.get(record.job_id).state, jobs.get(record.job_id).outcome) == (JobState.SUCCEEDED, outcome)
    assert not started.exists()
    assert not spool.folder(record.job_id).exists()


@pytest.mark.parametrize("message", ["", "../../etc", "x" * 100_000, "0" * 32])
def test_a_message_that_names_no_job_does_nothing(
    supervise: Supervise, submit: Submit, jobs: Jobs, message: str
) -> None:
    supervise("ask()\ndone()").run(message)
    job_id = submit().job_id
    supervise("ask()\ndone()").run(job_id)
    assert jobs.get(job_id).state == JobState.SUCCEEDED


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
