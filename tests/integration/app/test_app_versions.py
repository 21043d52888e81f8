from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from starlette.testclient import TestClient

from app.settings import Settings
from model_store.store import Store
from model_store.types import Provenance, StoreFullError, VersionId
from segp_cl.learn.learner import initial_state
from segp_cl.models.backbone import Backbone
from tests.tolerances import FLOAT32_REORDERED
from tests.waiting import wait_until

Teach = Callable[..., VersionId]
Picture = Callable[..., bytes]
Serve = Callable[[Settings], TestClient]
Configure = Callable[..., Settings]


def serving(client: TestClient) -> str:
    return str(client.get("/readyz").json().get("serving"))


def labels_of(answer: Any) -> list[str]:
    return [prediction["label"] for prediction in answer["results"][0]["predictions"]]


def numbers_of(answer: Any) -> list[float]:
    names = ("score", "text_score", "visual_score", "fused_score", "probability")
    return [prediction[name] for prediction in answer["results"][0]["predictions"] for name in names]


def classify(client: TestClient, image: bytes, **fields: str) -> Any:
    return client.post("/v1/classify", files={"images": image}, data={"top_k": "10", **fields})


def refused(response: Any, status: int, kind: str) -> Any:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json()["type"] == f"urn:keepsight:problem:{kind}"
    return response.json()


def test_an_empty_store_gets_version_one_without_classes(client: TestClient, store: Store) -> None:
    listed = client.get("/v1/versions").json()
    assert listed["current"] == listed["serving"] == store.current()
    (first,) = listed["versions"]
    assert (first["number"], first["parent"], first["classes"], first["tasks"], first["pinned"]) == (
        1,
        None,
        0,
        0,
        False,
    )
    assert client.get("/v1/classes").json() == {"model_version": first["version_id"], "classes": []}


def test_the_store_s_versions_and_manifests_are_shown(client: TestClient, store: Store, teach: Teach) -> None:
    second = teach("cat", "dog")
    store.pin(second, who="test")
    wait_until(lambda: serving(client) == second)
    versions = client.get("/v1/versions").json()["versions"]
    assert [v["number"] for v in versions] == [1, 2]
    assert (versions[1]["parent"], versions[1]["classes"], versions[1]["pinned"]) == (
        versions[0]["version_id"],
        2,
        True,
    )
    manifest = client.get(f"/v1/versions/{second}").json()
    assert manifest == store.manifest(second).model_dump(mode="json")
    classes = client.get("/v1/classes").json()
    assert classes["model_version"] == second
    assert classes["classes"][0] == {"name": "cat", "prompt": "a photo of a cat.", "task": 1, "images": 5}


@pytest.mark.parametrize("version", ["000099-0123456789ab", "nope", "..%2f..%2fCURRENT"])
def test_an_unknown_version_is_not_found_anywhere(client: TestClient, store: Store, version: str) -> None:
    assert client.get(f"/v1/versions/{version}").status_code == 404
    before = store.current()
    for move in ("rollback", "promote"):
        response = client.post(f"/v1/admin/{move}", json={"version_id": version, "reason": "test"})
        refused(response, 404, "version-not-found")
    assert store.current() == before


def test_a_rollback_answers_once_the_older_version_is_served_and_restores_every_bit(
    client: TestClient, store: Store, teach: Teach, picture: Picture
) -> None:
    older = teach("cat", "dog", seed=1)
    wait_until(lambda: serving(client) == older)
    before = classify(client, picture(1)).json()
    newer = teach("cat", "dog", "fox", seed=2)
    wait_until(lambda: serving(client) == newer)
    assert classify(client, picture(1)).json()["results"] != before["results"]
    response = client.post("/v1/admin/rollback", json={"version_id": None, "reason": "fox is wrong"})
    moved = response.json()
    assert (moved["from"], moved["to"], moved["serving"]) == (newer, older, older)
    assert classify(client, picture(1)).json() == before
    entry = store.journal()[-1]
    assert (entry.action, entry.from_, entry.to, entry.reason, entry.who) == (
        "rollback", newer, older, "fox is wrong", "local",
    )  # fmt: skip
    forward = client.post("/v1/admin/promote", json={"version_id": newer, "reason": "fox was right"})
    assert (forward.json()["from"], forward.json()["serving"]) == (older, newer)


def test_there_is_nothing_before_the_first_version(client: TestClient) -> None:
    refused(client.post("/v1/admin/rollback", json={}), 409, "nothing-to-roll-back-to")


