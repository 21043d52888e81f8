"""Several servers on one store: they move together or not at all."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
from starlette.testclient import TestClient

from app.services import Services
from app.settings import Settings
from exchange.roster import Roster
from model_store.store import Store
from model_store.types import VersionId
from segp_cl.errors import KeepsightError
from tests.waiting import wait_until

Teach = Callable[..., VersionId]
Serve = Callable[[Settings], TestClient]
Configure = Callable[..., Settings]


def services_of(client: TestClient) -> Services:
    app: Any = client.app
    services: Services = app.state.services
    return services


def processes(client: TestClient) -> dict[str, Any]:
    return {process["id"]: process for process in client.get("/v1/admin/rollout").json()["processes"]}


@pytest.fixture
def pair(configure: Configure, serve: Serve) -> tuple[TestClient, TestClient]:
    return serve(configure()), serve(configure())


def test_every_process_is_shown_and_one_that_stops_is_gone(
    configure: Configure, serve: Serve, store: Store, pair: tuple[TestClient, TestClient]
) -> None:
    first, second = pair
    ids = [services_of(client).member.id for client in pair]
    wait_until(lambda: set(processes(first)) == set(ids))
    shown = processes(second)[ids[0]]
    assert (shown["serving"], shown["state"], shown["device"], shown["reason"]) == (
        store.current(), "serving", "cpu", None,
    )  # fmt: skip
    assert shown["seen_s"] < 5
    third = serve(configure())
    wait_until(lambda: len(processes(first)) == 3)
    third.__exit__(None, None, None)
    assert set(processes(first)) == set(ids)
    third.__enter__()


def test_a_process_that_falls_silent_is_shown_as_dead(configure: Configure, serve: Serve) -> None:
    client = serve(configure(server_lost_after_s=1.5))
    services = services_of(client)
    roster = Roster(services.settings.redis_url, services.store.identity())
    ghost = roster.servers()[0].report.model_copy(update={"id": "ghost"})

    def seen_after_a_report() -> str:
        roster.report(ghost)
        return str(processes(client)["ghost"]["state"])

    wait_until(lambda: seen_after_a_report() == "serving")  # a busy machine may pause for longer than it takes to die
    wait_until(lambda: processes(client)["ghost"]["state"] == "dead")
    assert processes(client)[services.member.id]["state"] == "serving"
    roster.close()


def test_a_move_is_answered_when_all_servers_serve_it(
    pair: tuple[TestClient, TestClient], store: Store, teach: Teach
) -> None:
    first, second = pair
    version = teach("cat", promote=False)
    moved = first.post("/v1/admin/promote", json={"version_id": version}).json()
    assert services_of(second).live.version_id == version == moved["serving"]
    assert moved["prepare_s"] > 0
    assert moved["commit_s"] > 0
    before = store.lineage()[1].version_id
    assert second.post("/v1/admin/rollback", json={}).json()["to"] == before
    assert services_of(first).live.version_id == before


def test_what_one_server_cannot_load_is_served_by_none(
    pair: tuple[TestClient, TestClient], store: Store, teach: Teach, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = pair
    good, bad = store.current(), teach("cat", promote=False)
    watcher = services_of(second).watcher

    def broken(version_id: VersionId) -> Any:
        raise KeepsightError("no memory is left")

    with monkeypatch.context() as patch:
        patch.setattr(watcher, "_load", broken)
        response = first.post("/v1/admin/promote", json={"version_id": bad})
    assert response.status_code == 409, response.text
    assert response.json()["type"] == "urn:keepsight:problem:rollout-refused"
    assert f"{services_of(second).member.id}: no memory is left" in response.json()["detail"]
    assert store.current() == good
    for client in pair:
        assert services_of(client).live.version_id == good
        assert client.get("/readyz").json()["behind"] is None
    wait_until(lambda: {process["state"] for process in processes(first).values()} == {"serving"})
    wait_until(lambda: services_of(first).watcher.prepared is None)
    assert first.post("/v1/admin/promote", json={"version_id": bad}).status_code == 200


def test_a_server_that_was_left_out_answers_nobody_until_it_has_caught_up(
    configure: Configure, serve: Serve, store: Store, teach: Teach, picture: Callable[..., bytes], monkeypatch: Any
) -> None:
    client = serve(configure())
    teach("cat")
    wait_until(lambda: services_of(client).live.version_id == store.current())
    services = services_of(client)
    loading, go_on = threading.Event(), threading.Event()
    load = services.watcher._load

    def slowly(version_id: VersionId) -> Any:
        loading.set()
        go_on.wait(10)
        return load(version_id)

    monkeypatch.setattr(services.watcher, "_load", slowly)
    newer = teach("cat", "dog", promote=False)
    # the others' move, of which this server heard nothing while it was away
    roster = Roster(services.settings.redis_url, store.identity())
    monkeypatch.setattr(services.member, "_heed", lambda move: None)
    move = roster.begin(newer, hold_s=10)
    assert move is not None
    roster.commit(move, ("another",))
    store.promote(newer, expected=store.current(), who="test")
    roster.end(move, abandoned=False)
    assert loading.wait(5)
    response = client.post("/v1/classify", files={"images": picture(1)})
    assert (response.status_code, response.json()["type"]) == (503, "urn:keepsight:problem:stale")
    assert response.headers["retry-after"] == "1"
    assert client.get("/readyz").status_code == 503
    go_on.set()
    wait_until(lambda: client.get("/readyz").status_code == 200)
    assert client.post("/v1/classify", files={"images": picture(1)}).json()["model_version"] == newer
    roster.close()


def test_a_server_that_was_stopped_for_long_answers_nobody_before_it_has_looked(
    configure: Configure, serve: Serve, teach: Teach, picture: Callable[..., bytes], monkeypatch: Any
) -> None:
    client = serve(configure())
    version = teach("cat")
    services = services_of(client)
    wait_until(lambda: services.live.version_id == version)
    real = services.live._clock

    async def asleep() -> VersionId | None:
        return version

    monkeypatch.setattr(services.watcher, "_read", asleep)
    stopped_s = [0.0]
    monkeypatch.setattr(services.live, "_clock", lambda: real() + stopped_s[0])

    def refused() -> bool:
        stopped_s[0] += 60  # once more, should a look that was under way have ended in between
        response = client.post("/v1/classify", files={"images": picture(1)})
        return bool(response.json().get("type") == "urn:keepsight:problem:stale")

    wait_until(refused)
    monkeypatch.undo()
    wait_until(lambda: client.post("/v1/classify", files={"images": picture(1)}).status_code == 200)


def test_moves_go_on_without_redis_and_say_what_they_took(configure: Configure, serve: Serve, teach: Teach) -> None:
    client = serve(configure(redis_url="redis://127.0.0.1:1/0"))
    version = teach("cat", promote=False)
    moved = client.post("/v1/admin/promote", json={"version_id": version}).json()
    assert moved["serving"] == version
    assert moved["prepare_s"] > 0
    response = client.get("/v1/admin/rollout")
    assert (response.status_code, response.json()["type"]) == (503, "urn:keepsight:problem:broker-unavailable")
