"""Test sets over HTTP: stored by consent, apart from learning, and removed with a receipt."""

from __future__ import annotations

import asyncio
import io
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from app.settings import Settings
from exchange.jobs import Jobs
from exchange.notes import read_note
from exchange.redis_client import BrokerUnavailableError
from exchange.spool import Spool
from keepsight.client import ApiError, AsyncClient, Client
from model_store.store import Store
from model_store.types import VersionId
from tests.waiting import wait_until

Configure = Callable[..., Settings]
Serve = Callable[[Settings], TestClient]
Picture = Callable[..., bytes]
Archive = Callable[[Mapping[str, int]], bytes]
Teach = Callable[..., VersionId]


@pytest.fixture
def split(picture: Picture) -> Callable[..., bytes]:
    """A zip with a train and a test split of these classes."""

    def make(*names: str, train: int = 3, test: int = 2) -> bytes:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as file:
            for at, name in enumerate(names):
                for kind, count in (("train", train), ("test", test)):
                    for number in range(count):
                        file.writestr(f"{kind}/{name}/{number}.png", picture(100 * at + 50 * (kind == "test") + number))
        return buffer.getvalue()

    return make


def put(client: TestClient, name: str, archive: bytes, **fields: str) -> tuple[int, dict[str, object]]:
    answer = client.put(f"/v1/test-sets/{name}", files={"archive": archive}, data=fields)
    return answer.status_code, answer.json()


def left_in_the_spool(settings: Settings) -> list[str]:
    return [path.name for path in Path(settings.spool).iterdir()]


def test_a_set_is_stored_listed_shown_and_removed_with_a_receipt(
    client: TestClient, configure: Configure, store: Store, archive: Archive, teach: Teach
) -> None:
    teach("cat")
    status, stored = put(client, "field", archive({"cat": 2, "yak": 3}), reason="a study", days="2.5")
    assert status == 200, stored
    found = stored["test_set"]
    assert isinstance(found, dict)
    assert (found["images"], found["images_per_class"], found["unknown"]) == (5, {"cat": 2, "yak": 3}, ["yak"])
    assert (found["who"], found["reason"]) == ("local", "a study")
    assert stored["validation"]["accepted"] == 5  # type: ignore[index]
    listed = client.get("/v1/test-sets").json()
    assert listed["test_sets"] == [found]
    assert (listed["sets_left"], listed["bytes_left"]) == (19, 2**31 - found["bytes"])
    shown = client.get("/v1/test-sets/field").json()
    assert sorted(shown["labels"]) == ["cat"] * 2 + ["yak"] * 3
    assert len(set(shown["checksums"])) == 5
    assert left_in_the_spool(configure()) == []
    receipt = client.delete("/v1/test-sets/field", params={"reason": "asked for"}).json()
    assert (receipt["name"], receipt["digest"], receipt["images"]) == ("field", found["digest"], 5)
    assert (receipt["who"], receipt["reason"]) == ("local", "asked for")
    last = store.journal()[-1]
    assert (last.action, last.from_) == ("remove_test_set", f"field@{found['digest'][:12]}")
    assert client.get("/v1/test-sets").json()["test_sets"] == []
    for answer in (client.get("/v1/test-sets/field"), client.delete("/v1/test-sets/field")):
        assert (answer.status_code, answer.json()["type"]) == (404, "urn:keepsight:problem:test-set-not-found")


def test_a_set_replaces_the_one_of_its_name_and_a_refused_one_does_not(
    client: TestClient, configure: Configure, archive: Archive
) -> None:
    put(client, "field", archive({"cat": 2}))
    before = client.get("/v1/test-sets/field").json()
    status, refused = put(client, "field", b"no archive")
    assert (status, refused["type"]) == (415, "urn:keepsight:problem:unknown-archive")
    assert client.get("/v1/test-sets/field").json() == before
    status, _ = put(client, "field", archive({"owl": 3}))
    assert status == 200
    assert client.get("/v1/test-sets/field").json()["images_per_class"] == {"owl": 3}
    assert left_in_the_spool(configure()) == []