def test_a_move_from_another_version_than_expected_is_a_conflict(
    client: TestClient, store: Store, teach: Teach
) -> None:
    first = store.current()
    second = teach("cat", promote=False)
    body = {"version_id": second, "expected": "000007-0123456789ab"}
    refused(client.post("/v1/admin/promote", json=body), 409, "pointer-moved")
    refused(client.post("/v1/admin/rollback", json=body), 409, "pointer-moved")
    assert store.current() == first == serving(client)


@pytest.mark.parametrize("file", ["tensors.safetensors", "manifest.json"])
@pytest.mark.parametrize("move", ["rollback", "promote"])
def test_a_damaged_version_moves_nothing(
    client: TestClient, store: Store, teach: Teach, picture: Picture, file: str, move: str
) -> None:
    damaged = teach("cat", "dog", seed=1)
    good = teach("cat", "fox", seed=2)
    wait_until(lambda: serving(client) == good)
    path = store.root / "versions" / damaged / file
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.chmod(0o600)
    path.write_bytes(data)
    problem = refused(client.post(f"/v1/admin/{move}", json={"version_id": damaged}), 409, "version-corrupt")
    assert file in problem["detail"]
    assert store.current() == good == serving(client)
    assert classify(client, picture(1)).json()["model_version"] == good


def test_a_damaged_current_is_not_served_and_an_operator_can_go_back(
    client: TestClient, store: Store, teach: Teach, picture: Picture
) -> None:
    good = teach("cat", "dog", seed=1)
    wait_until(lambda: serving(client) == good)
    bad = teach("cat", "fox", seed=2, promote=False)
    path = store.root / "versions" / bad / "tensors.safetensors"
    store.promote(bad, expected=good, who="test")
    # damaged after the promotion: this server may or may not have loaded it before; a fresh one never can
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.chmod(0o600)
    path.write_bytes(data)
    response = client.post("/v1/admin/rollback", json={"version_id": good})
    assert response.json()["serving"] == good
    assert classify(client, picture(1)).json()["model_version"] == good


def cut(store: Store, version: VersionId) -> None:
    path = store.root / "versions" / version / "tensors.safetensors"
    path.chmod(0o600)
    path.write_bytes(path.read_bytes()[:-8])


def test_a_server_that_starts_on_a_damaged_current_serves_the_one_before_says_so_and_recovers(
    store: Store, teach: Teach, configure: Configure, serve: Serve, picture: Picture
) -> None:
    good = teach("cat", "dog", seed=1)
    bad = teach("cat", "fox", seed=2)
    cut(store, bad)
    fresh = serve(configure())
    ready = fresh.get("/readyz").json()
    assert ready["serving"] == good
    assert bad in ready["behind"]
    assert "tensors.safetensors" in ready["behind"]
    assert classify(fresh, picture(1)).json()["model_version"] == good
    assert fresh.post("/v1/admin/rollback", json={}).json()["serving"] == good
    assert fresh.get("/readyz").json()["behind"] is None


def test_a_server_that_starts_on_a_damaged_current_that_others_serve_does_not_answer_with_an_older_one(
    client: TestClient, store: Store, teach: Teach, configure: Configure, serve: Serve, picture: Picture
) -> None:
    good = teach("cat", "dog", seed=1)
    bad = teach("cat", "fox", seed=2)
    wait_until(lambda: serving(client) == bad)
    cut(store, bad)
    fresh = serve(configure())
    problem = refused(fresh.get("/readyz"), 503, "not-ready")
    assert bad in problem["detail"]
    assert "tensors.safetensors" in problem["detail"]
    assert refused(classify(fresh, picture(1)), 503, "not-ready")
    assert fresh.get("/healthz").status_code == 200
    assert fresh.post("/v1/admin/rollback", json={"version_id": good}).json()["serving"] == good
    assert fresh.get("/readyz").json()["behind"] is None
    assert classify(fresh, picture(1)).status_code == 200


