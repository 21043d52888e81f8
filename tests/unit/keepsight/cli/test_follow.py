"""How a job is shown while it runs, on a terminal and elsewhere."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any, cast

import pytest
from rich.console import Console

from keepsight.cli.follow import LiveBar, PhaseLines, eta_text, job_view, losses_text, phase_text, watch
from keepsight.cli.views import instant_line, job_lines, outcome_sentence
from keepsight.client.api import Instant, Job

MakeJob = Callable[..., dict[str, Any]]


def running(make_job: MakeJob, **progress: Any) -> Job:
    full = {"phase": "train", "step": 3, "steps": 10, "losses": {}, "eta_s": None, "elapsed_s": 1.0, **progress}
    return cast(Job, make_job(state="running", progress=full))


def test_losses_and_time_left_are_shown_while_it_runs(make_job: MakeJob) -> None:
    job = running(make_job, losses={"classify": 0.41234, "acgd": 2.0}, eta_s=125.0)
    assert losses_text(job) == "classify 0.412  acgd 2.000"
    assert eta_text(job) == "2 min 05 s left"
    assert phase_text(job) == "train"


def test_a_job_that_does_not_run_shows_its_state(make_job: MakeJob) -> None:
    job = cast(Job, make_job(state="queued"))
    assert (phase_text(job), eta_text(job), losses_text(job)) == ("queued", "", "")


def test_lines_are_printed_once_per_phase(make_job: MakeJob, make_finished_job: MakeJob) -> None:
    screen = io.StringIO()
    jobs = [
        cast(Job, make_job()),
        running(make_job, step=1),
        running(make_job, step=2),
        running(make_job, phase="prototypes", steps=0),
        cast(Job, make_finished_job()),
    ]
    last = watch(iter(jobs), PhaseLines(Console(file=screen), "pets"))
    assert last["state"] == "succeeded"
    assert screen.getvalue().splitlines() == [
        "pets: queued", "pets: train (10 steps)", "pets: prototypes", "pets: succeeded",
    ]  # fmt: skip


def test_a_terminal_gets_a_live_bar(make_job: MakeJob, make_finished_job: MakeJob) -> None:
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=120)
    with job_view(console, "pets") as view:
        assert isinstance(view, LiveBar)
        watch(
            iter(
                [
                    cast(Job, make_job()),
                    running(make_job, losses={"acgd": 0.5}, eta_s=9.0),
                    cast(Job, make_finished_job()),
                ]
            ),
            view,
        )
    assert "pets  succeeded" in screen.getvalue()
    assert "1/1" in screen.getvalue()


def test_brackets_in_a_name_are_text_not_markup(make_job: MakeJob) -> None:
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=120)
    with LiveBar(console, "[red]cats[/red]") as view:
        view.show(running(make_job))
    assert "[red]cats[/red]  train" in screen.getvalue()


def test_a_pipe_gets_lines() -> None:
    assert isinstance(job_view(Console(file=io.StringIO()), "pets"), PhaseLines)


def test_following_nothing_is_a_mistake_of_ours() -> None:
    with pytest.raises(AssertionError):
        watch(iter(()), PhaseLines(Console(file=io.StringIO()), "x"))


INSTANT = {
    "version_id": "000002-0123456789ab",
    "promoted": True,
    "not_promoted_because": None,
    "held_because": [],
    "gate": None,
    "evaluation": {"overall": {"images": 10, "fused": 0.9, "text": 0.5, "visual": 0.9}},
    "error": None,
    "seconds": 1.4,
    "at": "2026-01-01T00:00:00Z",
}


def test_an_instant_version_is_told_once_when_it_is_served(make_job: MakeJob, make_finished_job: MakeJob) -> None:
    screen = io.StringIO()
    served = {"instant": INSTANT, "serving": "served_instantly"}
    jobs = [cast(Job, {**make_job(), **served}), cast(Job, {**running(make_job), **served})]
    watch(iter([*jobs, cast(Job, make_finished_job())]), PhaseLines(Console(file=screen, width=200), "pets"))
    assert screen.getvalue().splitlines() == [
        "pets: served instantly (version 000002-0123456789ab, made in 1.4 s)",
        "pets: queued",
        "pets: train (10 steps)",
        "pets: succeeded",
    ]


def test_a_job_tells_what_became_of_its_instant_version(make_job: MakeJob) -> None:
    assert instant_line(cast(Instant, INSTANT)) == (
        "instant version 000002-0123456789ab (fused 90.0 % on 10 held-out images) after 1.4 s; served"
    )
    held = {**INSTANT, "promoted": False, "not_promoted_because": "held: it is all wrong", "evaluation": None}
    assert instant_line(cast(Instant, held)).endswith("after 1.4 s; not served: held: it is all wrong")
    few = {"images": 12, "fused": 0.5, "left_one_out": 2, "only_images": 1, "classes_not_measured": 3}
    mixed = instant_line(cast(Instant, {**INSTANT, "evaluation": {"overall": few}}))
    assert (
        "(fused 50.0 % on 10 held-out images, 2 left out in turn (1 of them the only one of its class, by text alone), "
        "3 classes not measured)" in mixed
    )
    failed = {**INSTANT, "error": {"kind": "LostError", "message": "its process ended"}}
    assert instant_line(cast(Instant, failed)) == "no instant version: its process ended"
    cancelled = cast(Job, {**make_job(state="cancelled"), "instant": INSTANT, "serving": "served_instantly"})
    assert "stays until a rollback" in outcome_sentence(cancelled)
    assert any("served" in line for line in job_lines(cancelled))
