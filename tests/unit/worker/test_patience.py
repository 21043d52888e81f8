"""How long a job's process may take, by a clock of the test's own."""

from __future__ import annotations

import pytest

from worker.messages import Alive, Failed, ReadyToPublish, Step
from worker.patience import Patience
from worker.process import Lost


class Clock:
    def __init__(self) -> None:
        self.now = 5.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def patience(clock: Clock) -> Patience:
    return Patience(100, 10, clock=clock)


def step(phase: str) -> Step:
    return Step(phase=phase, step=0, steps=0)


def alive_for(patience: Patience, clock: Clock, seconds: float) -> Lost | Failed | None:
    """What it says at last about a process that only shows that it lives."""
    last = None
    for _ in range(int(seconds)):
        clock.now += 1
        last = patience.after(Alive())
    return last


def test_silence_is_counted_from_the_last_message(patience: Patience, clock: Clock) -> None:
    clock.now += 10
    assert patience.after(None) is None
    assert patience.after(Alive()) is None
    clock.now += 11
    assert patience.after(None) == Lost("gave no sign of life for 10 s")


def test_learning_has_an_end_whatever_the_process_says(patience: Patience, clock: Clock) -> None:
    assert alive_for(patience, clock, 100) is None
    assert patience.after(step("train")) is None
    clock.now += 1
    over = patience.after(step("train"))
    assert isinstance(over, Failed)
    assert "longer than 100 s" in over.error.message


def test_waiting_for_another_update_does_not_count_as_learning_and_has_its_own_end(
    patience: Patience, clock: Clock
) -> None:
    assert alive_for(patience, clock, 90) is None
    assert patience.after(step("waiting")) is None
    assert alive_for(patience, clock, 90) is None
    assert patience.after(step("loading")) is None
    assert alive_for(patience, clock, 100) is None
    assert patience.after(step("waiting")) is None
    assert isinstance(alive_for(patience, clock, 101), Lost)


def test_publishing_is_resumed_rather_than_failed(patience: Patience, clock: Clock) -> None:
    assert alive_for(patience, clock, 99) is None
    assert patience.after(ReadyToPublish()) is None
    assert patience.after(step("publishing")) is None
    assert alive_for(patience, clock, 100) is None
    assert alive_for(patience, clock, 1) == Lost("published for more than 100 s")