def test_a_version_that_cannot_be_loaded_leaves_the_old_one_serving_and_is_shown(
    client: TestClient, store: Store, teach: Teach, tiny_backbone: Backbone, picture: Picture
) -> None:
    good = teach("cat", "dog")
    wait_until(lambda: serving(client) == good)
    foreign = replace(initial_state(tiny_backbone), weights_digest="0" * 64)
    manifest = store.publish(foreign, parent=good, provenance=Provenance(who="test"))
    refused(client.post("/v1/admin/promote", json={"version_id": manifest.version_id}), 409, "version-incompatible")
    assert store.current() == good
    store.promote(manifest.version_id, expected=good, who="test")
    wait_until(lambda: client.get("/readyz").json()["behind"] is not None)
    ready = client.get("/readyz").json()
    assert ready["serving"] == good
    assert "base weights" in ready["behind"]
    assert classify(client, picture(1)).json()["model_version"] == good
    assert "keepsight_version_load_failures_total 1.0" in client.get("/metrics").text
    assert client.post("/v1/admin/rollback", json={"version_id": good}).status_code == 200


def test_a_full_disk_moves_nothing(
    client: TestClient, store: Store, teach: Teach, picture: Picture, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = teach("cat")
    wait_until(lambda: serving(client) == good)
    other = teach("dog", promote=False)

    def full(*args: object, **kwargs: object) -> None:
        raise StoreFullError("no space is left in the store")

    with monkeypatch.context() as patch:
        patch.setattr(Store, "promote", full)
        response = client.post("/v1/admin/promote", json={"version_id": other})
    refused(response, 507, "store-full")
    assert response.headers["retry-after"]
    assert store.current() == good == serving(client)
    assert classify(client, picture(1)).status_code == 200


def test_a_swap_that_takes_too_long_is_said_and_happens_later(
    configure: Configure, serve: Serve, store: Store, teach: Teach, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = serve(configure(swap_timeout_s=2.0, poll_interval_s=0.05))
    version = teach("cat", promote=False)
    app: Any = client.app
    watcher = app.state.services.watcher
    look = watcher.look

    async def nothing() -> None:
        return

    monkeypatch.setattr(watcher, "look", nothing)
    problem = refused(client.post("/v1/admin/promote", json={"version_id": version}), 504, "swap-timeout")
    assert version in problem["detail"]
    assert store.current() == version
    monkeypatch.setattr(watcher, "look", look)
    wait_until(lambda: serving(client) == version)


def test_bodies_of_admin_requests_are_checked(client: TestClient) -> None:
    assert "version_id" in refused(client.post("/v1/admin/promote", json={}), 422, "invalid-request")["detail"]
    refused(client.post("/v1/admin/rollback", json={"version": "x"}), 422, "invalid-request")
    response = client.post("/v1/admin/rollback", content=b"x" * 2_000_000, headers={"content-type": "application/json"})
    refused(response, 413, "body-too-large")


def test_no_request_fails_and_no_answer_is_mixed_while_versions_move(
    client: TestClient, store: Store, teach: Teach, picture: Picture
) -> None:
    """A steady client during an update (by the store alone, noticed by the poll) and a rollback (by the API)."""
    image = picture(1)
    older = teach("cat", "dog", seed=1)
    wait_until(lambda: serving(client) == older)
    truth = {older: classify(client, image).json()}
    answers: list[Any] = []
    stop = threading.Event()

    def ask() -> None:
        while not stop.is_set():
            answers.append(classify(client, image))

    askers = [threading.Thread(target=ask) for _ in range(3)]
    for asker in askers:
        asker.start()
    time.sleep(0.3)
    newer = teach("cat", "dog", "fox", seed=2)
    wait_until(lambda: serving(client) == newer)
    time.sleep(0.3)
    assert client.post("/v1/admin/rollback", json={"reason": "steady"}).json()["serving"] == older
    time.sleep(0.3)
    assert client.post("/v1/admin/promote", json={"version_id": newer}).json()["serving"] == newer
    time.sleep(0.3)
    stop.set()
    for asker in askers:
        asker.join()
    truth[newer] = classify(client, image).json()
    assert {r.status_code for r in answers} == {200}
    assert {r.json()["model_version"] for r in answers} == {older, newer}
    assert labels_of(truth[older]) != labels_of(truth[newer])
    for answer in (r.json() for r in answers):
        expected = truth[answer["model_version"]]
        assert labels_of(answer) == labels_of(expected)
        # which other images share a pass decides the last bits
        assert numbers_of(answer) == pytest.approx(numbers_of(expected), abs=FLOAT32_REORDERED)


def test_two_servers_follow_one_pointer(
    client: TestClient, configure: Configure, serve: Serve, teach: Teach, store: Store
) -> None:
    other = serve(configure())
    older, newer = teach("cat", seed=1), teach("dog", seed=2)
    wait_until(lambda: serving(client) == serving(other) == newer)
    client.post("/v1/admin/rollback", json={})
    wait_until(lambda: serving(other) == older)


def test_an_announcement_is_noticed_before_the_poll(
    configure: Configure, serve: Serve, teach: Teach, redis_url: str
) -> None:
    slow = serve(configure(poll_interval_s=600))
    version = teach("cat")
    time.sleep(0.3)
    assert serving(slow) != version
    app: Any = slow.app
    app.state.services.roster.wake(version)
    wait_until(lambda: serving(slow) == version)


def test_versions_move_without_redis(configure: Configure, serve: Serve, teach: Teach, store: Store) -> None:
    client = serve(configure(redis_url="redis://127.0.0.1:1/0"))
    first = store.current()
    version = teach("cat")
    wait_until(lambda: serving(client) == version)
    assert client.post("/v1/admin/rollback", json={}).json()["serving"] == first


def is_behind(client: TestClient) -> bool:
    return client.get("/readyz").json().get("behind") is not None


@pytest.mark.parametrize("how", ["garbage", "empty", "folder", "gone", "names nothing"])
def test_a_server_starts_and_lists_and_rolls_back_whatever_lies_at_current(
    client: TestClient, store: Store, teach: Teach, configure: Configure, serve: Serve, picture: Picture, how: str
) -> None:
    teach("cat", "dog", seed=1)
    last = teach("cat", "fox", seed=2)
    wait_until(lambda: serving(client) == last)
    pointer = store.root / "CURRENT"
    pointer.unlink()
    if how == "garbage":
        pointer.write_bytes(b"\xff\xfe" * 500)
    elif how == "empty":
        pointer.touch()
    elif how == "folder":
        pointer.mkdir()
    elif how == "names nothing":
        pointer.write_text("000099-0123456789ab\n")
    fresh = serve(configure())
    for server in (client, fresh):
        wait_until(partial(is_behind, server))
        assert classify(server, picture(1)).json()["model_version"] == last
        listed = server.get("/v1/versions")
        assert listed.status_code == 200
        assert listed.json()["current"] == ("000099-0123456789ab" if how == "names nothing" else None)
        assert len(listed.json()["versions"]) == 3
    if how in ("gone", "names nothing"):  # a version can be compared with that
        assert client.post("/v1/admin/promote", json={"version_id": last}).status_code == 200
    else:
        refused(client.post("/v1/admin/promote", json={"version_id": last}), 409, "current-damaged")
        assert client.post("/v1/admin/rollback", json={}).json()["serving"] == last
    wait_until(lambda: fresh.get("/readyz").json()["behind"] is None)
    assert store.current() == last


def test_a_damaged_version_is_listed_with_its_reason(client: TestClient, store: Store, teach: Teach) -> None:
    good, bad = teach("cat", seed=1), teach("dog", seed=2, promote=False)
    (store.root / "versions" / bad / "manifest.json").write_text("{")
    listed = client.get("/v1/versions").json()
    assert good in [version["version_id"] for version in listed["versions"]]
    assert [(damaged["version_id"], damaged["reason"][:13]) for damaged in listed["damaged"]] == [
        (bad, "manifest.json")
    ]


def test_contributions_are_those_of_the_manifest(client: TestClient, store: Store, teach: Teach) -> None:
    parent = teach("cat", "dog")
    report = {
        "new_classes": 1,
        "old_classes": 2,
        "images": 5,
        "tasks": [
            {
                "task": 1,
                "classes": 2,
                "image_to_text": 0.1,
                "text_to_image": 0.2,
                "image_to_image": 0.3,
                "text_to_text": 0.4,
            }
        ],
        "nearest": {"image_to_text": [{"old": "cat", "new": "lynx", "cosine": 0.5}]},
        "at_risk": [],
        "at_risk_count": 0,
        "sigma_image": 0.02,
        "forecast": None,
        "no_forecast_because": "images are too much alike",
    }
    version = store.publish(
        store.open(parent), parent=parent, provenance=Provenance(report={"contributions": report})
    ).version_id
    assert client.get(f"/v1/versions/{version}/contributions").json() == report
    none = client.get(f"/v1/versions/{parent}/contributions")
    assert (none.status_code, none.json()["type"]) == (404, "urn:keepsight:problem:no-contributions")
    assert client.get("/v1/versions/000099-0123456789ab/contributions").status_code == 404
