"""`keepsight gate`: show and set what a version must pass before it is promoted."""

from __future__ import annotations

from typing import Annotated

import typer

from keepsight.cli import console, options
from keepsight.client.api import Gate

app = typer.Typer(help="Show or set what a version must pass before it is promoted.", rich_markup_mode=None)

Settings = Annotated[
    list[str],
    typer.Argument(metavar="KEY=VALUE...", help="Fields of the policy: min_accuracy=0.5. null: the default."),
]


@app.callback(invoke_without_command=True)
def gate(
    context: typer.Context,
    url: options.Url = options.URL,
    api_key: options.ApiKey = None,
    as_json: options.Json = False,
) -> None:
    """Show or set what a version must pass before it is promoted."""
    if context.invoked_subcommand is None:
        show(url, api_key, as_json)


@app.command("show")
def show(url: options.Url = options.URL, api_key: options.ApiKey = None, as_json: options.Json = False) -> None:
    """Show the policy."""
    with options.connect(url, api_key) as client:
        found = client.gate()
    report(found, as_json=as_json)


@app.command("set")
def set_fields(
    settings: Settings,
    reason: options.Reason = "",
    url: options.Url = options.URL,
    api_key: options.ApiKey = None,
    as_json: options.Json = False,
) -> None:
    """Change fields of the policy. It judges the versions that are published from now on."""
    from keepsight.cli.commands.teaching import parse_overrides

    changes = parse_overrides(settings, option="gate set", example="min_accuracy=0.5")
    with options.connect(url, api_key) as client:
        found = client.change_gate(changes, reason=reason)
    report(found, as_json=as_json)


def report(found: Gate, *, as_json: bool) -> None:
    """Print the policy, and whether its file is damaged."""
    from keepsight.cli.views import gate_table

    if as_json:
        console.print_json(found)
        return
    if found["problem"]:
        console.print_notes([found["problem"]])
    console.print_table(gate_table(found))