def test_of_an_archive_with_splits_the_test_split_is_the_set(client: TestClient, split: Callable[..., bytes]) -> None:
    status, stored = put(client, "field", split("cat", "owl"))
    assert status == 200, stored
    assert stored["test_set"]["images_per_class"] == {"cat": 2, "owl": 2}  # type: ignore[index]
    assert "6 images of other splits are not kept" in stored["validation"]["notes"][-1]  # type: ignore[index]


@pytest.mark.parametrize(
    ("name", "fields", "status", "slug"),
    [
        ("UPPER", {}, 422, "invalid-request"),
        ("a%2F..%2Fb", {}, 404, None),
        ("field", {"days": "0"}, 422, "invalid-request"),
        ("field", {"days": "nan"}, 422, "invalid-request"),
        ("field", {"days": "1e9"}, 422, "invalid-request"),
        ("field", {"surprise": "1"}, 422, "invalid-request"),
        ("field", {"reason": "x" * 1001}, 422, "invalid-request"),
    ],
)
def test_what_is_no_name_and_no_field_is_refused(
    client: TestClient, archive: Archive, name: str, fields: dict[str, str], status: int, slug: str | None
) -> None:
    found, body = put(client, name, archive({"cat": 1}), **fields)
    assert found == status, body
    assert slug is None or body["type"] == f"urn:keepsight:problem:{slug}"
    assert client.get("/v1/test-sets").json()["test_sets"] == []


def test_more_than_is_allowed_is_refused(configure: Configure, serve: Serve, archive: Archive) -> None:
    client = serve(configure(max_test_sets=1, max_test_set_images=3, max_test_set_bytes=40_000))
    status, body = put(client, "field", archive({"cat": 4}))
    assert (status, body["type"]) == (413, "urn:keepsight:problem:archive-too-large")
    assert put(client, "field", archive({"cat": 3}))[0] == 200
    status, body = put(client, "other", archive({"cat": 1}))
    assert (status, body["type"]) == (413, "urn:keepsight:problem:test-set-too-large")
    assert "at most 1 are allowed" in str(body["detail"])


def test_a_label_that_only_looks_like_a_known_class_is_refused(
    client: TestClient, archive: Archive, teach: Teach
) -> None:
    teach("cat")
    status, body = put(client, "field", archive({"CAT": 1}))
    assert (status, body["type"]) == (409, "urn:keepsight:problem:class-exists")


def test_a_task_may_keep_its_test_split_and_passes_it_over_by_default(
    client: TestClient, configure: Configure, store: Store, split: Callable[..., bytes]
) -> None:
    plain = client.post("/v1/tasks", files={"archive": split("cat", "owl")}, data={"name": "plain"}).json()
    assert plain["validation"]["test_set"] == {}
    assert plain["validation"]["passed_over"][0]["path"] == "test"
    assert client.get("/v1/test-sets").json()["test_sets"] == []
    answer = client.post(
        "/v1/tasks", files={"archive": split("cat", "owl")}, data={"name": "kept", "test_set": "field"}
    )
    assert answer.status_code == 202, answer.text
    validation = answer.json()["validation"]
    assert (validation["classes"], validation["test_set"]) == ({"cat": 3, "owl": 3}, {"cat": 2, "owl": 2})
    (found,) = client.get("/v1/test-sets").json()["test_sets"]
    assert (found["name"], found["reason"], found["unknown"]) == (
        "field",
        "the test split of the task 'kept'",
        ["cat", "owl"],
    )
    spool = Spool(configure().spool)
    note = read_note(spool, answer.json()["job_id"])
    assert note is not None
    learned = spool.read(answer.json()["job_id"])
    assert len(learned.files) == 6, "nothing of the test set is learned from"
    assert len(left_in_the_spool(configure())) == 2


def test_a_task_replaces_no_test_set(client: TestClient, archive: Archive, split: Callable[..., bytes]) -> None:
    put(client, "field", archive({"cat": 1}))
    form, upload = {"name": "t", "test_set": "field"}, split("cat")
    answer = client.post("/v1/tasks", files={"archive": upload}, data=form, headers={"Idempotency-Key": "k"})
    assert (answer.status_code, answer.json()["type"]) == (409, "urn:keepsight:problem:test-set-exists")
    assert client.get("/v1/jobs").json()["jobs"] == [] or all(
        job["name"] != "t" for job in client.get("/v1/jobs").json()["jobs"]
    )
    assert client.get("/v1/test-sets/field").json()["images"] == 1
    client.delete("/v1/test-sets/field")
    again = client.post("/v1/tasks", files={"archive": upload}, data=form, headers={"Idempotency-Key": "k"})
    assert again.status_code == 202, "the key of the refused request is free"
    twice = client.post("/v1/tasks", files={"archive": upload}, data=form, headers={"Idempotency-Key": "k"})
    assert (twice.status_code, twice.json()["job_id"]) == (202, again.json()["job_id"])


