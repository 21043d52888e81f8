"""`keepsight teach`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from keepsight.cli import console, options
from keepsight.cli.errors import CommandError
from keepsight.cli.intake import encoding_lines, intake_lines

if TYPE_CHECKING:
    from keepsight.client import Client
    from keepsight.client.api import Accepted, CorrectionsAccepted, EditAccepted, Job, MergeAccepted
    from keepsight.client.uploads import Upload

INTERRUPTED = 130


def teach(
    source: Annotated[
        Path,
        typer.Argument(metavar="DIR_OR_ARCHIVE", help="A folder with a subfolder per class, or a zip, tar or parquet."),
    ],
    name: Annotated[str | None, typer.Option("--name", "-n", help="Name of the task [default: the source's]")] = None,
    template: Annotated[
        str | None, typer.Option("--template", "-t", help='Prompt of the classes, for example "a photo of a {}."')
    ] = None,
    extend: Annotated[bool, typer.Option("--extend", help="Allow more images of known classes.")] = False,
    strategy: Annotated[
        str | None, typer.Option(help="Update strategy: segp, merge, segp+merge, naive or prototypes [default: segp]")
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", "-s", metavar="KEY=VALUE", help="Override a hyper-parameter: epochs=5, rank=32."),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the update.")] = None,
    encoding: Annotated[
        str | None,
        typer.Option(help="Encoding of the names in an archive that does not say it itself: gbk, cp866 and others."),
    ] = None,
    instant: Annotated[
        bool, typer.Option("--instant/--no-instant", help="Serve a version without training first, within seconds.")
    ] = True,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only check the images and their labels; learn nothing.")
    ] = False,
    parent: Annotated[
        str | None,
        typer.Option(
            metavar="VERSION", help="Learn on this version, beside the current one; promote or merge the result later."
        ),
    ] = None,
    test_set: Annotated[
        str | None,
        typer.Option("--test-set", metavar="NAME", help="Keep the test split, or the val split, as a test set."),
    ] = None,
    wait: options.Wait = True,
    url: options.Url = options.URL,
    api_key: options.ApiKey = None,
    as_json: options.Json = False,
) -> None:
    """Teach new classes from labelled images, and follow the job until the new version is served."""
    chosen = [] if strategy is None else [f"strategy={strategy}"]
    config = parse_overrides([*chosen, *(overrides or [])])
    with options.connect(url, api_key) as client:
        accepted = upload(
            client,
            source,
            name=name,
            template=template,
            extend=extend,
            config=config,
            seed=seed,
            encoding=encoding,
            instant=instant,
            dry_run=dry_run,
            parent=parent,
            test_set=test_set,
        )
        if not as_json:
            console.print_notes(intake_lines(accepted["validation"]))
        conclude(
            client,
            accepted,
            label=name or source.name,
            done="Checked" if dry_run else "Learned",
            wait=wait,
            as_json=as_json,
        )


def conclude(
    client: Client,
    accepted: Accepted | CorrectionsAccepted | EditAccepted | MergeAccepted,
    *,
    label: str,
    done: str,
    wait: bool,
    as_json: bool,
) -> None:
    """Follow an accepted job to its end and print what became of it; without `wait`, print where it is.

    Raises:
        CommandError: it made no version.
    """
    if wait:
        report(follow(client, accepted["job_id"], label=label), done, as_json=as_json)
    elif as_json:
        console.print_json(accepted)
    else:
        console.out().print(f"Job {accepted['job_id']} is queued: keepsight jobs show {accepted['job_id']}")


def report(job: Job, done: str, *, as_json: bool) -> None:
    """Print what became of a job that has ended; `done` says what it did in one word.

    Raises:
        CommandError: it made no version.
    """
    from keepsight.cli.set_views import on_test_sets_lines
    from keepsight.cli.views import accuracy_line, correction_lines, label_lines, outcome_sentence, remains_lines

    if as_json:
        console.print_json(job)
    elif job["state"] == "succeeded":
        console.out().print(f"{done}: {outcome_sentence(job)}.", markup=False)
        if job["result"] and job["result"]["evaluation"]:
            console.out().print(accuracy_line(job["result"]["evaluation"]), markup=False)
        for line in on_test_sets_lines(job["result"].get("test_sets") if job["result"] else None):
            console.out().print(line, markup=False)
        for line in remains_lines(job):
            console.out().print(line, markup=False)
        for line in correction_lines(job["result"]) if job["result"] else ():
            console.out().print(line, markup=False)
    if not as_json and (labels := job.get("labels")):
        console.print_notes(label_lines(labels))
    if job["state"] != "succeeded":
        raise CommandError(f"job {job['job_id']} ended without a new version ({outcome_sentence(job).rstrip('.')})")


def parse_overrides(pairs: list[str], *, option: str = "--set", example: str = "epochs=5") -> dict[str, object]:
    """Parse pairs such as `epochs=5`; values are JSON if they parse as JSON, otherwise strings.

    Raises:
        CommandError: a pair is not KEY=VALUE, or a key is given twice.
    """
    config: dict[str, object] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        key = key.strip()
        if not equals or not key:
            raise CommandError(f"{option} takes KEY=VALUE, for example {example}; got {pair!r}")
        if key in config:
            raise CommandError(f"{option} gives {key} twice")
        try:
            config[key] = json.loads(text)
        except ValueError:
            config[key] = text
    return config


def upload(
    client: Client,
    source: Path,
    *,
    name: str | None,
    template: str | None,
    extend: bool,
    config: dict[str, object],
    seed: int | None,
    encoding: str | None,
    instant: bool,
    dry_run: bool = False,
    parent: str | None = None,
    test_set: str | None = None,
) -> Accepted:
    """Send a folder or an archive, with a progress bar. If it is refused, print what the service found in it."""
    from keepsight.client.images import sendable

    with sending(source) as (body, filename):
        return client.teach(
            body,
            filename,
            name=name or sendable(source.resolve().name.split(".")[0]) or "task",
            template=template,
            extend=extend,
            config=config,
            seed=seed,
            encoding=encoding,
            instant=instant,
            dry_run=dry_run,
            parent=parent,
            test_set=test_set,
        )


@contextmanager
def sending(source: Path) -> Iterator[tuple[Upload, str]]:
    """Open a folder or an archive to be sent, with its name, and show a progress bar meanwhile.

    If it is refused, what the service found in it is printed.
    """
    from keepsight.cli.follow import transfer_bar
    from keepsight.client.errors import ApiError
    from keepsight.client.uploads import open_task, with_skipped

    body, filename = open_task(source)
    with body, transfer_bar(console.err()) as bars:
        task = bars.add_task("sending", total=body.size)

        def show(sent: int) -> None:
            done = sent >= body.size
            bars.update(task, completed=sent, description="waiting for the service's check" if done else "sending")

        body.on_read = show
        try:
            yield body, filename
        except ApiError as error:
            report_refusal(with_skipped(error.problem, body))
            raise


def report_refusal(problem: Mapping[str, Any]) -> None:
    """Print what the service found in an upload that it refused, on stderr."""
    if isinstance(validation := problem.get("validation"), dict):
        console.print_notes(intake_lines(validation))
    console.print_notes(encoding_lines(problem))


def follow(client: Client, job_id: str, *, label: str) -> Job:
    """Follow a job to its end. On a terminal, Ctrl-C asks what to do; elsewhere, it leaves the job running."""
    from keepsight.cli.follow import job_view, watch

    while True:
        try:
            with job_view(console.err(), label) as view:
                return watch(client.follow(job_id), view)
        except KeyboardInterrupt:
            choice = ask_what_now(job_id)
        if choice == "cancel":
            client.cancel(job_id)
            console.err().print("Asked the job to stop; it does within one step.")
        elif choice == "leave":
            console.err().print(
                f"The job goes on without being watched. Watch it again: keepsight jobs show {job_id} --watch. "
                f"Stop it: keepsight jobs cancel {job_id}."
            )
            raise typer.Exit(INTERRUPTED)


def ask_what_now(job_id: str) -> str:
    """Ask what to do after Ctrl-C: `cancel`, `leave` or `watch`."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return "leave"
    try:
        answer = typer.prompt(
            f"\nJob {job_id} is still running. [c]ancel it, [l]eave it running, or keep [w]atching?",
            default="l",
            err=True,
        )
    except (typer.Abort, KeyboardInterrupt):
        return "leave"
    return {"c": "cancel", "w": "watch"}.get(str(answer).strip().lower()[:1], "leave")
