"""`keepsight test-sets`: list, put, show, remove."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from keepsight.cli import console, options

app = typer.Typer(help="List the test sets; store, show or remove one.", rich_markup_mode=None)

Name = Annotated[str, typer.Argument(metavar="NAME", help="The test set's name.")]


@app.callback(invoke_without_command=True)
def list_sets(
    context: typer.Context,
    url: options.Url = options.URL,
    api_key: options.ApiKey = None,
    as_json: options.Json = False,
) -> None:
    """List the test sets; store, show or remove one. Every new version is measured on all of them."""
    if context.invoked_subcommand is not None:
        return
    from keepsight.cli.set_views import sets_table

    with options.connect(url, api_key) as client:
        found = client.test_sets()
    if as_json:
        console.print_json(found)
    elif found["test_sets"]:
        console.print_table(sets_table(found))
    else:
        console.out().print("No test sets yet. Store one: keepsight test-sets put NAME DIR")


@app.command("put")
def put(
    name: Name,
    source: Annotated[
        Path,
        typer.Argument(metavar="DIR_OR_ARCHIVE", help="A folder with a subfolder per class, or a zip, tar or parquet."),
    ],
    reason: options.Reason = "",
    days: Annotated[float | None, typer.Option(help="Days that it is kept [default: as the service is set]")] = None,
    encoding: Annotated[
        str | None,
        typer.Option(help="Encoding of the names in an archive that does not say it itself: gbk, cp866 and others."),
    ] = None,
    url: options.Url = options.URL,
    api_key: options.ApiKey = None,
    as_json: options.Json = False,
) -> None:
    """Store labelled images to measure versions on, in place of the test set of that name.

    They are kept until their time is over or they are removed. Nothing learns from them.
    """
    from keepsight.cli.commands.teaching import report_refusal
    from keepsight.cli.follow import transfer_bar
    from keepsight.cli.intake import intake_lines
    from keepsight.client.errors import ApiError
    from keepsight.client.uploads import open_task, with_skipped

    body, filename = open_task(source)
    with options.connect(url, api_key) as client, body, transfer_bar(console.err()) as bars:
        task = bars.add_task("sending", total=body.size)

        def show_sent(sent: int) -> None:
            done = sent >= body.size
            bars.update(task, completed=sent, description="waiting for the service's check" if done else "sending")

        body.on_read = show_sent
        try:
            stored = client.put_test_set(name, body, filename, reason=reason, days=days, encoding=encoding)
        except ApiError as error:
            report_refusal(with_skipped(error.problem, body))
            raise
    if as_json:
        console.print_json(stored)
        return
    console.print_notes(intake_lines(stored["validation"]))
    found = stored["test_set"]
    until = console.moment(found["expires_at"])
    console.out().print(f"Stored the test set {name}: {found['images']} images, kept until {until}.", markup=False)
    if found["unknown"]:
        console.out().print(
            f"{len(found['unknown'])} of its classes are not known yet; their images count once they are taught.",
            markup=False,
        )


@app.command("show")
def show(
    name: Name, url: options.Url = options.URL, api_key: options.ApiKey = None, as_json: options.Json = False
) -> None:
    """Show one test set; with --json, the label and the checksum of each image."""
    from keepsight.cli.set_views import set_lines

    with options.connect(url, api_key) as client:
        found = client.test_set(name)
    if as_json:
        console.print_json(found)
        return
    for line in set_lines(found):
        console.out().print(line)


@app.command("remove")
def remove(
    name: Name,
    reason: options.Reason = "",
    url: options.Url = options.URL,
    api_key: options.ApiKey = None,
    as_json: options.Json = False,
) -> None:
    """Remove a test set, its images and what versions answered to them. Prints the receipt."""
    with options.connect(url, api_key) as client:
        receipt = client.remove_test_set(name, reason=reason)
    if as_json:
        console.print_json(receipt)
        return
    when = console.moment(receipt["removed_at"])
    console.out().print(
        f"Removed the test set {receipt['name']} ({receipt['images']} images, {receipt['bytes']} bytes, "
        f"digest {receipt['digest'][:12]}) at {when} for {receipt['who']}.",
        markup=False,
    )
