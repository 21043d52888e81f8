"""Signs of life for the supervisor."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from exchange import heartbeat
from exchange.heartbeat import Heartbeat
from keepsight.local import signs
from keepsight.local.signs import Listener
from tests.waiting import wait_until


@pytest.fixture
def listener(monkeypatch: pytest.MonkeyPatch) -> Iterator[Listener]:
    made = Listener()
    monkeypatch.setenv(heartbeat.SIGNS_FD, str(made.writer))
    yield made
    made.close()
    made.close_writer()


def test_both_ends_call_the_pipe_by_the_same_name() -> None:
    assert heartbeat.SIGNS_FD == signs.SIGNS_FD


def test_a_beat_is_heard_and_silence_is_counted_from_it(listener: Listener) -> None:
    beating = Heartbeat()
    assert heartbeat.SIGNS_FD not in os.environ
    listener.look(0.0)
    listener.look(0.5)
    assert (listener.heard, listener.silent_s) == (False, 0.5)
    asyncio.run(beating.beat_soon())
    assert listener.look(1.0) == []
    assert (listener.heard, listener.silent_s) == (True, 0.0)
    listener.look(1.5)
    listener.look(5000.0)  # whoever looks was asleep, so the part was too, or could not be heard
    assert listener.silent_s == 1.5


def test_a_thread_beats_by_itself(listener: Listener) -> None:
    """In a process of its own: the thread would go on to write when the pipe's number is that of another file."""
    code = "from exchange.heartbeat import Heartbeat; Heartbeat().beat_from_a_thread(); input()"
    process = subprocess.Popen([sys.executable, "-c", code], pass_fds=[listener.writer], stdin=subprocess.PIPE)
    with process:
        wait_until(lambda: listener.look(0.0) == [] and listener.heard)
        process.kill()


def test_nobody_who_reads_neither_stops_nor_fails_a_beat(listener: Listener) -> None:
    beating = Heartbeat()
    for _ in range(100_000):  # more than a pipe holds
        beating.beat()
    assert listener.look(0.0) == []


def test_a_process_that_is_started_later_does_not_beat_for_this_one(listener: Listener) -> None:
    Heartbeat()
    code = f"import os; os.write({listener.writer}, b'x')"
    ran = subprocess.run([sys.executable, "-c", code], close_fds=False, capture_output=True, check=False)
    assert ran.returncode != 0


def test_without_a_supervisor_it_does_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    for value in ("", "none"):
        monkeypatch.setenv(heartbeat.SIGNS_FD, value)
        Heartbeat().beat()
        Heartbeat().beat_from_a_thread()
