"""Merging versions over HTTP, and tasks that name their parent."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import pytest
from starlette.testclient import TestClient

from app.settings import Settings
from exchange.jobs import Jobs
from exchange.notes import read_note
from exchange.spool import Spool
from keepsight.client import AsyncClient, Client
from keepsight.keys import KeyFile
from model_store.store import Store
from model_store.types import Provenance, VersionId

Teach = Callable[..., VersionId]
Configure = Callable[..., Settings]
Branches = tuple[VersionId, VersionId]


@pytest.fixture
def branches(store: Store, teach: Teach) -> Branches:
    """Two versions on one parent; CURRENT is the parent."""
    teach("cat")
    return teach("cat", "owl", promote=False, seed=1), teach("cat", "jay", promote=False, seed=2)


def test_a_merge_is_queued_with_a_note_and_no_image(
    client: TestClient, configure: Configure, branches: Branches
) -> None:
    answer = client.post("/v1/versions/merge", json={"versions": branches, "reason": "both", "seed": 7})
    assert answer.status_code == 202, answer.text
    job_id = answer.json()["job_id"]
    assert answer.headers["Location"] == answer.json()["location"] == f"/v1/jobs/{job_id}"
    job = client.get(f"/v1/jobs/{job_id}").json()
    assert (job["state"], job["name"], job["merges"]) == ("queued", "both", list(branches))
    assert (job["parent"], job["validation"], job["serving"]) == (None, None, None)
    spool = Spool(configure().spool)
    assert [path.name for path in spool.folder(job_id).iterdir()] == ["job.json"]
    note = read_note(spool, job_id)
    assert note is not None
    assert (note.record.job.merges, note.record.job.seed, note.record.job.instant) == (branches, 7, False)


def test_it_is_cancelled_like_any_job(client: TestClient, configure: Configure, branches: Branches) -> None:
    job_id = client.post("/v1/versions/merge", json={"versions": branches}).json()["job_id"]
    assert client.get(f"/v1/jobs/{job_id}").json()["name"] == f"merge of {branches[0]} and {branches[1]}"
    assert client.delete(f"/v1/jobs/{job_id}").json()["state"] == "cancelled"
    assert not Spool(configure().spool).folder(job_id).exists()


def test_what_cannot_be_merged_is_refused_at_once(client: TestClient, store: Store, branches: Branches) -> None:
    parent, before = store.current(), client.get("/v1/jobs").json()["jobs"]

    def refused(*versions: str | None) -> tuple[int, str]:
        answer = client.post("/v1/versions/merge", json={"versions": versions})
        return answer.status_code, answer.json()["type"].rpartition(":")[2]

    assert refused(branches[0], parent) == (409, "no-common-ancestor")
    assert refused(branches[0], branches[0]) == (409, "no-common-ancestor")
    assert refused(branches[0], "000099-0123456789ab") == (404, "version-not-found")
    assert refused("../../etc", branches[0]) == (404, "version-not-found")
    held = store.publish(
        store.open(branches[1]), parent=parent, provenance=Provenance(report={"gate": {"held_because": ["bad"]}})
    )
    assert refused(branches[0], held.version_id) == (409, "held")
    assert client.get("/v1/jobs").json()["jobs"] == before


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"versions": ["000001-0123456789ab"]},
        {"versions": ["a", "b", "c"]},
        {"versions": ["a", 1]},
        {"versions": ["a", "b"], "config": {"epochz": 1}},
        {"versions": ["a", "b"], "seed": -1},
        {"versions": ["a", "b"], "reason": "x" * 1001},
        {"versions": ["a", "b"], "anyway": True},
        [],
    ],
)
def test_a_body_that_asks_for_something_else_is_invalid(client: TestClient, body: object) -> None:
    answer = client.post("/v1/versions/merge", json=body)
    assert (answer.status_code, answer.json()["type"]) == (422, "urn:keepsight:problem:invalid-request")


def test_merging_needs_the_scope_of_teaching(configure: Configure, serve: Callable[[Settings], TestClient]) -> None:
    settings = configure()
    token = KeyFile(settings.keys_file).create("ada", ["classify"]).token
    answer = serve(settings).post("/v1/versions/merge", json={"versions": ["a", "b"]}, headers={"X-API-Key": token})
    assert (answer.status_code, answer.json()["missing_scope"]) == (403, "train")


def test_without_a_broker_there_is_no_job(
    configure: Configure, serve: Callable[[Settings], TestClient], branches: Branches
) -> None:
    settings = configure(redis_url="redis://127.0.0.1:1/0")
    answer = serve(settings).post("/v1/versions/merge", json={"versions": branches})
    assert (answer.status_code, answer.json()["type"].rpartition(":")[2]) == (503, "broker-unavailable")
    assert list(settings.spool.iterdir()) == []


def test_the_list_of_versions_names_both_parents(client: TestClient, store: Store, branches: Branches) -> None:
    merged = store.publish(
        store.open(branches[0]), parent=branches[0], provenance=Provenance(made="merged", other_parent=branches[1])
    )
    listed = {v["version_id"]: v for v in client.get("/v1/versions").json()["versions"]}
    assert listed[merged.version_id]["parent"] == branches[0]
    assert listed[merged.version_id]["other_parent"] == branches[1]
    assert listed[merged.version_id]["made"] == "merged"
    assert listed[branches[0]]["other_parent"] is None


def test_a_task_may_name_its_parent(
    client: TestClient, configure: Configure, branches: Branches, archive: Callable[[Mapping[str, int]], bytes]
) -> None:
    def teach(parent: str, *names: str) -> dict[str, object]:
        files = {"archive": ("a.zip", archive(dict.fromkeys(names, 2)))}
        answer = client.post("/v1/tasks", data={"name": "t", "parent": parent}, files=files)
        return {"status": answer.status_code, **answer.json()}

    accepted = teach(branches[0], "jay", "emu")
    assert accepted["status"] == 202, accepted
    job = client.get(f"/v1/jobs/{accepted['job_id']}").json()
    assert job["parent"] == branches[0]
    jobs = Jobs(configure().redis_url)
    record = jobs.get(str(accepted["job_id"]))
    jobs.close()
    assert (record.job.parent, record.job.instant) == (branches[0], False)
    assert teach(branches[0], "owl", "emu")["status"] == 409  # known there, though not to CURRENT
    assert teach("000099-0123456789ab", "emu", "gnu")["status"] == 404


def test_both_clients_merge(configure: Configure, listen: Callable[[Settings], str], branches: Branches) -> None:
    url = listen(configure())
    with Client(url) as client:
        accepted = client.merge(*branches, reason="sync", config={"align_steps": 5})
        assert client.job(accepted["job_id"])["name"] == "sync"

    async def run() -> None:
        async with AsyncClient(url) as other:
            accepted = await other.merge(*branches)
            assert (await other.job(accepted["job_id"])).get("merges") == list(branches)

    asyncio.run(run())
