"""Looking after versions: `keepsight prune`, `pin`, `unpin`, `verify`, `export`, `backup` and `restore`."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from keepsight.cli import console, options
from keepsight.cli.commands.versions import Version
from keepsight.cli.errors import CommandError
from keepsight.local.supervisor import OUR_MODULE, our_environment

if TYPE_CHECKING:
    from keepsight.client.api import Pruned, Verified


def prune(
    keep: Annotated[int, typer.Option("--keep", min=1, help="How many steps back stay possible.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Remove nothing; say what would be removed.")] = False,
    reason: options.Reason = "",
    url: options.Url = options.URL,
    api_key: options.ApiKey = None,
    as_json: options.Json = False,
) -> None:
    """Remove old versions: not the current one, nor pinned ones, nor what a server or a job needs."""
    with options.connect(url, api_key) as client:
        pruned = client.prune(keep, dry_run=dry_run, reason=reason)
    if as_json:
        console.print_json(pruned)
    else:
        report_pruned(pruned)


def pin(
    version: Version,
    reason: options.Reason = "",
    url: options.Url = options.URL,
    api_key: options.ApiKey = None,
    as_json: options.Json = False,
) -> None:
    """Keep a version from being pruned."""
    with options.connect(url, api_key) as client:
        pinned = client.pin(version, reason=reason)
    if as_json:
        console.print_json(pinned)
    else:
        console.out().print(f"Pinned {pinned['version_id']}.")


def unpin(
    version: Version,
    reason: options.Reason = "",
    url: options.Url = options.URL,
    api_key: options.ApiKey = None,
    as_json: options.Json = False,
) -> None:
    """Let a version be pruned again."""
    with options.connect(url, api_key) as client:
        pinned = client.unpin(version, reason=reason)
    if as_json:
        console.print_json(pinned)
    else:
        console.out().print(f"Unpinned {pinned['version_id']}.")


def verify(
    version: Annotated[
        str | None, typer.Argument(metavar="[VERSION]", help="The version to verify [default: the current one]")
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Verify every version.")] = False,
    url: options.Url = options.URL,
    api_key: options.ApiKey = None,
    as_json: options.Json = False,
) -> None:
    """Verify a version: every byte, and its golden answers. Exits with 1 if anything is wrong."""
    from rich.progress import track

    if every and version is not None:
        raise CommandError(f"either name a version or give --all; got {version} and --all")
    with options.connect(url, api_key) as client:
        if every:
            listing = client.versions()
            # a version without a manifest is listed as damaged only
            wanted = sorted(
                {v["version_id"] for v in listing["versions"]} | {v["version_id"] for v in listing["damaged"]}
            )
        else:
            current = version or client.versions()["current"]
            if current is None:
                raise CommandError("CURRENT cannot be read, so name a version, or give --all")
            wanted = [current]
        bar = track(wanted, description="verify", console=console.err(), transient=True, disable=len(wanted) == 1)
        found = [client.verify(each) for each in bar]
    if as_json:
        console.print_json({"ok": all(each["ok"] for each in found), "versions": found})
    else:
        report_verified(found)
    if not all(each["ok"] for each in found):
        raise typer.Exit(1)


def export(
    version: Version,
    path: Annotated[Path, typer.Argument(metavar="FILE|FOLDER", help="Where to write it.")],
    form: Annotated[
        str | None,
        typer.Option("--format", help="safetensors or onnx [default: by the file's ending, else safetensors]"),
    ] = None,
    url: options.Url = options.URL,
    api_key: options.ApiKey = None,
    as_json: options.Json = False,
) -> None:
    """Write a version to a file for use elsewhere: as it is, or as an ONNX model that gives the same answers."""
    from keepsight.cli.follow import transfer_bar
    from keepsight.client.downloads import FORMATS

    wanted = form or path.suffix.removeprefix(".")
    chosen = next((each for each in FORMATS if each == wanted), None)
    if chosen is None and form is not None:
        raise CommandError(f"there is no format {form!r}; expected {' or '.join(FORMATS)}")
    with options.connect(url, api_key) as client, transfer_bar(console.err()) as bar:
        task = bar.add_task(f"export {version}", total=None)

        def show(received: int, size: int) -> None:
            bar.update(task, completed=received, total=size or None)

        made = client.export(version, path, form=chosen or "safetensors", on_bytes=show)
    if as_json:
        console.print_json({"path": str(made.path), "bytes": made.bytes, "difference": made.difference})
        return
    console.out().print(f"Wrote {made.path} ({console.size(made.bytes)}).", markup=False)
    if made.difference is not None:
        console.out().print(f"Its answers differ from the service's by at most {made.difference:.1e}.")


def backup(
    target: Annotated[Path, typer.Argument(metavar="FOLDER|FILE.tar", help="Where to copy the store.")],
    store: options.StorePath = options.DEFAULT_STORE,
    remote: Annotated[
        bool, typer.Option("--remote", help="Fetch the store of the service at --url; FILE.tar is written.")
    ] = False,
    url: options.Url = options.URL,
    api_key: options.ApiKey = None,
    as_json: options.Json = False,
) -> None:
    """Copy the store on this machine, which may be in use. A folder with an earlier backup is brought up to date.

    Every version of the copy is verified. Exits with 1 if a version of the store is damaged.
    """
    if remote:
        fetch_backup(target, url, api_key, as_json=as_json)
        return
    run_store("backup", store, target, as_json=as_json)


def fetch_backup(target: Path, url: str, api_key: str | None, *, as_json: bool) -> None:
    """Write the service's store to a tar file."""
    from keepsight.cli.follow import transfer_bar

    if target.suffix != ".tar":
        raise CommandError(f"{target} is no name of a tar file; --remote writes FILE.tar")
    with options.connect(url, api_key) as client, transfer_bar(console.err()) as bar:
        task = bar.add_task("backup", total=None)
        made = client.backup(target, on_bytes=lambda received, _: bar.update(task, completed=received))
    if as_json:
        console.print_json(
            {"path": str(made.path), "bytes": made.bytes, "written": made.versions, "damaged": made.damaged}
        )
    else:
        size = console.size(made.bytes)
        console.out().print(f"{made.path} has {len(made.versions)} verified versions ({size}).", markup=False)
    console.print_notes(f"{version} is damaged and was left out: {why}" for version, why in made.damaged.items())
    if made.damaged:
        raise typer.Exit(1)


