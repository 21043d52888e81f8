"""`keepsight classes`: list the classes that are served, and edit them without training."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from keepsight.cli import console, options
from keepsight.cli.intake import intake_lines

if TYPE_CHECKING:
    from keepsight.client import Client
    from keepsight.client.api import Accepted, EditAccepted, EditPreview

app = typer.Typer(
    help="List the classes; rename, swap, merge, replace or delete them, without training.", rich_markup_mode=None
)
Name = Annotated[str, typer.Argument(metavar="CLASS", help="A class that is served.")]
Prompt = Annotated[
    str | None,
    typer.Option(help="The sentence that the text tower reads [default: the old one, with the new name in it]"),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say what it would change.")]


@app.callback(invoke_without_command=True)
def classes(
    context: typer.Context,
    url: options.Url = options.URL,
    api_key: options.ApiKey = None,
    as_json: options.Json = False,
) -> None:
    """List the classes that are served, or edit them. Every edit is a version, and a rollback undoes it."""
    if context.invoked_subcommand is not None:
        return
    from keepsight.cli.views import classes_table

    with options.connect(url, api_key) as client:
        found = client.classes()
    if as_json:
        console.print_json(found)
    else:
        console.print_table(classes_table(found))


@app.command("rename")
def rename(
    name: Name,
    new_name: Annotated[str | None, typer.Argument(metavar="[NEW_NAME]", help="Leave it out for a new prompt.")] = None,
    prompt: Prompt = None,
    dry_run: DryRun = False,
    reason: options.Reason = "",
    wait: options.Wait = True,
    url: options.Url = options.URL,
    api_key: options.ApiKey = None,
    as_json: options.Json = False,
) -> None:
    """Give a class another name, another --prompt, or both."""
    with options.connect(url, api_key) as client:
        if dry_run:
            _preview(client.preview_edit("rename", [name], name=new_name, prompt=prompt), as_json=as_json)
            return
        accepted = client.rename_class(name, new_name, prompt=prompt, reason=reason)
        _conclude(client, accepted, done="Renamed", wait=wait, as_json=as_json)


@app.command("swap")
def swap(
    name: Name,
    other: Annotated[str, typer.Argument(metavar="OTHER_CLASS", help="The class that has the right name.")],
    dry_run: DryRun = False,
    reason: options.Reason = "",
    wait: options.Wait = True,
    url: options.Url = options.URL,
    api_key: options.ApiKey = None,
    as_json: options.Json = False,
) -> None:
    """Exchange the names of two classes that were taught under each other's."""
    with options.connect(url, api_key) as client:
        if dry_run:
            _preview(client.preview_edit("swap", [name, other]), as_json=as_json)
            return
        accepted = client.rename_class(name, other, swap=True, reason=reason)
        _conclude(client, accepted, done="Swapped", wait=wait, as_json=as_json)


@app.command("merge")
def merge(
    names: Annotated[list[str], typer.Argument(metavar="CLASS CLASS...", help="The classes that become one.")],
    into: Annotated[str, typer.Option("--into", help="What they are called then; it may be one of them.")],
    prompt: Prompt = None,
    dry_run: DryRun = False,
    reason: options.Reason = "",
    wait: options.Wait = True,
    url: options.Url = options.URL,
    api_key: options.ApiKey = None,
    as_json: options.Json = False,
) -> None:
    """Make several classes one, as if it had been taught with all their images."""
    with options.connect(url, api_key) as client:
        if dry_run:
            _preview(client.preview_edit("merge", names, name=into, prompt=prompt), as_json=as_json)
            return
        accepted = client.merge_classes(names, into, prompt=prompt, reason=reason)
        _conclude(client, accepted, done="Merged", wait=wait, as_json=as_json)


@app.command("delete")
def delete(
    name: Name,
    dry_run: DryRun = False,
    reason: options.Reason = "",
    wait: options.Wait = True,
    url: options.Url = options.URL,
    api_key: options.ApiKey = None,
    as_json: options.Json = False,
) -> None:
    """Take a class away, and say what remains of it."""
    with options.connect(url, api_key) as client:
        if dry_run:
            _preview(client.preview_edit("delete", [name]), as_json=as_json)
            return
        accepted = client.delete_class(name, reason=reason)
        _conclude(client, accepted, done="Deleted", wait=wait, as_json=as_json)


@app.command("replace")
def replace(
    name: Name,
    source: Annotated[
        Path,
        typer.Argument(metavar="DIR_OR_ARCHIVE", help="A folder with one subfolder, of that name; or an archive."),
    ],
    dry_run: DryRun = False,
    reason: options.Reason = "",
    encoding: Annotated[
        str | None, typer.Option(help="Encoding of the names in an archive that does not say it itself.")
    ] = None,
    wait: options.Wait = True,
    url: options.Url = options.URL,
    api_key: options.ApiKey = None,
    as_json: options.Json = False,
) -> None:
    """Teach a class anew with other images, in place of all that it was taught with."""
    from keepsight.cli.commands.teaching import sending

    with options.connect(url, api_key) as client:
        if dry_run:
            _preview(client.preview_edit("replace", [name]), as_json=as_json)
            return
        with sending(source) as (body, filename):
            accepted = client.replace_class(name, body, filename, reason=reason, encoding=encoding)
        if not as_json:
            console.print_notes(intake_lines(accepted["validation"]))
        _conclude(client, accepted, done="Replaced", wait=wait, as_json=as_json)


def _preview(found: EditPreview, *, as_json: bool) -> None:
    from keepsight.cli.views import edit_preview_lines

    if as_json:
        console.print_json(found)
        return
    for line in edit_preview_lines(found):
        console.out().print(line, markup=False)


def _conclude(client: Client, accepted: Accepted | EditAccepted, *, done: str, wait: bool, as_json: bool) -> None:
    from keepsight.cli.commands.teaching import conclude

    conclude(client, accepted, label="edit", done=done, wait=wait, as_json=as_json)
