from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from exchange.contracts import JobRecord
from tests.waiting import wait_until
from worker.messages import Order, Step
from worker.process import JobProcess, Lost
from worker.settings import WorkerSettings

ProcessThat = Callable[[str], Sequence[str]]


@pytest.fixture
def order(submit: Callable[[], JobRecord], settings: WorkerSettings) -> Order:
    return Order(job=submit().job, settings=settings)


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def test_the_order_arrives_as_it_was_given(order: Order, process_that: ProcessThat, tmp_path: Path) -> None:
    seen = tmp_path / "seen"
    body = f'open({str(seen)!r}, "w").write(json.dumps(order))\nstep("train", 1, 2)\n'
    with JobProcess(order, command=process_that(body)) as process:
        assert process.next(10) == Step(phase="train", step=1, steps=2)
    assert Order.model_validate_json(seen.read_text()) == order


def test_silence_is_none_and_the_process_goes_with_the_block(order: Order, process_that: ProcessThat) -> None:
    with JobProcess(order, command=process_that("time.sleep(60)")) as process:
        assert process.next(0.05) is None
        assert not gone(process.pid)
    assert gone(process.pid)


def test_it_has_a_group_of_its_own_and_shares_the_session_by_which_a_kernel_may_share_processors(
    order: Order, process_that: ProcessThat
) -> None:
    with JobProcess(order, command=process_that("time.sleep(60)")) as process:
        assert os.getpgid(process.pid) == process.pid
        assert os.getsid(process.pid) == os.getsid(0)


def test_an_end_without_an_answer_says_how(order: Order, process_that: ProcessThat) -> None:
    with JobProcess(order, command=process_that("os.kill(os.getpid(), signal.SIGKILL)")) as process:
        lost = process.next(10)
    assert isinstance(lost, Lost)
    assert "SIGKILL" in lost.how
    with JobProcess(order, command=process_that("sys.exit(3)")) as process:
        lost = process.next(10)
    assert isinstance(lost, Lost)
    assert "status 3" in lost.how


def test_what_is_no_message_is_logged_and_passed_over(
    order: Order, process_that: ProcessThat, caplog: pytest.LogCaptureFixture
) -> None:
    with JobProcess(order, command=process_that('print("hello", flush=True)\nstep("train", 1, 1)')) as process:
        assert process.next(10) == Step(phase="train", step=1, steps=1)
    assert "not a message" in caplog.text


def test_an_order_to_a_process_that_died_at_once_is_no_error(order: Order) -> None:
    with JobProcess(order, command=("/bin/false",)) as process:
        process.go()
        assert isinstance(process.next(10), Lost)


_CHILD = """
import io, sys, time
from worker.child import Channel
channel = Channel(sys.stdin, io.StringIO())
channel.watch()
channel.order()
print('{"kind": "ready"}', flush=True)
time.sleep(60)
"""

_WORKER = f"""
import sys, time
from worker.messages import Order
from worker.process import JobProcess
order = Order.model_validate_json(sys.stdin.readline())
with JobProcess(order, command=(sys.executable, "-c", {_CHILD!r})) as process:
    process.next(20)
    print(process.pid, flush=True)
    time.sleep(60)
"""


def test_the_process_ends_itself_when_its_worker_is_killed(order: Order) -> None:
    with subprocess.Popen(
        (sys.executable, "-c", _WORKER), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as worker:
        assert worker.stdin is not None
        assert worker.stdout is not None
        worker.stdin.write(order.model_dump_json() + "\n")
        worker.stdin.flush()
        pid = int(worker.stdout.readline())
        assert not gone(pid)
        worker.kill()
        worker.wait()
        wait_until(lambda: gone(pid))
