"""`keepsight correct` and `keepsight corrections`: right labels for images that were answered wrongly."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from keepsight.cli import console, options
from keepsight.cli.errors import CommandError

app = typer.Typer(help="List, learn or remove the corrections that wait.", rich_markup_mode=None)


def correct(
    image: Annotated[Path, typer.Argument(metavar="IMAGE", help="The image file.")],
    label: Annotated[str, typer.Argument(metavar="LABEL", help="The right class.")],
    new_class: Annotated[bool, typer.Option("--new-class", help="Make LABEL a class, if it is none yet.")] = False,
    taught_as: Annotated[
        str | None,
        typer.Option(metavar="LABEL", help="The class that this very image was taught as, by a wrong label."),
    ] = None,
    answer_id: Annotated[
        str | None, typer.Option("--answer", metavar="ID", help="The id of the answer, as `classify --json` prints it.")
    ] = None,
    reason: Annotated[str, typer.Option(help="Why; kept until the correction is learned.")] = "",
    url: options.Url = options.URL,
    api_key: options.ApiKey = None,
    as_json: options.Json = False,
) -> None:
    """Say what an image shows that was answered wrongly. It is learned later, together with others."""
    if not image.is_file():
        raise CommandError(f"{image} is no file")
    with options.connect(url, api_key) as client:
        kept = client.correct(
            image, label, new_class=new_class, taught_as=taught_as, answer_id=answer_id, reason=reason
        )
    if as_json:
        console.print_json(kept)
        return
    answered = f", answered {kept['answered']}" if kept["answered"] else ""
    console.out().print(f"Correction {kept['number']} is kept: {kept['label']}{answered}.", markup=False)


@app.callback(invoke_without_command=True)
def corrections(
    context: typer.Context,
    url: options.Url = options.URL,
    api_key: options.ApiKey = None,
    as_json: options.Json = False,
) -> None:
    """List, learn or remove the corrections that wait."""
    if context.invoked_subcommand is None:
        show(url, api_key, as_json)


@app.command("list")
def show(url: options.Url = options.URL, api_key: options.ApiKey = None, as_json: options.Json = False) -> None:
    """List the corrections that wait, the oldest first."""
    from keepsight.cli.views import corrections_line, corrections_table

    with options.connect(url, api_key) as client:
        found = client.corrections()
    if as_json:
        console.print_json(found)
        return
    if found["corrections"]:
        console.print_table(corrections_table(found))
    console.out().print(corrections_line(found))


@app.command("learn")
def learn(
    wait: options.Wait = True,
    url: options.Url = options.URL,
    api_key: options.ApiKey = None,
    as_json: options.Json = False,
) -> None:
    """Learn all corrections that wait, in one version."""
    from keepsight.cli.commands.teaching import conclude

    with options.connect(url, api_key) as client:
        accepted = client.learn_corrections()
        conclude(client, accepted, label="corrections", done="Learned", wait=wait, as_json=as_json)


@app.command("remove")
def remove(
    numbers: Annotated[list[int] | None, typer.Argument(metavar="[NUMBER...]", help="Corrections to remove.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Remove all that wait.")] = False,
    url: options.Url = options.URL,
    api_key: options.ApiKey = None,
    as_json: options.Json = False,
) -> None:
    """Remove corrections that wait, with their images."""
    if bool(numbers) == everything:
        raise CommandError("name the corrections to remove, or give --all")
    with options.connect(url, api_key) as client:
        if everything:
            removed = client.remove_corrections()["removed"]
        else:
            removed = sum(client.remove_correction(number)["removed"] for number in numbers or ())
    if as_json:
        console.print_json({"removed": removed})
    else:
        console.out().print(f"Removed {removed}.")
