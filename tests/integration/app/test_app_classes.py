"""Edits of the classes over HTTP."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from app.settings import Settings
from exchange.contracts import INSTANT_KEY
from exchange.jobs import Jobs
from exchange.notes import read_note
from exchange.spool import Spool
from keepsight.client import AsyncClient, Client
from keepsight.keys import KeyFile
from model_store.store import Store
from model_store.types import Provenance, VersionId
from segp_cl.class_edits import ClassEdit

Teach = Callable[..., VersionId]
Configure = Callable[..., Settings]
Archive = Callable[[Mapping[str, int]], bytes]


@pytest.fixture
def taught(teach: Teach) -> VersionId:
    return teach("cat", "dog", "side/cow")


def queued(client: TestClient, configure: Configure, job_id: str) -> ClassEdit:
    """The edit of a job, as its note has it; it waits where instant versions do."""
    job = client.get(f"/v1/jobs/{job_id}").json()
    assert (job["state"], job["serving"], job["instant"]) == ("queued", None, None)
    spool = Spool(configure().spool)
    note = read_note(spool, job_id)
    assert note is not None
    assert note.record.job.edit is not None
    assert job["edit"] == note.record.job.edit.model_dump(mode="json")
    jobs = Jobs(configure().redis_url)
    assert job_id in jobs._redis.lrange(INSTANT_KEY, 0, -1)
    jobs.close()
    return note.record.job.edit


@pytest.mark.parametrize(
    ("name", "body", "edit"),
    [
        (
            "cat",
            {"name": " puss ", "reason": "house word"},
            ClassEdit(kind="rename", classes=("cat",), name="puss", prompt="a photo of a puss."),
        ),
        ("cat", {"prompt": "a tabby"}, ClassEdit(kind="rename", classes=("cat",), prompt="a tabby")),
        (
            "side/cow",
            {"name": "ox", "prompt": "oxen"},
            ClassEdit(kind="rename", classes=("side/cow",), name="ox", prompt="oxen"),
        ),
        ("cat", {"name": "dog", "swap": True}, ClassEdit(kind="swap", classes=("cat", "dog"))),
    ],
)
def test_a_rename_is_queued_before_all_training(
    client: TestClient, configure: Configure, taught: VersionId, name: str, body: dict[str, object], edit: ClassEdit
) -> None:
    answer = client.patch(f"/v1/classes/{name}", json=body)
    assert answer.status_code == 202, answer.text
    job_id = answer.json()["job_id"]
    assert answer.headers["Location"] == answer.json()["location"] == f"/v1/jobs/{job_id}"
    assert queued(client, configure, job_id) == edit
    assert client.get(f"/v1/jobs/{job_id}").json()["name"] == body.get("reason", edit.words)


def test_a_merge_a_delete_and_their_reasons(client: TestClient, configure: Configure, taught: VersionId) -> None:
    merged = client.post("/v1/classes/merge", json={"classes": ["cat", "dog"], "name": "pet", "reason": "why not"})
    assert merged.status_code == 202, merged.text
    expected = ClassEdit(kind="merge", classes=("cat", "dog"), name="pet", prompt="a photo of a pet.")
    assert queued(client, configure, merged.json()["job_id"]) == expected
    kept = client.post("/v1/classes/merge", json={"classes": ["cat", "dog"], "name": "cat", "prompt": "cats"}).json()
    assert kept["edit"] == {"kind": "merge", "classes": ["cat", "dog"], "name": "cat", "prompt": "cats"}
    gone = client.delete("/v1/classes/side%2Fcow", params={"reason": "not ours"})
    assert gone.status_code == 202, gone.text
    assert queued(client, configure, gone.json()["job_id"]) == ClassEdit(kind="delete", classes=("side/cow",))
    assert client.get(gone.json()["location"]).json()["name"] == "not ours"


def test_it_is_cancelled_like_any_job(client: TestClient, configure: Configure, taught: VersionId) -> None:
    job_id = client.delete("/v1/classes/cat").json()["job_id"]
    assert client.delete(f"/v1/jobs/{job_id}").json()["state"] == "cancelled"
    assert not Spool(configure().spool).folder(job_id).exists()


def test_images_take_the_place_of_a_class_s(
    client: TestClient, configure: Configure, taught: VersionId, archive: Archive
) -> None:
    files = {"archive": ("a.zip", archive({"side": 0, "cat": 3}))}
    answer = client.post("/v1/classes/cat/replace", files=files, data={"reason": "blurred before", "seed": "3"})
    assert answer.status_code == 202, answer.text
    assert answer.json()["validation"]["classes"] == {"cat": 3}
    job_id = answer.json()["job_id"]
    assert queued(client, configure, job_id) == ClassEdit(kind="replace", classes=("cat",))
    note = read_note(Spool(configure().spool), job_id)
    assert note is not None
    job = note.record.job
    assert [(known.name, known.prompt) for known in job.classes] == [("cat", "a photo of a cat.")]
    assert (job.seed, job.task_name, job.instant) == (3, "blurred before", False)


def test_an_upload_repeated_with_its_key_is_one_job(client: TestClient, taught: VersionId, archive: Archive) -> None:
    content = archive({"cat": 3})
    sent = [
        client.post(
            "/v1/classes/cat/replace", files={"archive": ("a.zip", content)}, headers={"Idempotency-Key": "again"}
        )
        for _ in range(2)
    ]
    assert sent[0].json()["job_id"] == sent[1].json()["job_id"]
    assert sent[1].headers["Idempotency-Replayed"] == "true"


def test_what_cannot_be_edited_is_refused_at_once(client: TestClient, taught: VersionId, archive: Archive) -> None:
    before = client.get("/v1/jobs").json()["jobs"]

    def slug(answer: object) -> tuple[int, str]:
        return answer.status_code, answer.json()["type"].rpartition(":")[2]  # type: ignore[attr-defined]

    def replace(name: str, classes: Mapping[str, int]) -> tuple[int, str]:
        return slug(client.post(f"/v1/classes/{name}/replace", files={"archive": ("a.zip", archive(classes))}))

    assert slug(client.delete("/v1/classes/emu")) == (404, "class-not-found")
    assert slug(client.patch("/v1/classes/emu", json={"name": "x"})) == (404, "class-not-found")
    assert slug(client.delete("/v1/classes/%C2%8A")) == (404, "class-not-found")  # none can be called so
    assert slug(client.patch("/v1/classes/cat", json={"name": "dog"})) == (409, "class-exists")
    assert slug(client.patch("/v1/classes/cat", json={"name": "DOG"})) == (409, "class-exists")
    assert slug(client.patch("/v1/classes/cat", json={"name": "emu", "swap": True})) == (404, "class-not-found")
    assert slug(client.patch("/v1/classes/cat", json={"name": "\u200b"})) == (422, "invalid-task")
    merge = {"classes": ["cat", "dog"], "name": "side/cow"}
    assert slug(client.post("/v1/classes/merge", json=merge)) == (409, "class-exists")
    assert slug(client.post("/v1/classes/merge", json=merge | {"classes": ["cat", "emu"]})) == (404, "class-not-found")
    assert slug(client.post("/v1/classes/merge", json=merge | {"classes": ["cat", "cat"]})) == (422, "invalid-request")
    assert slug(client.patch("/v1/classes/cat", json={"name": "cat", "swap": True})) == (422, "invalid-request")
    assert replace("emu", {"emu": 3}) == (404, "class-not-found")
    assert replace("cat", {"cat": 3, "dog": 3}) == (422, "invalid-task")
    assert replace("cat", {"dog": 3}) == (422, "invalid-task")
    assert client.get("/v1/jobs").json()["jobs"] == before
    assert client.patch("/v1/classes/cat", json={"name": "CAT"}).status_code == 202  # its own name, spelled otherwise


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("PATCH", "/v1/classes/cat", {}),
        ("PATCH", "/v1/classes/cat", {"name": "x", "swap": True, "prompt": "y"}),
        ("PATCH", "/v1/classes/cat", {"prompt": ""}),
        ("PATCH", "/v1/classes/cat", {"name": "x", "reason": "y" * 1001}),
        ("PATCH", "/v1/classes/cat", {"name": "x" * 1001}),
        ("PATCH", "/v1/classes/cat", {"name": "x", "force": True}),
        ("POST", "/v1/classes/merge", {"classes": ["cat"], "name": "x"}),
        ("POST", "/v1/classes/merge", {"classes": ["cat"] * 1001, "name": "x"}),
        ("POST", "/v1/classes/merge", {"classes": ["cat", "dog"]}),
    ],
)
def test_a_body_that_asks_for_something_else_is_invalid(
    client: TestClient, taught: VersionId, method: str, path: str, body: object
) -> None:
    answer = client.request(method, path, json=body)
    assert (answer.status_code, answer.json()["type"]) == (422, "urn:keepsight:problem:invalid-request")


@pytest.mark.parametrize("fields", [{"reason": "two\nlines"}, {"encoding": "klingon"}, {"seed": "-1"}, {"name": "x"}])
def test_a_form_that_asks_for_something_else_is_invalid(
    client: TestClient, taught: VersionId, archive: Archive, fields: dict[str, str]
) -> None:
    files = {"archive": ("a.zip", archive({"cat": 3}))}
    answer = client.post("/v1/classes/cat/replace", files=files, data=fields)
    assert (answer.status_code, answer.json()["type"]) == (422, "urn:keepsight:problem:invalid-request")


def test_editing_needs_the_scope_of_teaching(configure: Configure, serve: Callable[[Settings], TestClient]) -> None:
    settings = configure()
    token = KeyFile(settings.keys_file).create("ada", ["classify"]).token
    client = serve(settings)
    for method, path in (("PATCH", "/v1/classes/cat"), ("DELETE", "/v1/classes/cat"), ("POST", "/v1/classes/merge")):
        answer = client.request(method, path, headers={"X-API-Key": token})
        assert (answer.status_code, answer.json()["missing_scope"]) == (403, "train")


def test_without_a_broker_there_is_no_job(
    configure: Configure, serve: Callable[[Settings], TestClient], taught: VersionId
) -> None:
    settings = configure(redis_url="redis://127.0.0.1:1/0")
    answer = serve(settings).delete("/v1/classes/cat")
    assert (answer.status_code, answer.json()["type"].rpartition(":")[2]) == (503, "broker-unavailable")
    assert list(settings.spool.iterdir()) == []


def test_the_list_of_versions_says_what_was_edited(client: TestClient, store: Store, taught: VersionId) -> None:
    edit = ClassEdit(kind="delete", classes=("owl",))
    published = store.publish(store.open(taught), parent=taught, provenance=Provenance(made="edited", edit=edit))
    listed = {version["version_id"]: version for version in client.get("/v1/versions").json()["versions"]}
    assert (listed[published.version_id]["made"], listed[published.version_id]["edited"]) == ("edited", "delete 'owl'")
    assert client.get(f"/v1/versions/{published.version_id}").json()["edit"]["kind"] == "delete"


def test_both_clients_edit(
    configure: Configure, listen: Callable[[Settings], str], taught: VersionId, archive: Archive, tmp_path: Path
) -> None:
    url = listen(configure())
    (tmp_path / "new.zip").write_bytes(archive({"cat": 3}))
    with Client(url) as client:
        assert client.rename_class("side/cow", "ox", reason="sync")["edit"]["name"] == "ox"
        assert client.rename_class("cat", "dog", swap=True)["edit"]["kind"] == "swap"
        assert client.rename_class("cat", prompt="a tabby")["edit"]["prompt"] == "a tabby"
        assert client.merge_classes(["cat", "dog"], "pet")["edit"]["classes"] == ["cat", "dog"]
        assert client.job(client.delete_class("cat", reason="a & b")["job_id"])["name"] == "a & b"
        assert client.replace_class("cat", tmp_path / "new.zip")["validation"]["accepted"] == 3

    async def run() -> None:
        async with AsyncClient(url) as other:
            assert (await other.rename_class("cat", "puss"))["edit"]["name"] == "puss"
            assert (await other.merge_classes(["cat", "dog"], "pet", prompt="p"))["edit"]["prompt"] == "p"
            assert (await other.delete_class("dog"))["edit"]["kind"] == "delete"
            opened = io.BytesIO((tmp_path / "new.zip").read_bytes())
            assert (await other.replace_class("cat", opened, reason="why"))["validation"]["accepted"] == 3

    asyncio.run(run())


def test_facts_of_classes_and_what_an_edit_would_change(client: TestClient, taught: VersionId) -> None:
    found = client.get(f"/v1/versions/{taught}/classes").json()
    assert found["version_id"] == taught
    names = [known["name"] for known in found["classes"]]
    assert names == ["cat", "dog", "side/cow"]
    for known in found["classes"]:
        assert known["nearest"]["label"] in set(names) - {known["name"]}
        assert -1 <= known["nearest_text"]["cosine"] <= 1
        assert (known["accuracy"], known["accuracy_on"], known["taken_for"]) == (None, None, [])
    jobs = client.get("/v1/jobs").json()["jobs"]
    merge = client.post("/v1/classes/preview", json={"kind": "merge", "classes": ["cat", "dog"], "name": "pet"})
    assert merge.status_code == 200, merge.text
    assert merge.json()["edit"] == {
        "kind": "merge",
        "classes": ["cat", "dog"],
        "name": "pet",
        "prompt": "a photo of a pet.",
    }
    assert (merge.json()["classes_before"], merge.json()["classes_after"]) == (3, 2)
    assert [known["name"] for known in merge.json()["affected"]] == ["cat", "dog"]
    gone = client.post("/v1/classes/preview", json={"kind": "delete", "classes": ["side/cow"]}).json()
    assert (gone["classes_after"], gone["edit"]["kind"]) == (2, "delete")
    assert any("prototype" in what for what in gone["removed"])
    assert gone["remains"]
    assert client.get("/v1/jobs").json()["jobs"] == jobs, "nothing was queued"


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"kind": "rename", "classes": ["cat"], "name": "dog"}, 409),
        ({"kind": "rename", "classes": ["cat"]}, 422),
        ({"kind": "rename", "classes": ["cat", "dog"], "name": "pet"}, 422),
        ({"kind": "rename", "classes": ["yak"], "name": "ox"}, 404),
        ({"kind": "swap", "classes": ["cat"]}, 422),
        ({"kind": "merge", "classes": ["cat", "dog"]}, 422),
        ({"kind": "delete", "classes": ["cat"], "name": "dog"}, 422),
        ({"kind": "delete", "classes": ["\u0000"]}, 404),
    ],
)
def test_a_preview_refuses_what_the_edit_would(
    client: TestClient, taught: VersionId, body: dict[str, object], status: int
) -> None:
    assert client.post("/v1/classes/preview", json=body).status_code == status