@pytest.mark.parametrize("form", [{"test_set": "../up"}, {"test_set": "UP"}])
def test_a_task_with_an_invalid_name_of_a_set_is_refused(
    client: TestClient, split: Callable[..., bytes], form: dict[str, str]
) -> None:
    answer = client.post("/v1/tasks", files={"archive": split("cat")}, data={"name": "t", **form})
    assert (answer.status_code, answer.json()["type"]) == (422, "urn:keepsight:problem:invalid-request")


def test_a_task_without_a_test_split_cannot_keep_one(
    client: TestClient, configure: Configure, archive: Archive
) -> None:
    answer = client.post("/v1/tasks", files={"archive": archive({"cat": 2})}, data={"name": "t", "test_set": "field"})
    assert (answer.status_code, answer.json()["type"]) == (422, "urn:keepsight:problem:invalid-task")
    assert "test split" in answer.json()["detail"]
    assert left_in_the_spool(configure()) == []


def test_a_set_whose_task_was_not_accepted_is_removed_again(
    client: TestClient, configure: Configure, split: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(self: Jobs, record: object) -> None:
        raise BrokerUnavailableError("gone")

    with monkeypatch.context() as patch:
        patch.setattr(Jobs, "create", gone)
        answer = client.post("/v1/tasks", files={"archive": split("cat")}, data={"name": "t", "test_set": "field"})
    assert answer.status_code == 503
    assert client.get("/v1/test-sets").json()["test_sets"] == []
    assert left_in_the_spool(configure()) == []


def test_sets_are_stored_and_removed_while_the_broker_is_gone(
    configure: Configure, serve: Serve, archive: Archive, teach: Teach
) -> None:
    version = teach("cat")
    client = serve(configure(redis_url="redis://127.0.0.1:9/0"))
    assert put(client, "field", archive({"cat": 2}))[0] == 200
    answer = client.post("/v1/evaluations", json={"versions": [version]})
    assert (answer.status_code, answer.json()["type"]) == (503, "urn:keepsight:problem:broker-unavailable")
    assert client.delete("/v1/test-sets/field").status_code == 200
    assert left_in_the_spool(configure()) == []


def test_an_evaluation_is_queued_behind_updates_with_a_note_and_cancelled_like_any_job(
    client: TestClient, configure: Configure, archive: Archive, teach: Teach
) -> None:
    version = teach("cat")
    missing = client.post("/v1/evaluations", json={"versions": [version]})
    assert (missing.status_code, missing.json()["type"]) == (404, "urn:keepsight:problem:test-set-not-found")
    put(client, "field", archive({"cat": 2}))
    answer = client.post("/v1/evaluations", json={"versions": [version, version], "test_set": "field"})
    assert answer.status_code == 202, answer.text
    job_id = answer.json()["job_id"]
    assert answer.headers["Location"] == answer.json()["location"] == f"/v1/jobs/{job_id}"
    job = client.get(f"/v1/jobs/{job_id}").json()
    assert (job["state"], job["evaluates"], job["merges"]) == ("queued", [version], None)
    assert job["name"] == f"evaluation of {version} on field"
    assert [path.name for path in Spool(configure().spool).folder(job_id).iterdir()] == ["job.json"]
    assert client.delete(f"/v1/jobs/{job_id}").json()["state"] == "cancelled"
    assert left_in_the_spool(configure()) == []


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"versions": []},
        {"versions": ["a"] * 101},
        {"versions": "a"},
        {"versions": [1]},
        {"versions": ["a"], "test_set": 1},
        {"versions": ["a"], "surprise": True},
    ],
)
def test_a_request_to_evaluate_that_is_none_is_refused(client: TestClient, body: dict[str, object]) -> None:
    answer = client.post("/v1/evaluations", json=body)
    assert (answer.status_code, answer.json()["type"]) == (422, "urn:keepsight:problem:invalid-request")