def restore(
    source: Annotated[Path, typer.Argument(metavar="FOLDER|FILE.tar", help="A backup.")],
    store: options.StorePath = options.DEFAULT_STORE,
    as_json: options.Json = False,
) -> None:
    """Copy a backup to where the store is to be, and verify it. There may be no store yet."""
    run_store("restore", source, store, as_json=as_json)


def run_store(command: str, *paths: Path, as_json: bool) -> None:
    """Become the program that copies stores: it needs PyTorch, which commands do without."""
    sys.stdout.flush()
    words = [*OUR_MODULE, "model_store", command, *(["--json"] if as_json else []), "--", *map(str, paths)]
    os.execve(sys.executable, words, our_environment())  # noqa: S606 - our own module


def report_pruned(pruned: Pruned) -> None:
    """Print what became of every version, and what that saved."""
    verb = "would be removed" if pruned["dry_run"] else "removed"
    made = console.table("version", "what", ">size")
    for gone in pruned["removed"]:
        made.add_row(gone["version_id"], verb, console.size(gone["bytes"]))
    for kept in pruned["kept"]:
        made.add_row(kept["version_id"], f"kept: {escape(kept['because'])}", "")
    console.print_table(made)
    count = len(pruned["removed"])
    console.out().print(f"{count} version{'s' * (count != 1)} {verb}, {console.size(pruned['bytes'])}.")


def report_verified(found: Sequence[Verified]) -> None:
    """Print what was found of every version."""
    made = console.table("version", "files", "answers", "")
    for each in found:
        made.add_row(each["version_id"], each["files"], each["answers"], "ok" if each["ok"] else "[red]not ok")
    console.print_table(made)
    console.print_notes(f"{each['version_id']}: {each['problem']}" for each in found if each["problem"])
