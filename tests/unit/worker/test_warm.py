"""The process that waits for a job: one at most, used again for instant versions, taken for good by an update."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import pytest

from exchange.contracts import JobRecord
from tests.unit.worker.test_process import gone
from tests.waiting import wait_until
from worker.messages import Order, Step
from worker.process import JobProcess, NotStartedError
from worker.settings import WorkerSettings
from worker.warm import Processes

ProcessThat = Callable[[str], Sequence[str]]
ANSWERS_EACH = """
seen = 1
while True:
    step(order["kind"], seen, 9)
    line = sys.stdin.readline()
    if not line:
        sys.exit()
    order, seen = json.loads(line), seen + 1
"""


@pytest.fixture
def order(submit: Callable[[], JobRecord], settings: WorkerSettings) -> Order:
    return Order(job=submit().job, settings=settings)


@pytest.fixture
def processes(settings: WorkerSettings, process_that: ProcessThat) -> Iterator[Processes]:
    made = Processes(settings.model_copy(update={"warm": True}), command=process_that(ANSWERS_EACH))
    yield made
    made.close()


def after(process: JobProcess, steps: int) -> list[tuple[str, int]]:
    """What a process says until its step of that number."""
    said: list[tuple[str, int]] = []
    while not said or said[-1][1] < steps:
        message = process.next(20)
        assert isinstance(message, Step)
        said.append((message.phase, message.step))
    return said


def test_a_process_warms_up_and_gets_one_order_after_the_other(processes: Processes, order: Order) -> None:
    processes.prepare()
    first = processes.take(order)
    assert after(first, 2) == [("warm_up", 1), ("order", 2)]
    processes.give_back(first)
    processes.prepare()  # there is one
    again = processes.take(order)
    assert again.pid == first.pid
    assert after(again, 3) == [("order", 3)]
    again.close()


def test_an_order_starts_a_process_where_none_is_idle(processes: Processes, order: Order) -> None:
    with processes.take(order) as process:
        assert after(process, 1) == [("order", 1)]


def test_one_process_is_kept_and_no_more(processes: Processes, order: Order) -> None:
    first, second = processes.take(order), processes.take(order)
    processes.give_back(first)
    processes.give_back(second)
    assert first.runs
    assert not second.runs
    processes.close()
    wait_until(lambda: gone(first.pid))


def test_a_process_that_died_while_it_waited_is_replaced(processes: Processes, order: Order) -> None:
    first = processes.take(order)
    after(first, 1)
    processes.give_back(first)
    first.kill()
    with processes.take(order) as process:
        assert process.pid != first.pid
        assert after(process, 1) == [("order", 1)]


def test_none_is_kept_if_that_is_not_wanted(settings: WorkerSettings, order: Order, process_that: ProcessThat) -> None:
    cold = Processes(settings, command=process_that(ANSWERS_EACH))
    cold.prepare()
    process = cold.take(order)
    assert after(process, 1) == [("order", 1)]
    cold.give_back(process)
    assert not process.runs


def test_a_program_that_cannot_be_started_is_told_when_there_is_an_order(
    settings: WorkerSettings, order: Order, caplog: pytest.LogCaptureFixture
) -> None:
    none = Processes(settings.model_copy(update={"warm": True}), command=("/nowhere",))
    none.prepare()
    assert "no process could be started beforehand" in caplog.text
    with pytest.raises(NotStartedError):
        none.take(order)