def test_what_was_not_measured_is_answered_with_the_command(client: TestClient, archive: Archive, teach: Teach) -> None:
    one, two = teach("cat"), teach("cat", "owl")
    put(client, "field", archive({"cat": 2}))
    report = client.get(f"/v1/versions/{two}/report").json()
    assert report["measure"] == f"keepsight evaluate {two} --test-set field"
    answer = client.get(f"/v1/versions/{one}/compare/{two}", params={"test_set": "field"})
    assert (answer.status_code, answer.json()["type"]) == (409, "urn:keepsight:problem:not-evaluated")
    assert answer.json()["measure"] == f"keepsight evaluate {one} {two} --test-set field"
    answer = client.get(f"/v1/versions/{one}/test-sets/field")
    assert (answer.status_code, answer.json()["type"]) == (409, "urn:keepsight:problem:not-evaluated")
    for path in (f"{one}/report", f"{one}/compare/{two}"):
        assert client.get(f"/v1/versions/{path}", params={"test_set": "none"}).status_code == 404
        assert client.get(f"/v1/versions/{path}", params={"test_set": "UP"}).status_code == 422


def test_both_clients_store_and_remove_a_set(
    configure: Configure, listen: Callable[[Settings], str], picture: Picture, tmp_path: Path, teach: Teach
) -> None:
    for name in ("cat", "owl"):
        (tmp_path / "field" / name).mkdir(parents=True)
        (tmp_path / "field" / name / "1.png").write_bytes(picture(ord(name[0])))
    url = listen(configure())
    version = teach("cat")
    with Client(url) as client:
        stored = client.put_test_set("field", tmp_path / "field", reason="a study", days=3)
        assert stored["test_set"]["unknown"] == ["owl"]
        assert client.test_sets()["test_sets"] == [stored["test_set"]]
        assert sorted(client.test_set("field")["labels"]) == ["cat", "owl"]
        assert client.report(version)["not_measured"] == [{"version_id": version, "test_set": "field"}]
        with pytest.raises(ApiError, match="keepsight evaluate"):
            client.compare(version, version)
        with pytest.raises(ApiError, match="keepsight evaluate"):
            client.evaluation(version, "field")
        job = client.evaluate([version], test_set="field")
        client.cancel(job["job_id"])
        assert client.remove_test_set("field", reason="done")["reason"] == "done"

    async def the_same() -> None:
        async with AsyncClient(url) as there:
            await there.put_test_set("field", tmp_path / "field")
            assert [found["name"] for found in (await there.test_sets())["test_sets"]] == ["field"]
            assert (await there.test_set("field"))["images"] == 2
            assert (await there.report(version, test_set="field"))["test_sets"] == ["field"]
            with pytest.raises(ApiError):
                await there.compare(version, version)
            with pytest.raises(ApiError):
                await there.evaluation(version, "field")
            accepted = await there.evaluate([version])
            await there.cancel(accepted["job_id"])
            assert (await there.remove_test_set("field"))["images"] == 2

    asyncio.run(the_same())


def test_the_metrics_show_what_the_served_version_has_right(
    configure: Configure, serve: Serve, archive: Archive, teach: Teach, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.startup.follow_test_sets.__kwdefaults__", {"every_s": 0.05})
    client = serve(configure())
    version = teach("cat", "owl")
    put(client, "field", archive({"cat": 2}))
    from segp_cl.models.load import load_backbone
    from segp_cl.runtime.classifier import Classifier
    from worker.on_test_sets import Ruler
    from worker.settings import WorkerSettings

    store = Store(configure().store)
    settings = WorkerSettings(store=store.root, model=configure().model, device="cpu", threads=1)
    base = load_backbone(settings.model_spec, device="cpu")
    Ruler(store, settings, base, batch_size=2).measure(Classifier(base, store.open(version))).save(store, version)
    wait_until(lambda: 'keepsight_test_set_accuracy{path="text",test_set="field"}' in client.get("/metrics").text)
    assert client.get(f"/v1/versions/{version}/test-sets/field").json()["images"] == 2
    client.delete("/v1/test-sets/field")
    wait_until(lambda: "keepsight_test_set_accuracy{" not in client.get("/metrics").text)
