"""Keys: those that were seen once are asked for ever after, and scopes are checked before bodies are read."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from app.settings import Settings
from keepsight.keys import MARKER, KeyFile
from model_store.store import Store
from tests.waiting import wait_until

Configure = Callable[..., Settings]
Serve = Callable[[Settings], TestClient]


def status(client: TestClient, token: str = "") -> int:
    return client.get("/v1/versions", headers={"Authorization": f"Bearer {token}"} if token else {}).status_code


def removed(path: Path) -> None:
    path.unlink()


def emptied(path: Path) -> None:
    path.write_text("")


def without_keys(path: Path) -> None:
    path.write_text('{"format": 1, "keys": []}')


def not_json(path: Path) -> None:
    path.write_text("{" * 100_000)


def a_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def a_link_to_nowhere(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.with_name("gone"))


def a_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def enormous(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(2**40)


def not_utf_8(path: Path) -> None:
    path.write_bytes(b"\xff\xfe")


def the_whole_folder_removed(path: Path) -> None:
    shutil.rmtree(path.parent)


@pytest.mark.parametrize(
    "fault",
    [removed, emptied, without_keys, not_json, a_directory, a_link_to_nowhere, a_pipe, enormous, not_utf_8,
     the_whole_folder_removed],
)  # fmt: skip
def test_keys_that_were_seen_once_are_asked_for_ever_after(
    fault: Callable[[Path], None], configure: Configure, serve: Serve, tmp_path: Path
) -> None:
    settings = configure(keys_file=tmp_path / "keys" / "keys.json")
    client = serve(settings)
    assert status(client) == 200
    token = KeyFile(settings.keys_file).create("ada", ["admin"]).token
    assert (status(client), status(client, token)) == (401, 200)

    fault(settings.keys_file)
    answer = client.get("/v1/versions")
    assert (answer.status_code, answer.json()["type"]) == (503, "urn:keepsight:problem:keys-unreadable")
    assert answer.headers["retry-after"]
    assert status(client, token) == 503
    assert client.get("/healthz").status_code == 200
    again = serve(settings)
    assert status(again) == 503, "a new process asks the store"

    (shutil.rmtree if settings.keys_file.is_dir() else lambda path: path.unlink(missing_ok=True))(settings.keys_file)
    new = KeyFile(settings.keys_file).create("ada", ["admin"]).token
    assert (status(client), status(client, token), status(client, new)) == (401, 401, 200)


def test_revoked_keys_are_still_keys(client: TestClient, configure: Configure) -> None:
    keys = KeyFile(configure().keys_file)
    keys.revoke(keys.create("ada", ["admin"]).key.id)
    assert status(client) == 401


def test_keys_are_remembered_though_nobody_asked_while_they_were_there(
    client: TestClient, configure: Configure, store: Store
) -> None:
    settings = configure()
    KeyFile(settings.keys_file).create("ada", ["admin"])
    wait_until(lambda: (settings.store / MARKER).exists())
    settings.keys_file.unlink()
    assert status(client) == 503


def test_a_store_that_cannot_be_written_leaves_the_process_its_own_memory(
    client: TestClient, configure: Configure, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    settings = configure()

    def read_only(self: Path, *args: object, **options: object) -> None:
        raise OSError(30, "Read-only file system")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", read_only)
        KeyFile(settings.keys_file).create("ada", ["admin"])
        assert status(client) == 401
    assert "cannot remember" in caplog.text
    settings.keys_file.unlink()
    assert not (settings.store / MARKER).exists()
    assert status(client) == 503


def test_a_store_may_be_made_to_forget_its_keys(client: TestClient, configure: Configure, serve: Serve) -> None:
    settings = configure()
    keys = KeyFile(settings.keys_file, store=settings.store)
    keys.create("ada", ["admin"])
    assert status(client) == 401
    settings.keys_file.unlink()
    assert keys.forget()
    assert not keys.forget()
    assert status(client) == 503, "the process remembers"
    assert status(serve(settings)) == 200


BODIES = [
    ("/v1/classify", "classify"),
    ("/v1/embeddings", "classify"),
    ("/v2/models/keepsight/infer", "classify"),
    ("/v2/models/keepsight/versions/x/infer", "classify"),
    ("/v1/tasks", "train"),
    ("/v1/corrections", "train"),
    ("/v1/corrections/learn", "train"),
    ("/v1/versions/merge", "train"),
    ("/v1/classes/merge", "train"),
    ("/v1/classes/preview", "train"),
    ("/v1/classes/x/replace", "train"),
    ("/v1/versions/x/pin", "admin"),
    ("/v1/admin/prune", "admin"),
    ("/v1/evaluations", "train"),
    ("/v1/test-sets/x", "admin"),
    ("/v1/admin/promote", "admin"),
    ("/v1/admin/rollback", "admin"),
]


@pytest.mark.parametrize(("path", "scope"), BODIES)
@pytest.mark.parametrize("kind", ["application/json", "multipart/form-data; boundary=b", "image/png"])
def test_a_caller_without_the_scope_is_refused_before_the_body_is_read(
    client: TestClient, configure: Configure, path: str, scope: str, kind: str
) -> None:
    keys = KeyFile(configure().keys_file)
    others = [each for each in ("classify", "train", "admin") if each != scope]
    wrong = keys.create("wrong", others).token
    assert asyncio.run(ask_without_a_body(client, path, kind, None)) == 401
    assert asyncio.run(ask_without_a_body(client, path, kind, "ks_unknown")) == 401
    assert asyncio.run(ask_without_a_body(client, path, kind, "ks_" + "x" * 50_000)) == 401
    assert asyncio.run(ask_without_a_body(client, path, kind, wrong)) == 403


async def ask_without_a_body(client: TestClient, path: str, kind: str, token: str | None) -> int:
    """The status of a request whose body never comes; reading it fails the test."""
    method = "PUT" if "/test-sets/" in path else "POST"
    headers = [(b"host", b"127.0.0.1"), (b"content-type", kind.encode()), (b"content-length", b"1000000")]
    if token is not None:
        headers.append((b"authorization", f"Bearer {token}".encode()))
    scope = {
        "type": "http", "method": method, "path": path, "raw_path": path.encode(), "root_path": "", "scheme": "http",
        "query_string": b"", "headers": headers, "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 8000),
        "http_version": "1.1", "asgi": {"version": "3.0"}, "state": {},
    }  # fmt: skip
    found: list[int] = []

    async def receive() -> dict[str, Any]:
        raise AssertionError("the body was asked for")

    async def send(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            found.append(message["status"])

    app: Any = client.app
    await app(scope, receive, send)
    return found[0]


@pytest.mark.parametrize("path", ["/v1/versions", "/metrics", "/readyz", "/v2/health/ready", "/v1/jobs"])
def test_without_keys_what_was_forwarded_is_refused_and_with_keys_it_is_not(
    client: TestClient, configure: Configure, path: str
) -> None:
    through_a_proxy = {"X-Forwarded-For": "203.0.113.9"}
    assert client.get(path).status_code == 200
    answer = client.get(path, headers=through_a_proxy)
    assert (answer.status_code, answer.json()["type"]) == (403, "urn:keepsight:problem:forbidden")
    assert "keepsight keys create" in answer.json()["detail"]
    for alive in ("/healthz", "/v2/health/live"):
        assert client.get(alive, headers=through_a_proxy).status_code == 200
    token = KeyFile(configure().keys_file).create("ada", ["classify", "train"]).token
    assert client.get(path, headers=through_a_proxy | {"X-API-Key": token}).status_code == 200
