"""`keepsight versions`, `rollback`, `promote` and `rollout`."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from keepsight.cli import console, options
from keepsight.cli.errors import CommandError
from keepsight.client.api import Moved

NOT_FOUND = 404
Version = Annotated[str, typer.Argument(metavar="VERSION", help="A version's id.")]


class OrShow(TyperGroup):
    """A group whose argument that is no subcommand is shown."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put `show` before a version's id."""
        if args and not args[0].startswith("-") and args[0] not in self.commands:
            args = ["show", *args]
        return super().parse_args(ctx, args)


app = typer.Typer(cls=OrShow, help="List the versions; show one.", rich_markup_mode=None)


@app.callback(invoke_without_command=True)
def versions(
    context: typer.Context,
    tree: Annotated[
        bool, typer.Option("--tree", help="Draw the lineage: what was learned on what, and merged.")
    ] = False,
    url: options.Url = options.URL,
    api_key: options.ApiKey = None,
    as_json: options.Json = False,
) -> None:
    """List the versions with their lineage and accuracy; show one."""
    if context.invoked_subcommand is not None:
        return
    from keepsight.cli.views import lineage_tree, versions_table

    with options.connect(url, api_key) as client:
        listing = client.versions()
    if as_json:
        console.print_json(listing)
    elif tree:
        console.out().print(lineage_tree(listing))
    else:
        console.print_table(versions_table(listing))


@app.command("show")
def show(
    version: Version,
    url: options.Url = options.URL,
    api_key: options.ApiKey = None,
    as_json: options.Json = False,
) -> None:
    """Show one version: what it was made of, what it has right, and what its classes had in common with old ones."""
    from keepsight.cli.set_views import published_lines
    from keepsight.cli.views import version_lines
    from keepsight.client.errors import ApiError

    with options.connect(url, api_key) as client:
        manifest = client.version(version)
        if as_json:
            console.print_json(manifest)
            return
        try:
            contributions = client.contributions(version)
        except ApiError as error:
            if error.status != NOT_FOUND:
                raise
            contributions = None
    for line in version_lines(manifest, contributions):
        console.out().print(line)
    for line in published_lines(manifest):
        console.out().print(line, markup=False)


def merge(
    ours: Annotated[str, typer.Argument(metavar="VERSION", help="The parent; its classes come first.")],
    theirs: Annotated[str, typer.Argument(metavar="OTHER_VERSION", help="The version to merge into it.")],
    reason: options.Reason = "",
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", "-s", metavar="KEY=VALUE", help="Override a hyper-parameter: align_steps=400."),
    ] = None,
    wait: options.Wait = True,
    url: options.Url = options.URL,
    api_key: options.ApiKey = None,
    as_json: options.Json = False,
) -> None:
    """Merge two versions that were taught different tasks from one, without training."""
    from keepsight.cli.commands.teaching import conclude, parse_overrides

    config = parse_overrides(overrides or [], example="align_steps=400")
    with options.connect(url, api_key) as client:
        accepted = client.merge(ours, theirs, reason=reason, config=config)
        conclude(client, accepted, label="merge", done="Merged", wait=wait, as_json=as_json)


def rollback(
    version: Annotated[
        str | None, typer.Argument(metavar="[VERSION]", help="Version to go back to [default: the current's parent]")
    ] = None,
    reason: options.Reason = "",
    url: options.Url = options.URL,
    api_key: options.ApiKey = None,
    as_json: options.Json = False,
) -> None:
    """Roll back to an earlier version. Returns once all servers serve it."""
    with options.connect(url, api_key) as client:
        moved = client.rollback(version, reason=reason)
    report(moved, as_json=as_json)


def promote(
    version: Version,
    reason: options.Reason = "",
    anyway: Annotated[
        bool, typer.Option("--anyway", help="Serve a version that the gate holds. Needs a --reason.")
    ] = False,
    url: options.Url = options.URL,
    api_key: options.ApiKey = None,
    as_json: options.Json = False,
) -> None:
    """Promote a version, for instance one that was rolled back. Returns once all servers serve it."""
    if anyway and not reason.strip():
        raise CommandError("--anyway needs a --reason, which is kept in the journal")
    with options.connect(url, api_key) as client:
        moved = client.promote(version, reason=reason, anyway=anyway)
    report(moved, as_json=as_json)


def rollout(url: options.Url = options.URL, api_key: options.ApiKey = None, as_json: options.Json = False) -> None:
    """Show what every server serves and prepares."""
    from keepsight.cli.views import rollout_line, rollout_table

    with options.connect(url, api_key) as client:
        state = client.rollout()
    if as_json:
        console.print_json(state)
    else:
        console.print_table(rollout_table(state))
        console.out().print(rollout_line(state), markup=False)


def report(moved: Moved, *, as_json: bool) -> None:
    """Print where CURRENT moved."""
    if as_json:
        console.print_json(moved)
    elif moved["serving"] == moved["to"]:
        console.out().print(f"Serving {moved['to']} (was {moved['from'] or 'none'}).")
    else:
        console.out().print(f"Current is {moved['to']}; this server still answers with {moved['serving']}.")
