from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from exchange.contracts import JobRecord, JobState, new_job_id
from exchange.jobs import Jobs
from exchange.spool import Spool
from tests.unit.worker.watching import in_phase, running
from tests.waiting import wait_until
from worker.settings import WorkerSettings
from worker.supervisor import Supervisor

Submit = Callable[[], JobRecord]
ProcessThat = Callable[[str], Sequence[str]]
Supervise = Callable[[str], Supervisor]


@pytest.fixture
def supervise(
    settings: WorkerSettings, jobs: Jobs, spool: Spool, stop: threading.Event, process_that: ProcessThat
) -> Supervise:
    return lambda body: Supervisor(settings, jobs, spool, stop=stop, command=process_that(body))


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
