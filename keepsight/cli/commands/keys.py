"""`keepsight keys`: create, list, revoke and forget API keys. Needs no running service."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from keepsight.cli import console, options
from keepsight.cli.console import moment, table
from keepsight.cli.errors import CommandError
from keepsight.keys import SCOPES, Key, KeyFile, KeyFileError

app = typer.Typer(help="Create, list, revoke and forget API keys.", no_args_is_help=True, rich_markup_mode=None)

Store = Annotated[
    Path | None,
    typer.Option(
        "--store", envvar="KEEPSIGHT_STORE", help="The service's store; without it, `store` beside the key file."
    ),
]


@app.command("create")
def create(
    name: Annotated[str, typer.Argument(help="The key's owner, named in the journal.")],
    scopes: Annotated[str, typer.Option("--scopes", "-s", help="Comma-separated: what the key allows.")] = ",".join(
        SCOPES
    ),
    keys_file: options.KeysPath = options.KEYS_FILE,
    store: Store = None,
    as_json: options.Json = False,
) -> None:
    """Create a key and print it once. As soon as a key exists, the service requires one, and from then on."""
    try:
        created = KeyFile(keys_file, store=store_of(keys_file, store)).create(
            name, [s.strip() for s in scopes.split(",") if s.strip()]
        )
    except KeyFileError as error:
        raise CommandError(str(error)) from error
    if as_json:
        console.print_json({**describe(created.key), "token": created.token})
        return
    console.err().print(
        f"Key {created.key.id} for {created.key.name} ({', '.join(created.key.scopes)}) is in {keys_file}. "
        "Keep it now; it is not shown again:",
        markup=False,
    )
    console.out().print(created.token, markup=False)


@app.command("list")
def list_keys(keys_file: options.KeysPath = options.KEYS_FILE, as_json: options.Json = False) -> None:
    """List the keys, without their tokens."""
    try:
        keys = KeyFile(keys_file).list()
    except KeyFileError as error:
        raise CommandError(str(error)) from error
    if as_json:
        console.print_json({"keys": [describe(key) for key in keys]})
        return
    made = table("id", "name", "scopes", "created", "revoked")
    for key in keys:
        made.add_row(key.id, key.name, ", ".join(key.scopes), moment(key.created_at), moment(key.revoked_at))
    console.print_table(made)


@app.command("revoke")
def revoke(
    key_id: Annotated[str, typer.Argument(metavar="ID", help="The key's id, from `keepsight keys list`.")],
    keys_file: options.KeysPath = options.KEYS_FILE,
    as_json: options.Json = False,
) -> None:
    """Revoke a key from now on."""
    try:
        key = KeyFile(keys_file).revoke(key_id)
    except KeyFileError as error:
        raise CommandError(str(error)) from error
    if as_json:
        console.print_json(describe(key))
    else:
        console.out().print(f"Key {key.id} ({key.name}) is revoked.", markup=False)


@app.command("forget")
def forget(
    yes: Annotated[bool, typer.Option("--yes", help="Really let everybody on this machine in.")] = False,
    keys_file: options.KeysPath = options.KEYS_FILE,
    store: Store = None,
    as_json: options.Json = False,
) -> None:
    """Let the store forget that there were keys, so that a service on loopback does without them again."""
    if not yes:
        raise CommandError("the service would then answer everybody on this machine; if you want that, say --yes")
    try:
        known = KeyFile(keys_file, store=store_of(keys_file, store)).forget()
    except KeyFileError as error:
        raise CommandError(str(error)) from error
    if as_json:
        console.print_json({"forgotten": known})
        return
    where = store_of(keys_file, store)
    said = "Forgotten; restart the service." if known else f"The store {where} remembers no keys."
    console.out().print(said, markup=False)


def store_of(keys_file: Path, store: Path | None) -> Path:
    """Return the store that remembers the keys of a file."""
    return keys_file.parent / "store" if store is None else store


def describe(key: Key) -> dict[str, object]:
    """Return a key without its hash."""
    return {
        "id": key.id,
        "name": key.name,
        "scopes": list(key.scopes),
        "created_at": key.created_at,
        "revoked_at": key.revoked_at,
    }
