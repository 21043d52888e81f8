"""Options that several commands share, and the client that they configure."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from keepsight.client import Client

DEFAULT_STORE = Path("var/store")

Url = Annotated[str, typer.Option("--url", envvar="KEEPSIGHT_URL", help="Address of the service.")]
ApiKey = Annotated[
    str | None,
    typer.Option("--api-key", envvar="KEEPSIGHT_API_KEY", help="API key, if the service requires one."),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout, and nothing else.")]
Wait = Annotated[bool, typer.Option("--wait/--no-wait", help="Follow the job to its end.")]
Reason = Annotated[str, typer.Option("--reason", "-r", help="The reason, kept in the store's journal.")]
StorePath = Annotated[
    Path, typer.Option("--store", envvar="KEEPSIGHT_STORE", help="The store's folder; logs and spool lie beside it.")
]
KeysPath = Annotated[Path, typer.Option("--keys-file", envvar="KEEPSIGHT_KEYS_FILE", help="The key file.")]

URL = "http://127.0.0.1:8000"
KEYS_FILE = Path("var/keys.json")


def connect(url: str, api_key: str | None) -> Client:
    """Return a client for the shared options; imported here so that `--help` needs no HTTP library."""
    from keepsight.client import Client

    return Client(url, api_key=api_key)
