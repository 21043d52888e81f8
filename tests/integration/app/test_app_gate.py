"""The gate over HTTP: its policy, and versions that it holds."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from starlette.testclient import TestClient

from app.settings import Settings
from keepsight.client import ApiError, AsyncClient, Client
from keepsight.keys import KeyFile
from model_store.gate import GATE_FILE, GatePolicy
from model_store.store import Store
from model_store.types import Provenance, VersionId

Teach = Callable[..., VersionId]
Configure = Callable[..., Settings]
WHY = "own classes: 0 of 16 images are right"


@pytest.fixture
def held(store: Store, teach: Teach) -> Callable[[], VersionId]:
    """Publish a version on top of CURRENT that the gate holds."""

    def make() -> VersionId:
        parent = teach("cat", "dog")
        state = store.open(parent)
        provenance = Provenance(who="test", report={"gate": {"held_because": [WHY]}})
        return store.publish(state, parent=parent, provenance=provenance).version_id

    return make


def test_a_held_version_is_listed_with_its_reasons_and_refused(
    client: TestClient, store: Store, held: Callable[[], VersionId]
) -> None:
    version = held()
    current = store.current()
    listed = {v["version_id"]: v["held_because"] for v in client.get("/v1/versions").json()["versions"]}
    assert listed[version] == [WHY]
    assert [reasons for other, reasons in listed.items() if other != version] == [[], []]
    for route, body in (("promote", {"version_id": version}), ("rollback", {"version_id": version})):
        refused = client.post(f"/v1/admin/{route}", json=body)
        assert (refused.status_code, refused.json()["type"]) == (409, "urn:keepsight:problem:held")
        assert refused.json()["held_because"] == [WHY]
        assert WHY in refused.json()["detail"]
    assert store.current() == current


def test_a_held_version_is_promoted_anyway_for_a_reason(
    client: TestClient, store: Store, held: Callable[[], VersionId]
) -> None:
    version = held()
    before = store.current()
    for reason in ("", "   "):
        refused = client.post("/v1/admin/promote", json={"version_id": version, "anyway": True, "reason": reason})
        assert refused.status_code == 422
        assert "anyway needs a reason" in refused.json()["detail"]
    moved = client.post("/v1/admin/promote", json={"version_id": version, "anyway": True, "reason": "a test"})
    assert moved.status_code == 200, moved.text
    assert moved.json()["serving"] == version
    assert store.journal()[-1].reason == "held, promoted anyway: a test"
    assert client.post("/v1/admin/rollback", json={}).json()["to"] == before
    assert client.post("/v1/admin/promote", json={"version_id": version}).status_code == 200


def test_the_policy_is_read_and_changed_field_by_field(client: TestClient, store: Store) -> None:
    defaults = GatePolicy().model_dump(mode="json")
    assert client.get("/v1/admin/gate").json() == {"policy": defaults, "source": "defaults", "problem": None}
    changed = client.patch("/v1/admin/gate", json={"min_accuracy": 0.5, "check_flat": False, "reason": "strict"})
    assert changed.status_code == 200, changed.text
    expected = {"policy": {**defaults, "min_accuracy": 0.5, "check_flat": False}, "source": "file", "problem": None}
    assert changed.json() == client.get("/v1/admin/gate").json() == expected
    assert store.gate().policy.min_accuracy == 0.5
    last = store.journal()[-1]
    assert (last.action, last.who) == ("gate", "local")
    assert last.reason.endswith("; strict")
    assert client.patch("/v1/admin/gate", json={"min_accuracy": None}).json()["policy"]["min_accuracy"] == 0.2


@pytest.mark.parametrize(
    "body",
    [{"min_acuracy": 0.5}, {"min_accuracy": 1.5}, {"min_accuracy": "0.5"}, {"enabled": 1}, {"confidence": 1.0}, []],
)
def test_an_unknown_field_or_a_value_out_of_range_is_refused(client: TestClient, body: object) -> None:
    refused = client.patch("/v1/admin/gate", json=body)
    assert (refused.status_code, refused.json()["type"]) == (422, "urn:keepsight:problem:invalid-request")
    assert client.get("/v1/admin/gate").json()["source"] == "defaults"


def test_a_damaged_policy_is_told_and_mended_by_a_change(client: TestClient, store: Store) -> None:
    (store.root / GATE_FILE).write_text("{")
    told = client.get("/v1/admin/gate").json()
    assert (told["source"], told["policy"]) == ("damaged", GatePolicy().model_dump(mode="json"))
    assert "defaults are used" in told["problem"]
    assert client.patch("/v1/admin/gate", json={"max_drop": 0.2}).json()["source"] == "file"


def test_the_gate_is_for_admins(configure: Configure, serve: Callable[[Settings], TestClient]) -> None:
    settings = configure()
    token = KeyFile(settings.keys_file).create("ada", ["classify", "train"]).token
    client = serve(settings)
    for answer in (
        client.get("/v1/admin/gate", headers={"X-API-Key": token}),
        client.patch("/v1/admin/gate", json={"enabled": False}, headers={"X-API-Key": token}),
    ):
        assert (answer.status_code, answer.json()["missing_scope"]) == (403, "admin")


def test_both_clients_promote_anyway_and_change_the_gate(
    configure: Configure, listen: Callable[[Settings], str], held: Callable[[], VersionId], store: Store
) -> None:
    url = listen(configure())
    version = held()
    parent = store.current()
    with Client(url) as client:
        with pytest.raises(ApiError) as caught:
            client.promote(version)
        assert (caught.value.status, caught.value.problem["type"]) == (409, "urn:keepsight:problem:held")
        assert client.promote(version, anyway=True, reason="a test")["serving"] == version
        assert client.rollback(parent)["serving"] == parent
        assert client.change_gate({"min_accuracy": 0.3}, reason="strict")["policy"]["min_accuracy"] == 0.3
        assert client.gate()["source"] == "file"

    async def run() -> None:
        async with AsyncClient(url) as client:
            assert (await client.promote(version, anyway=True, reason="again"))["serving"] == version
            assert (await client.change_gate({"min_accuracy": None}))["policy"] == (await client.gate())["policy"]

    asyncio.run(run())
