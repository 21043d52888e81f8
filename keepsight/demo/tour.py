"""`keepsight demo`: a tour of a fresh service, whose every step is a check that holds or fails."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from keepsight.cli import console
from keepsight.cli.console import seconds
from keepsight.cli.follow import job_view, watch
from keepsight.cli.views import outcome_sentence
from keepsight.client import Client
from keepsight.client.api import Job
from keepsight.client.uploads import TarUpload
from keepsight.demo.data import DemoData
from keepsight.demo.errors import DemoError
from keepsight.demo.measure import SAME, Measured, SteadyClient, measure, same_answer
from keepsight.demo.report import Tour
from keepsight.demo.service import DemoSettings, gather_images, make_folder, peak_memory_mib, start


def run_demo(settings: DemoSettings, *, quiet: bool = False) -> dict[str, Any]:
    """Start a fresh service, take the tour, print it, and leave the service running unless asked to stop it.

    Args:
        settings: The options.
        quiet: Print on stderr only, because the report will be printed as JSON.

    Returns:
        The report: tasks, accuracy of every version, checks, the steady client's counts, seconds.

    Raises:
        DemoError: the service could not start or a request of the tour failed; then nothing is left running.
    """
    from keepsight.demo.printing import print_checks, print_farewell, print_table

    screen = console.err() if quiet else console.out()
    tour = Tour()
    instance = make_folder(settings.folder)
    with tour.timed("whole tour"):
        with screen.status("Preparing the images"):
            data = gather_images(settings)
        try:
            with tour.timed("starting the service"):
                note = start(settings, screen)
            screen.print(f"The page: [bold]{note['url']}[/] (ready after {tour.seconds['starting the service']:.1f} s)")
            screen.print(
                f"[bold]Keepsight on {escape(data.title)}[/]: {len(data.tasks)} tasks, {len(data.classes)} classes"
            )
            with Client(note["url"]) as client:
                image = data.tasks[0].held_out[0][0]
                with SteadyClient(note["url"], image, data.classes, data.template) as steady:
                    take(tour, client, data, settings, steady, screen)
            instants = [instant["version_id"] for job in tour.jobs if (instant := job.get("instant"))]
            tour.check(
                "no request failed while versions were swapped",
                not steady.report.failures
                and [version for version in steady.report.versions if version not in instants] == tour.served,
                f"{len(steady.report.failures)} of {steady.report.requests} requests of a steady client failed; "
                f"it saw versions {', '.join(short_name(v) for v in steady.report.versions)} in turn",
            )
            check_nothing_kept(tour, settings.folder)
            memory = peak_memory_mib(note["parts"])
        except BaseException:
            with screen.status("Stopping the service"):
                instance.stop()
            raise
        if settings.stop_at_end:
            with screen.status("Stopping the service"), tour.timed("stopping the service"):
                tour.check("service stopped", instance.stop(), "broker, worker and server ended when asked to")
    print_table(screen, data, tour.measured)
    print_checks(screen, tour.checks, tour.seconds)
    if not settings.stop_at_end:
        print_farewell(screen, note["url"], image, settings.folder / "store")
    return {
        "data": data.title,
        "url": None if settings.stop_at_end else note["url"],
        "tasks": [
            {"name": t.name, "classes": t.classes, "train": len(t.train), "held_out": len(t.held_out)}
            for t in data.tasks
        ],
        "versions": [measured.to_json() for measured in tour.measured],
        "checks": [asdict(check) for check in tour.checks],
        "steady_client": asdict(steady.report),
        "seconds": tour.seconds,
        "updates": [{"name": job["name"], "result": job["result"]} for job in tour.jobs],
        "peak_memory_mib": memory,
    }


def take(
    tour: Tour, client: Client, data: DemoData, settings: DemoSettings, steady: SteadyClient, screen: Console
) -> None:
    """Take the tour: measure, teach and measure, roll back, go forward."""
    with screen.status("Version 1, which was taught nothing, answers words"), tour.timed("zero-shot answers"):
        tour.measured.append(measure(client, data, taught=0))
        settle(tour, steady, tour.measured[0].version_id)
    answers = [result for results in tour.measured[0].answers.values() for result in results]
    named = sum(1 for a in answers if {p["label"] for p in a["predictions"]} == set(data.classes))
    tour.check(
        "version 1 answers words it was never taught",
        named == len(answers),
        f"{named} of {len(answers)} images answered with scores for all {len(data.classes)} names",
    )
    for number in range(1, len(data.tasks) + 1):
        with tour.timed(f"learning task {number}"):
            job = teach(client, data, number, settings.overrides, screen)
        tour.jobs.append(job)
        check_served_at_once(tour, number, job)
        steady.taught.set()
        with screen.status(f"Measuring the version after task {number}"), tour.timed(f"measuring after task {number}"):
            measured = measure(client, data, taught=number)
            settle(tour, steady, measured.version_id)
        tour.measured.append(measured)
        check_learned(tour, data, number, f"task {number} learned", measured)
    if len(data.tasks) > 1:
        check_learned(tour, data, 1, "task 1 kept", tour.measured[-1])
    newest, after_first = tour.measured[-1], tour.measured[1]
    with screen.status("Rolling back, and forward again"):
        for name, target, taught in (("rollback", after_first, 1), ("forward again", newest, len(data.tasks))):
            with tour.timed(name):
                reason = f"the demo shows it: {name}"
                move = client.rollback if name == "rollback" else client.promote
                moved = move(target.version_id, reason=reason)
            again = measure(client, data, taught=taught)
            settle(tour, steady, target.version_id)
            compare(tour, f"{name}: the same answers", target, again, served=moved["serving"])


def teach(client: Client, data: DemoData, number: int, overrides: dict[str, object], screen: Console) -> Job:
    """Send one task and follow its job to the end.

    Raises:
        DemoError: the job did not end with a promoted version.
    """
    task = data.tasks[number - 1]
    label = f"Task {number}: {task.name}"
    with TarUpload(task.train) as body:
        accepted = client.teach(
            body,
            "task.tar",
            name=task.name,
            template=data.template,
            config=overrides,
            seed=number,
        )
    with job_view(screen, label) as view:
        job = watch(client.follow(accepted["job_id"]), view)
    if job["state"] != "succeeded" or not job["result"] or not job["result"]["promoted"]:
        raise DemoError(f"{label} was not learned: {outcome_sentence(job)}")
    wait_until_served(client, str(job["result"]["version_id"]))
    return job


def settle(tour: Tour, steady: SteadyClient, version_id: str) -> None:
    """Note that a version is served now, and wait until the steady client has seen it."""
    tour.served.append(version_id)
    steady.has_seen(version_id)


def wait_until_served(client: Client, version_id: str, *, timeout_s: float = 60.0) -> None:
    """Wait until the server serves a version.

    Raises:
        DemoError: it does not in time.
    """
    deadline = time.monotonic() + timeout_s
    while client.versions()["serving"] != version_id:
        if time.monotonic() > deadline:
            raise DemoError(f"the server did not move to {version_id} within {timeout_s:.0f} s")
        time.sleep(0.1)


def check_served_at_once(tour: Tour, number: int, job: Job) -> None:
    """Check that a task was served by its instant version while it was trained."""
    instant = job.get("instant")
    if instant is None:
        tour.check(f"task {number} served before it was trained", False, "no instant version was made")
        return
    after = seconds(instant["seconds"])
    told = f"version {short_name(instant['version_id'] or '')} was made and served in {after}"
    why = instant["error"]["message"] if instant["error"] else instant["not_promoted_because"]
    tour.check(
        f"task {number} served before it was trained", instant["promoted"], told if instant["promoted"] else str(why)
    )


def check_learned(tour: Tour, data: DemoData, number: int, name: str, measured: Measured) -> None:
    """Check that a taught task's fused accuracy is above chance by the data's margin."""
    accuracy = measured.accuracy[data.tasks[number - 1].name]
    chance = 1 / accuracy.among
    needed = min(1.0, chance + data.margin * (1 - chance))
    fused = accuracy.fused or 0.0
    tour.check(
        f"{name}: fused accuracy on its held-out images well above chance",
        fused >= needed,
        f"{100 * fused:.1f} % among {accuracy.among} classes (chance {100 * chance:.1f} %, asked {100 * needed:.1f} %)",
    )


def compare(tour: Tour, name: str, before: Measured, now: Measured, *, served: str | None) -> None:
    """Check that every answer is the same as when the version was served before."""
    images = sum(len(results) for results in before.answers.values())
    different = sum(
        not same_answer(was, is_now)
        for task, results in before.answers.items()
        for was, is_now in zip(results, now.answers[task], strict=True)
    )
    tour.check(
        name,
        different == 0 and served == before.version_id == now.version_id,
        f"{images - different} of {images} images answered by {now.version_id} as before, every score within {SAME:g}",
    )


def short_name(version_id: str) -> str:
    """Return a version's number, without leading zeros."""
    return version_id.partition("-")[0].lstrip("0") or version_id


def check_nothing_kept(tour: Tour, folder: Path) -> None:
    """Check that no uploaded image is left in the spool."""
    left = [path for path in (folder / "spool").rglob("*") if path.is_file()]
    tour.check("no uploaded image was kept", not left, f"{len(left)} files in the spool")
