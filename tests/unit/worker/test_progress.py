from __future__ import annotations

import itertools

from worker.messages import Step
from worker.progress import MOST_POINTS, LossHistory, ProgressClock


class Clock:
    def __init__(self) -> None:
        self.now = 50.0

    def __call__(self) -> float:
        return self.now


def step(phase: str, number: int, steps: int) -> Step:
    return Step(phase=phase, step=number, steps=steps, losses={"total": 0.25})


def test_the_time_left_follows_from_the_phases_own_pace() -> None:
    clock = Clock()
    progress = ProgressClock(clock)
    clock.now += 30
    first = progress.at(step("train", 1, 11))
    assert (first.eta_s, first.elapsed_s) == (None, 30)
    clock.now += 4
    third = progress.at(step("train", 3, 11))
    assert (third.eta_s, third.elapsed_s) == (16, 34)
    assert (third.step, third.steps, third.losses) == (3, 11, {"total": 0.25})
    clock.now += 16
    assert progress.at(step("train", 11, 11)).eta_s == 0


def test_a_new_phase_starts_its_own_count() -> None:
    clock = Clock()
    progress = ProgressClock(clock)
    progress.at(step("anchors", 1, 2))
    clock.now += 100
    progress.at(step("train", 1, 3))
    clock.now += 1
    assert progress.at(step("train", 2, 3)).eta_s == 1


def test_a_phase_without_steps_has_no_estimate() -> None:
    clock = Clock()
    progress = ProgressClock(clock)
    progress.at(step("waiting", 0, 0))
    clock.now += 10
    waiting = progress.at(step("waiting", 0, 0))
    assert (waiting.eta_s, waiting.elapsed_s) == (None, 10)


def test_the_history_of_losses_is_bounded_and_evenly_spread() -> None:
    history = LossHistory()
    for number in range(1, 1001):
        history.add(Step(phase="train", step=number, steps=1000, losses={"total": 1 / number}))
    points = history.all()["total"]
    steps = [number for number, _ in points]
    assert MOST_POINTS / 2 <= len(points) <= MOST_POINTS
    assert len({later - earlier for earlier, later in itertools.pairwise(steps)}) == 1
    assert steps[0] == 1
    assert steps[-1] > 1000 - (steps[1] - steps[0])
    assert all(value == 1 / number for number, value in points)


def test_each_loss_has_a_history_of_its_own_which_begins_again_with_its_phase() -> None:
    progress = ProgressClock(Clock())
    progress.at(step("anchors", 1, 2))
    progress.at(Step(phase="train", step=1, steps=2, losses={"acgd": 0.5}))
    assert progress.at(Step(phase="publishing", step=0, steps=0, losses={})).loss_history == {
        "total": ((1, 0.25),),
        "acgd": ((1, 0.5),),
    }
    progress.at(step("anchors", 2, 2))
    assert progress.at(step("anchors", 1, 2)).loss_history["total"] == ((1, 0.25),)
