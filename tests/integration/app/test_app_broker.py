"""A server whose broker stalls or answers with errors."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping

import httpx
import pytest
from starlette.testclient import TestClient

from app.settings import Settings
from model_store.store import Store
from model_store.types import VersionId
from tests.broker_proxy import REPLIES, BrokerProxy, always, to
from tests.waiting import wait_until

Configure = Callable[..., Settings]
Archive = Callable[[Mapping[str, int]], bytes]


@pytest.fixture
def proxy(redis_url: str) -> Iterator[BrokerProxy]:
    with BrokerProxy(redis_url) as proxy:
        yield proxy


def test_streams_and_polls_of_a_stalled_broker_hold_up_no_large_body(
    proxy: BrokerProxy,
    configure: Configure,
    listen: Callable[[Settings], str],
    archive: Archive,
    picture: Callable[..., bytes],
) -> None:
    url = listen(configure(redis_url=proxy.url))
    task = {"archive": archive({"cat": 1})}
    job_id = httpx.post(f"{url}/v1/tasks", files=task, data={"name": "t"}, timeout=60).json()["job_id"]
    opened, over = threading.Semaphore(0), threading.Event()

    def follow() -> None:
        with httpx.stream("GET", f"{url}/v1/jobs/{job_id}/events", timeout=60) as response:
            for _ in response.iter_lines():
                opened.release()

    def poll() -> None:
        while not over.is_set():
            status = httpx.get(f"{url}/v1/jobs/{job_id}", timeout=120).status_code
            assert status in (200, 503)

    threads = [threading.Thread(target=follow, daemon=True) for _ in range(20)]
    for thread in threads:
        thread.start()
    for _ in range(20):
        assert opened.acquire(timeout=30)
    pollers = [threading.Thread(target=poll, daemon=True) for _ in range(20)]
    proxy.silent.set()
    for poller in pollers:
        poller.start()
    time.sleep(1)
    image = picture(1, kind="BMP", size=(600, 600))  # above a megabyte
    for _ in range(3):
        begun = time.monotonic()
        answer = httpx.post(f"{url}/v1/classify", files={"images": image}, data={"labels": ["a", "b"]}, timeout=120)
        assert answer.status_code == 200
        assert time.monotonic() - begun < 20  # it takes a fraction of a second; a call to the broker takes six
    assert httpx.get(f"{url}/v1/versions", timeout=60).status_code == 200
    over.set()
    proxy.silent.clear()
    proxy.drop()
    for poller in pollers:
        poller.join(60)
    wait_until(lambda: httpx.delete(f"{url}/v1/jobs/{job_id}", timeout=60).status_code == 202)
    for thread in threads:  # each sees the end of its job
        thread.join(60)
        assert not thread.is_alive()


@pytest.mark.parametrize("trouble", ["READONLY", "OOM", "MISCONF", "NOREPLICAS", "LOADING"])
def test_a_broker_that_answers_with_errors_is_told_as_503_and_current_moves(
    proxy: BrokerProxy,
    configure: Configure,
    serve: Callable[[Settings], TestClient],
    store: Store,
    teach: Callable[..., VersionId],
    archive: Archive,
    picture: Callable[..., bytes],
    trouble: str,
) -> None:
    client = serve(configure(redis_url=proxy.url))
    first = store.current()
    second = teach("cat", "dog")
    wait_until(lambda: client.get("/readyz").json()["serving"] == second)
    made = client.post("/v1/tasks", files={"archive": archive({"owl": 1})}, data={"name": "t"}).json()["job_id"]
    # as brokers do: a loading one refuses everything, the others refuse what writes
    proxy.fault = always(REPLIES[trouble]) if trouble == "LOADING" else to(REPLIES[trouble], "EVAL", "SET", "LPUSH")
    refused = client.post("/v1/tasks", files={"archive": archive({"jay": 1})}, data={"name": "t"})
    cancelled = client.delete(f"/v1/jobs/{made}")
    for response in (refused, cancelled):
        assert response.status_code == 503
        assert response.headers["Retry-After"]
        assert response.json()["type"] == "urn:keepsight:problem:broker-unavailable"
    assert client.post("/v1/classify", files={"images": picture(1)}).status_code == 200
    assert client.post("/v1/admin/rollback", json={}).json()["to"] == first
    assert client.post("/v1/admin/promote", json={"version_id": second}).json()["to"] == second
    proxy.fault = None
    assert client.get(f"/v1/jobs/{made}").json()["state"] == "queued"
    assert [path.name for path in configure().spool.iterdir()] == [made]
