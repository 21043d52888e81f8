"""`python -m model_store backup|restore`: copies of a store on this machine, for `keepsight backup` and `restore`."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress

from model_store.backup import Copied, OnVersion, back_up, back_up_to_tar, restore
from model_store.types import StoreError

DAMAGED = 1
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
AsJson = Annotated[bool, typer.Option("--json")]


@app.command("backup")
def backup_command(store: Path, target: Path, as_json: AsJson = False) -> None:
    """Copy the store to a folder, or to a file whose name ends with .tar."""
    copy = back_up_to_tar if target.suffix == ".tar" else back_up
    with _bar("backup") as on_version:
        done = copy(store, target, on_version=on_version)
    _report(done, target, as_json=as_json)


@app.command("restore")
def restore_command(backup: Path, store: Path, as_json: AsJson = False) -> None:
    """Copy a backup to where the store is to be."""
    with _bar("restore") as on_version:
        done = restore(backup, store, on_version=on_version)
    _report(done, store, as_json=as_json)


@contextmanager
def _bar(what: str) -> Iterator[OnVersion]:
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bars:
        task = bars.add_task(what, total=None)
        yield lambda done, of: bars.update(task, completed=done, total=of)


def _report(done: Copied, target: Path, *, as_json: bool) -> None:
    if as_json:
        sys.stdout.write(json.dumps({**asdict(done), "path": str(target)}, indent=2) + "\n")
    else:
        count = len(done.written) + len(done.kept)
        print(f"{target} has {count} verified versions, {len(done.written)} of them new ({done.bytes / 1e6:.1f} MB).")
        if done.removed:
            print(f"{len(done.removed)} versions were pruned from the store since, and were removed from the backup.")
    for version, problem in done.damaged.items():
        sys.stderr.write(f"keepsight: {version} is damaged and was left out: {problem}\n")
    if done.damaged:
        raise typer.Exit(DAMAGED)


def main() -> None:
    """Run a command. Errors are one sentence on stderr."""
    os.umask(0o077)  # versions hold statistics of people's images
    try:
        app()
    except StoreError as error:
        sys.stderr.write(f"keepsight: {error}\n")
        sys.exit(1)


if __name__ == "__main__":
    main()
