"""The store is sent as a file while it is used."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import httpx
import pytest
from starlette.testclient import TestClient

from app.settings import Settings
from keepsight.client import ApiError, AsyncClient, Client
from keepsight.client.downloads import BackupFile
from model_store.backup import restore
from model_store.store import Store
from model_store.types import VersionId
from tests.waiting import wait_until

Teach = Callable[..., VersionId]
Configure = Callable[..., Settings]
Serve = Callable[[Settings], TestClient]
Listen = Callable[[Settings], str]


@pytest.fixture
def address(configure: Configure, serve: Serve, listen: Listen, teach: Teach) -> str:
    serve(configure()).get("/healthz")  # makes version 1
    teach("cat", "dog")
    return listen(configure())


def test_both_clients_fetch_what_is_restored(address: str, store: Store, tmp_path: Path) -> None:
    seen: list[int] = []
    with Client(address) as client:
        made = client.backup(tmp_path / "a.tar", on_bytes=lambda received, _: seen.append(received))
    assert made.bytes == seen[-1] == (tmp_path / "a.tar").stat().st_size
    assert made.versions == tuple(manifest.version_id for manifest in store.list())
    assert made.damaged == {}
    assert restore(tmp_path / "a.tar", tmp_path / "restored").current == store.current()

    async def fetch() -> None:
        async with AsyncClient(address) as client:
            assert (await client.backup(tmp_path / "b.tar")).versions == made.versions

    asyncio.run(fetch())


def test_one_is_sent_at_a_time_and_a_client_that_hangs_up_lets_the_next_begin(address: str, store: Store) -> None:
    folder = store.root / "evaluations" / str(store.current())
    folder.mkdir(parents=True)
    for number in range(40):  # more than the buffers between hold
        (folder / f"{number:064x}.json").write_bytes(b"x" * 1024 * 1024)
    with httpx.stream("GET", f"{address}/v1/admin/backup") as first:
        assert (first.status_code, first.headers["content-type"]) == (200, "application/x-tar")
        pieces = first.iter_raw()  # closes the connection once nothing holds it
        next(pieces)
        second = httpx.get(f"{address}/v1/admin/backup")
        assert (second.status_code, second.json()["type"]) == (503, "urn:keepsight:problem:store-busy")

    def again() -> bool:
        with httpx.stream("GET", f"{address}/v1/admin/backup") as answer:
            return answer.status_code == 200

    wait_until(again)


def test_an_answer_that_is_no_whole_backup_is_not_kept(tmp_path: Path) -> None:
    cut = httpx.MockTransport(lambda request: httpx.Response(200, content=b"half a tar"))
    client = Client("http://service")
    client._http = httpx.Client(transport=cut, base_url="http://service")
    with pytest.raises(ApiError, match="no backup"):
        client.backup(tmp_path / "a.tar")
    assert [*tmp_path.iterdir()] == []


def test_what_is_no_backup_does_not_replace_an_earlier_one(tmp_path: Path) -> None:
    """A proxy may answer with a page of its own."""
    kept = tmp_path / "backup.tar"
    kept.write_bytes(b"an earlier one")
    answer = httpx.MockTransport(lambda request: httpx.Response(200, text="<html>please sign in</html>"))
    with Client("http://127.0.0.1:1", transport=answer) as client, pytest.raises(ApiError, match="sent no backup"):
        client.backup(kept)
    assert [path.name for path in tmp_path.iterdir()] == ["backup.tar"]
    assert kept.read_bytes() == b"an earlier one"


def test_the_asynchronous_client_reads_and_writes_files_outside_the_event_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[threading.Thread] = []

    def checked(part: Path, response: httpx.Response) -> BackupFile:
        threads.append(threading.current_thread())
        return BackupFile(part, part.stat().st_size, (), {})

    monkeypatch.setattr("keepsight.client.async_client.check_backup", checked)

    async def fetch(answer: httpx.Response) -> None:
        transport = httpx.MockTransport(lambda request: answer)
        async with AsyncClient("http://127.0.0.1:1", transport=transport) as client:
            made = await client.backup(tmp_path / "a.tar")
            assert (made.path, made.bytes) == (tmp_path / "a.tar", 5)

    asyncio.run(fetch(httpx.Response(200, content=b"whole")))
    assert threads
    assert threading.main_thread() not in threads
    assert (tmp_path / "a.tar").read_bytes() == b"whole"


def test_the_asynchronous_client_keeps_nothing_of_a_backup_that_is_given_up(tmp_path: Path) -> None:
    async def endless(request: httpx.Request) -> httpx.Response:
        async def pieces() -> AsyncIterator[bytes]:
            while True:
                yield b"x" * 1024
                await asyncio.sleep(0.01)

        return httpx.Response(200, content=pieces())

    async def give_up() -> None:
        async with AsyncClient("http://127.0.0.1:1", transport=httpx.MockTransport(endless)) as client:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.3):
                    await client.backup(tmp_path / "a.tar")

    asyncio.run(give_up())
    assert [*tmp_path.iterdir()] == []
