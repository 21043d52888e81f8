"""Pruning, pinning and verifying versions over HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from app.settings import Settings
from exchange.contracts import JobClass, JobRecord, JobState, UpdateJob, new_job_id, utc_now
from exchange.notes import Note, write_note
from exchange.spool import Spool
from keepsight.client import AsyncClient, Client
from keepsight.keys import KeyFile
from model_store.store import Store
from model_store.types import Provenance, VersionId
from segp_cl.models.backbone import Backbone
from segp_cl.runtime.classifier import Classifier
from segp_cl.runtime.golden import record

Teach = Callable[..., VersionId]
Configure = Callable[..., Settings]


@pytest.fixture
def versions(client: TestClient, store: Store, teach: Teach) -> list[VersionId]:
    """Six versions, each on the one before; the last is CURRENT, and served."""
    first = store.current()
    assert first is not None
    made = [first, *(teach("cat", f"dog {number}", seed=number) for number in range(5))]
    moved = client.post("/v1/admin/promote", json={"version_id": made[-1]})
    assert moved.json()["serving"] == made[-1], moved.text
    return made


@pytest.fixture
def wait(configure: Configure) -> Callable[..., str]:
    """Leave the note of a job that waits, as an upload does."""
    spool = Spool(configure().spool)

    def make(state: JobState = JobState.QUEUED, **about: object) -> str:
        job_id, now = new_job_id(), utc_now()
        work = {"classes": (JobClass(name="owl", prompt="an owl", images=1),)} if "merges" not in about else {}
        job = UpdateJob.model_validate(
            {"job_id": job_id, "task_name": "t", "submitted_at": now + timedelta(hours=1), **work, **about}
        )
        spool.reserve(job_id)
        write_note(spool, Note(record=JobRecord(job=job, created_at=now, state=state)))
        return job_id

    return make


def present(store: Store) -> list[VersionId]:
    return [manifest.version_id for manifest in store.list()]


def test_pruning_says_what_it_removes_and_why_the_rest_stays(
    client: TestClient, configure: Configure, store: Store, versions: list[VersionId]
) -> None:
    sizes = {version: store.size(version) for version in versions}
    assert client.post(f"/v1/versions/{versions[1]}/pin", json={"reason": "the paper's"}).json() == {
        "version_id": versions[1],
        "pinned": True,
    }
    body = {"keep": 1, "reason": "monthly", "dry_run": True}
    planned = client.post("/v1/admin/prune", json=body)
    assert planned.status_code == 200, planned.text
    assert present(store) == versions
    assert planned.json() == {
        "dry_run": True,
        "removed": [{"version_id": v, "bytes": sizes[v]} for v in (versions[0], *versions[2:4])],
        "bytes": sizes[versions[0]] + sizes[versions[2]] + sizes[versions[3]],
        "kept": [
            {"version_id": versions[1], "because": "pinned"},
            {"version_id": versions[4], "because": "one of the 1 before CURRENT"},
            {"version_id": versions[5], "because": "CURRENT"},
        ],
    }
    done = client.post("/v1/admin/prune", json={**body, "dry_run": False}).json()
    assert done == {**planned.json(), "dry_run": False}
    assert present(store) == [versions[1], *versions[4:]]
    lines = [entry for entry in store.journal() if entry.action == "prune"]
    assert [(line.from_, line.who, line.reason) for line in lines] == [
        (row["version_id"], "local", "monthly") for row in done["removed"]
    ]
    unpinned = client.delete(f"/v1/versions/{versions[1]}/pin", params={"reason": "done with it"})
    assert unpinned.json() == {"version_id": versions[1], "pinned": False}
    assert [(line.action, line.reason) for line in store.journal()[-1:]] == [("unpin", "done with it")]
    assert client.post("/v1/admin/prune", json={"keep": 1}).json()["removed"] == [
        {"version_id": versions[1], "bytes": sizes[versions[1]]}
    ]
    assert client.get("/v1/versions").json()["serving"] == versions[5]


def test_what_another_server_serves_or_prepares_is_never_pruned(
    client: TestClient, configure: Configure, store: Store, versions: list[VersionId]
) -> None:
    services = client.app.state.services  # type: ignore[attr-defined]
    mine = next(seen.report for seen in services.roster.servers())
    other = mine.model_copy(update={"id": "other", "serving": versions[1], "prepared": versions[2]})
    services.roster.report(other)
    pruned = client.post("/v1/admin/prune", json={"keep": 1}).json()
    assert [row["version_id"] for row in pruned["removed"]] == [versions[0], versions[3]]
    why = {row["version_id"]: row["because"] for row in pruned["kept"]}
    assert why[versions[1]] == "server other serves it"
    assert why[versions[2]] == "server other has prepared it"


def test_the_version_that_a_task_is_learned_on_is_never_pruned(
    client: TestClient, store: Store, versions: list[VersionId], wait: Callable[..., str]
) -> None:
    job_id = wait(parent=versions[2])
    pruned = client.post("/v1/admin/prune", json={"keep": 1}).json()
    assert {row["version_id"]: row["because"] for row in pruned["kept"]}[versions[2]] == f"job {job_id} needs it"
    assert versions[2] in present(store)


def test_a_merge_keeps_both_versions_and_their_common_ancestor(
    client: TestClient, store: Store, teach: Teach, versions: list[VersionId], wait: Callable[..., str]
) -> None:
    store.rollback(versions[1], who="ada", reason="a branch begins here")
    between = teach("cat", "jay", seed=20)
    branch = teach("cat", "jay", "owl", seed=21)
    store.promote(versions[5], expected=branch, who="ada")
    wait(merges=(versions[3], branch))
    removed = [row["version_id"] for row in client.post("/v1/admin/prune", json={"keep": 1}).json()["removed"]]
    assert removed == [versions[0]]
    assert store.common_ancestor(versions[3], branch) == versions[1]
    assert between in present(store)


def test_a_task_keeps_what_current_was_when_it_came_and_since(
    client: TestClient, configure: Configure, store: Store, teach: Teach, wait: Callable[..., str]
) -> None:
    before = teach("cat")
    moment = utc_now()
    base = teach("cat", "dog", seed=1)
    state = store.open(base)
    on_it = store.publish(state, parent=base, provenance=Provenance(made="instant", job_id="a" * 32)).version_id
    store.promote(on_it, expected=base, who="test")
    store.rollback(before, who="ada", reason="elsewhere")
    last = [teach("cat", f"fox {number}", seed=30 + number) for number in range(4)]
    client.post("/v1/admin/promote", json={"version_id": last[-1]})
    wait(submitted_at=moment)
    removed = client.post("/v1/admin/prune", json={"keep": 1, "dry_run": True}).json()["removed"]
    assert {base, on_it, before} & {row["version_id"] for row in removed} == set()
    wait(JobState.SUCCEEDED, submitted_at=moment)
    for folder in Spool(configure().spool).folders():
        Spool(configure().spool).purge(folder)
    removed = client.post("/v1/admin/prune", json={"keep": 1, "dry_run": True}).json()["removed"]
    assert {base, on_it, before} <= {row["version_id"] for row in removed}


def test_an_ended_job_keeps_nothing(client: TestClient, versions: list[VersionId], wait: Callable[..., str]) -> None:
    wait(JobState.FAILED, parent=versions[2])
    removed = client.post("/v1/admin/prune", json={"keep": 1}).json()["removed"]
    assert [row["version_id"] for row in removed] == versions[:4]


def test_nothing_is_pruned_while_it_is_not_known_what_is_needed(
    client: TestClient,
    configure: Configure,
    serve: Callable[[Settings], TestClient],
    store: Store,
    versions: list[VersionId],
    wait: Callable[..., str],
) -> None:
    job_id = wait(parent=versions[2])
    alone = serve(configure(redis_url="redis://127.0.0.1:1/0"))
    answer = alone.post("/v1/admin/prune", json={"keep": 1})
    assert (answer.status_code, answer.json()["type"].rpartition(":")[2]) == (503, "broker-unavailable")
    (Spool(configure().spool).folder(job_id) / "job.json").write_text("{}")
    answer = client.post("/v1/admin/prune", json={"keep": 1})
    assert (answer.status_code, answer.json()["type"].rpartition(":")[2]) == (503, "store-error")
    assert job_id in answer.json()["detail"]
    assert present(store) == versions


@pytest.mark.parametrize(
    "body", [{}, {"keep": 0}, {"keep": "3"}, {"keep": 1, "reason": "x" * 1001}, {"keep": 1, "force": True}, []]
)
def test_a_body_that_asks_for_something_else_is_invalid(client: TestClient, body: object) -> None:
    answer = client.post("/v1/admin/prune", json=body)
    assert (answer.status_code, answer.json()["type"]) == (422, "urn:keepsight:problem:invalid-request")


@pytest.mark.parametrize("version", ["000099-0123456789ab", "x"])
def test_what_is_not_there_is_neither_pinned_nor_verified(client: TestClient, version: str) -> None:
    for answer in (
        client.post(f"/v1/versions/{version}/pin", json={}),
        client.post(f"/v1/versions/{version}/verify"),
    ):
        assert (answer.status_code, answer.json()["type"].rpartition(":")[2]) == (404, "version-not-found")
    assert client.delete(f"/v1/versions/{version}/pin").status_code == (404 if version == "x" else 200)


def test_a_version_is_verified_by_its_bytes_and_its_answers(
    client: TestClient, store: Store, teach: Teach, tiny_backbone: Backbone
) -> None:
    first = store.current()
    found = client.post(f"/v1/versions/{first}/verify").json()
    assert found == {"version_id": first, "ok": True, "files": "intact", "answers": "same", "problem": None}
    silent = teach("cat")  # without golden answers
    found = client.post(f"/v1/versions/{silent}/verify").json()
    assert (found["ok"], found["files"], found["answers"]) == (True, "intact", "unknown")
    # published with the golden answers of another state
    state = store.open(silent)
    other = record(Classifier(tiny_backbone, store.open(teach("cat", seed=5))), tiny_backbone.preprocessing.size)
    wrong = store.publish(state, parent=silent, provenance=Provenance(), golden=other).version_id
    found = client.post(f"/v1/versions/{wrong}/verify").json()
    assert (found["ok"], found["files"], found["answers"]) == (False, "intact", "different")
    assert "scores" in found["problem"]
    path = store.root / "versions" / silent / "tensors.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    found = client.post(f"/v1/versions/{silent}/verify").json()
    assert (found["ok"], found["files"], found["answers"]) == (False, "damaged", "unknown")
    assert "tensors.safetensors" in found["problem"]


def test_a_version_of_another_base_model_is_intact(
    client: TestClient, store: Store, teach: Teach, tiny_backbone: Backbone
) -> None:
    own = store.open(teach("cat"))
    golden = record(Classifier(tiny_backbone, own), tiny_backbone.preprocessing.size)
    state = replace(own, weights_digest="0" * 64)
    foreign = store.publish(state, parent=None, provenance=Provenance(), golden=golden).version_id
    found = client.post(f"/v1/versions/{foreign}/verify").json()
    assert (found["ok"], found["files"], found["answers"]) == (True, "intact", "unknown")
    assert "base weights" in found["problem"]


def test_keys_are_named_in_the_journal(
    configure: Configure, serve: Callable[[Settings], TestClient], store: Store
) -> None:
    settings = configure()
    token = KeyFile(settings.keys_file).create("ada", ["admin"]).token
    server = serve(settings)
    current = store.current()
    server.post(f"/v1/versions/{current}/pin", json={"reason": "r"}, headers={"X-API-Key": token})
    assert [(line.action, line.who, line.reason) for line in store.journal()[-1:]] == [("pin", "ada", "r")]


def test_both_clients_look_after_versions(
    configure: Configure, listen: Callable[[Settings], str], versions: list[VersionId], tmp_path: Path
) -> None:
    url = listen(configure())
    with Client(url) as client:
        assert client.pin(versions[0], reason="keep")["pinned"]
        assert client.verify(versions[0])["answers"] == "same"
        planned = client.prune(2, dry_run=True)
        assert [row["version_id"] for row in planned["removed"]] == versions[1:3]

    async def run() -> None:
        async with AsyncClient(url) as other:
            assert not (await other.unpin(versions[0]))["pinned"]
            assert (await other.verify(versions[1]))["ok"]
            pruned = await other.prune(2, reason="r")
            assert [row["version_id"] for row in pruned["removed"]] == versions[:3]
            assert (await other.pin(versions[3]))["pinned"]

    asyncio.run(run())
