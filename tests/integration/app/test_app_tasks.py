from __future__ import annotations

import io
import tarfile
import unicodedata
import zipfile
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from app.main import create_app
from app.settings import Settings
from exchange.contracts import JobState
from exchange.jobs import Jobs
from exchange.spool import Spool
from model_store.types import VersionId

Archive = Callable[[Mapping[str, int]], bytes]
Picture = Callable[..., bytes]


@pytest.fixture
def spool(configure: Callable[..., Settings]) -> Spool:
    return Spool(configure().spool)


@pytest.fixture
def jobs(redis_url: str) -> Jobs:
    return Jobs(redis_url)


def teach_task(client: TestClient, data: bytes, *, headers: Mapping[str, str] | None = None, **fields: str) -> Any:
    form = {"name": "animals", **fields}
    return client.post("/v1/tasks", files={"archive": ("animals.zip", data)}, data=form, headers=dict(headers or {}))


def refused(client: TestClient, spool: Spool, picture: Picture, status: int, response: Any) -> Any:
    """The problem of a refusal, after making sure that nothing was left behind and the service goes on."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    assert list(spool.root.iterdir()) == []
    answer = client.post("/v1/classify", files={"images": picture(1)}, data={"labels": ["a", "b"]})
    assert answer.status_code == 200
    return response.json()


def zip_of(members: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        for path, data in members.items():
            file.writestr(path, data)
    return buffer.getvalue()


def test_an_upload_becomes_a_job_with_its_images_in_the_spool(
    client: TestClient, archive: Archive, spool: Spool, jobs: Jobs
) -> None:
    response = teach_task(
        client, archive({"cat": 3, "dog": 2}), template="a sketch of a {}.", config='{"epochs": 2}', seed="7"
    )
    assert response.status_code == 202, response.text
    body = response.json()
    assert body["location"] == response.headers["location"] == f"/v1/jobs/{body['job_id']}"
    assert body["validation"] == {
        "classes": {"cat": 3, "dog": 2},
        "accepted": 5,
        "held_out": {},
        "rejected": [],
        "rejected_count": 0,
        "passed_over": [],
        "passed_over_count": 0,
        "repeated": [],
        "repeated_count": 0,
        "test_set": {},
        "renamed": [],
        "notes": ["the classes are the folders in 'data'"],
    }
    index = spool.read(body["job_id"])
    assert (index.classes, len(index.files)) == (("cat", "dog"), 5)
    record = jobs.get(body["job_id"])
    assert record.state is JobState.QUEUED
    assert record.job.dataset_digest == index.digest  # the worker refuses anything else
    assert [(c.name, c.prompt, c.images) for c in record.job.classes] == [
        ("cat", "a sketch of a cat.", 3),
        ("dog", "a sketch of a dog.", 2),
    ]
    assert (record.job.config, record.job.seed, record.job.submitted_by) == ({"epochs": 2}, 7, "local")
    assert (record.job.instant, record.instant) == (True, None)
    assert jobs.next_instant(1) == body["job_id"]  # it is asked for a version without training first
    view = client.get(body["location"]).json()
    assert (view["state"], view["name"], view["progress"]) == ("queued", "animals", None)
    assert view["validation"] == body["validation"]
    assert body["job_id"] in [job["job_id"] for job in client.get("/v1/jobs").json()["jobs"]]


def test_rejects_are_reported_beside_what_was_taken(client: TestClient, picture: Picture) -> None:
    data = zip_of({"cat/1.png": picture(1), "cat/2.png": b"text", "cat/more.zip": zip_of({"x": b"y"})})
    validation = teach_task(client, data).json()["validation"]
    assert validation["classes"] == {"cat": 1}
    assert {r["path"] for r in validation["rejected"]} == {"cat/2.png", "cat/more.zip"}


def bad_archives(picture: Picture) -> dict[str, tuple[int, bytes, str]]:
    cat = {"cat/1.png": picture(1)}
    link = io.BytesIO()
    with tarfile.open(fileobj=link, mode="w:gz") as file:
        info = tarfile.TarInfo("cat/1.png")
        info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
        file.addfile(info)
    return {
        "a path that climbs out": (422, zip_of({**cat, "../../evil.png": picture(2)}), "climbs out"),
        "an absolute path": (422, zip_of({**cat, "/evil.png": picture(2)}), "absolute"),
        "a symbolic link": (422, link.getvalue(), "symbolic link"),
        "a zip bomb": (413, zip_of({"cat/1.png": bytes(70 * 1024 * 1024)}), "unpacks to"),
        "only a nested archive": (422, zip_of({"cat/x.zip": zip_of(cat)}), "no usable image"),
        "no image at all": (422, zip_of({}), "no usable image"),
        "a class with none left": (422, zip_of({**cat, "dog/1.png": b"text"}), "'dog'"),
        "names that differ by case": (422, zip_of({**cat, "Cat/1.png": picture(2)}), "only by case"),
        "names that differ by width": (422, zip_of({**cat, "ｃａｔ/1.png": picture(2)}), "are they one class"),
        "a name of nothing visible": (422, zip_of({**cat, "\u200b/1.png": picture(2)}), "invisible"),
        "folders that may be either": (
            422,
            zip_of({"a/x/1.png": b"", "b/x/1.png": b"", "b/y/2.png": b""}),
            "either level",
        ),
        "a split without classes": (422, zip_of({"train/1.png": b"", "val/2.png": b""}), "train/cat/1.jpg"),
        "a class in val alone": (
            422,
            zip_of({"train/cat/1.png": b"", "val/dog/1.png": b""}),
            "not in the train split: 'dog'",
        ),
        "a name of 10,000 characters": (422, zip_of({"a" * 10_000 + "/1.png": picture(1)}), "10000 characters"),
        "a control character": (422, zip_of({"cat\x07/1.png": picture(1)}), "cannot be shown"),
        "a truncated zip": (422, zip_of(cat)[:-30], "damaged"),
        "a picture": (415, picture(1), "format is unknown"),
        "nothing": (415, b"", "format is unknown"),
    }


def test_bad_archives_are_refused_with_a_reason_and_leave_nothing(
    client: TestClient, spool: Spool, picture: Picture, tmp_path: Path
) -> None:
    for what, (status, data, reason) in bad_archives(picture).items():
        problem = refused(client, spool, picture, status, teach_task(client, data))
        assert reason in problem["detail"], what
    assert not list(tmp_path.rglob("*evil*"))


def test_a_data_set_as_people_have_it_is_taken_and_all_of_it_is_told(
    client: TestClient, spool: Spool, jobs: Jobs, picture: Picture
) -> None:
    body = teach_task(
        client,
        zip_of(
            {
                "pets/README.md": b"pets",
                "pets/train/cat/1.png": picture(1),
                "pets/train/cat/2021/2.png": picture(2),
                "pets/train/cat/@eaDir/thumb.png": picture(2),
                "pets/train/do\u00adg/3.png": picture(3),
                "pets/train/dog/4.png": b"text",
                "pets/val/cat/5.png": picture(5),
                "pets/val/dog/6.png": picture(1),
                "pets/test/7.png": picture(7),
                "pets/train/owl/": b"",
                "__MACOSX/pets/._1.png": b"x",
            }
        ),
    ).json()
    validation = body["validation"]
    assert validation["classes"] == {"cat": 3, "dog": 2}
    assert validation["held_out"] == {"cat": 1, "dog": 1}
    assert [row["path"] for row in validation["rejected"]] == ["pets/README.md", "pets/train/dog/4.png"]
    assert {row["path"]: row["entries"] for row in validation["passed_over"]} == {
        "pets/train/cat/@eaDir": 1, "pets/test": 1, "__MACOSX": 1, "pets/train/owl": 1,
    }  # fmt: skip
    assert validation["repeated"] == [
        {"path": "pets/val/dog/6.png", "label": "dog", "first_path": "pets/train/cat/1.png", "first_label": "cat"}
    ]
    assert validation["renamed"] == [{"typed": "do\u00adg", "taught": "dog"}]
    index = spool.read(body["job_id"])
    held_out = {(index.classes[index.labels[i]], index.files[i].read_bytes()) for i in index.held_out}
    assert held_out == {("cat", picture(5)), ("dog", picture(1))}
    assert client.get(body["location"]).json()["validation"] == validation
    assert jobs.get(body["job_id"]).job.dataset_digest == index.digest


def test_names_in_an_unsaid_encoding_are_asked_for_and_then_read(
    client: TestClient, spool: Spool, picture: Picture
) -> None:
    data = zip_of({"aaaa/1.png": picture(1)}).replace(b"aaaa", "кошк".encode("cp866"))
    problem = refused(client, spool, picture, 422, teach_task(client, data))
    assert problem["type"] == "urn:keepsight:problem:archive-refused"
    assert {"encoding": "cp866", "reads": ["кошк/1.png"]} in problem["encodings"]
    assert teach_task(client, data, encoding="CP866").json()["validation"]["classes"] == {"кошк": 1}


def test_both_unicode_forms_of_a_name_are_one_class(client: TestClient, picture: Picture) -> None:
    nfc, nfd = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
    validation = teach_task(client, zip_of({f"{nfc}/1.png": picture(1), f"{nfd}/2.png": picture(2)})).json()[
        "validation"
    ]
    assert validation["classes"] == {nfc: 2}
    assert validation["renamed"] == [{"typed": nfd, "taught": nfc}]


def test_a_refusal_for_an_empty_class_carries_the_report(client: TestClient, picture: Picture) -> None:
    data = zip_of({"cat/1.png": picture(1), "dog/1.png": b"text"})
    problem = teach_task(client, data).json()
    assert problem["validation"]["classes"] == {"cat": 1, "dog": 0}
    assert problem["validation"]["rejected"][0]["path"] == "dog/1.png"


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"template": ""}, "{}"),
        ({"template": "a photo"}, "{}"),
        ({"config": '{"epochs": 0}'}, "config.epochs"),
        ({"config": '{"epoch": 3}'}, "config.epoch"),
        ({"config": "[1]"}, "config"),
        ({"config": "{oops"}, "config"),
        ({"seed": "-1"}, "seed"),
        ({"extend": "perhaps"}, "extend"),
        ({"name": ""}, "name"),
        ({"name": "a\x07b"}, "name"),
        ({"encoding": "base64"}, "expected one of utf-8, gbk"),
        ({"encoding": "x" * 10_000}, "encoding"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_bad_fields_are_refused_by_name(
    client: TestClient, spool: Spool, picture: Picture, archive: Archive, fields: dict[str, str], said: str
) -> None:
    problem = refused(client, spool, picture, 422, teach_task(client, archive({"cat": 1}), headers=None, **fields))
    assert said in problem["detail"]


def test_a_form_without_archive_or_name_or_of_another_type_is_refused(
    client: TestClient, spool: Spool, picture: Picture, archive: Archive
) -> None:
    data = archive({"cat": 1})
    no_archive = client.post("/v1/tasks", files={"x": (None, "y")}, data={"name": "a"})
    assert "archive" in refused(client, spool, picture, 422, no_archive)["detail"]
    no_name = client.post("/v1/tasks", files={"archive": data})
    assert "name" in refused(client, spool, picture, 422, no_name)["detail"]
    two = client.post("/v1/tasks", files=[("archive", data), ("archive", data)], data={"name": "a"})
    refused(client, spool, picture, 422, two)
    refused(client, spool, picture, 415, client.post("/v1/tasks", json={"name": "a"}))
    cut = client.post(
        "/v1/tasks",
        content=b'--b\r\nContent-Disposition: form-data; name="archive"; filename="a"\r\n\r\nhalf',
        headers={"content-type": "multipart/form-data; boundary=b"},
    )
    refused(client, spool, picture, 400, cut)


def test_a_known_class_is_refused_unless_more_of_it_is_asked_for(
    client: TestClient, spool: Spool, picture: Picture, archive: Archive, teach: Callable[..., VersionId]
) -> None:
    teach("cat")
    problem = refused(client, spool, picture, 409, teach_task(client, archive({"cat": 1, "dog": 1})))
    assert "'cat' is already known" in problem["detail"]
    for alike in ("Cat", "ｃａｔ", "cat.", "саt"):
        refused(client, spool, picture, 409, teach_task(client, archive({alike: 1}), extend="true"))
    assert teach_task(client, archive({"c\u200bat": 1}), extend="true").json()["validation"]["classes"] == {"cat": 1}
    assert teach_task(client, archive({"cat": 1, "dog": 1}), extend="true").status_code == 202


def test_the_same_key_and_content_make_one_job(
    client: TestClient, archive: Archive, spool: Spool, tmp_path: Path
) -> None:
    key = {"Idempotency-Key": f"same-{tmp_path}"}
    data = archive({"cat": 2})
    first = teach_task(client, data, headers=key)
    second = teach_task(client, data, headers=key)
    assert first.status_code == second.status_code == 202
    assert first.json() == second.json()
    assert "idempotency-replayed" not in first.headers
    assert second.headers["idempotency-replayed"] == "true"
    assert len(list(spool.root.iterdir())) == 1


def test_the_same_key_with_other_content_is_refused(client: TestClient, archive: Archive, tmp_path: Path) -> None:
    key = {"Idempotency-Key": f"other-{tmp_path}"}
    assert teach_task(client, archive({"cat": 2}), headers=key).status_code == 202
    for response in (
        teach_task(client, archive({"cat": 3}), headers=key),
        teach_task(client, archive({"cat": 2}), headers=key, seed="9"),
    ):
        assert response.status_code == 422
        assert response.json()["type"] == "urn:keepsight:problem:idempotency-mismatch"


def test_a_refused_upload_does_not_use_its_key_up(
    client: TestClient, archive: Archive, picture: Picture, tmp_path: Path
) -> None:
    key = {"Idempotency-Key": f"refused-{tmp_path}"}
    assert teach_task(client, zip_of({"cat/1.png": b"text"}), headers=key).status_code == 422
    assert teach_task(client, archive({"cat": 1}), headers=key).status_code == 202


def test_the_same_key_at_the_same_time_makes_one_job(
    client: TestClient, archive: Archive, spool: Spool, tmp_path: Path
) -> None:
    key = {"Idempotency-Key": f"race-{tmp_path}"}
    data = archive({"cat": 10})
    with ThreadPoolExecutor(5) as pool:
        responses = list(pool.map(lambda _: teach_task(client, data, headers=key), range(5)))
    assert [r.status_code for r in responses] == [202] * 5
    assert len({r.json()["job_id"] for r in responses}) == 1
    assert sum("idempotency-replayed" in r.headers for r in responses) == 4
    assert len(list(spool.root.iterdir())) == 1


def test_a_key_left_by_a_server_that_died_is_taken_over(
    client: TestClient, archive: Archive, jobs: Jobs, spool: Spool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.intake.submission.FIRST_WAIT_S", 0.1)
    key, data = f"dead-{tmp_path}", archive({"cat": 1})
    first = teach_task(client, data, headers={"Idempotency-Key": key}).json()["job_id"]
    jobs.discard(first)
    spool.purge(first)
    second = teach_task(client, data, headers={"Idempotency-Key": key})
    assert second.status_code == 202
    assert second.json()["job_id"] != first
    assert "idempotency-replayed" not in second.headers


def test_an_upload_over_the_limit_is_refused_at_once_or_on_the_way(
    configure: Callable[..., Settings],
    serve: Callable[..., TestClient],
    spool: Spool,
    picture: Picture,
    archive: Archive,
) -> None:
    client = serve(configure(max_upload_bytes=100_000))
    announced = client.post(
        "/v1/tasks",
        content=b"",
        headers={"content-length": "3000000000", "content-type": "multipart/form-data; boundary=b"},
    )
    assert "3000000000 bytes; at most 100000" in refused(client, spool, picture, 413, announced)["detail"]

    def chunks() -> Any:
        yield b'--b\r\nContent-Disposition: form-data; name="archive"; filename="a"\r\n\r\n'
        for _ in range(30):
            yield bytes(10_000)

    chunked = client.post("/v1/tasks", content=chunks(), headers={"content-type": "multipart/form-data; boundary=b"})
    assert "100000" in refused(client, spool, picture, 413, chunked)["detail"]
    assert teach_task(client, archive({"cat": 1})).status_code == 202


def test_without_redis_uploads_are_told_to_come_back_and_leave_nothing(
    configure: Callable[..., Settings],
    serve: Callable[..., TestClient],
    spool: Spool,
    picture: Picture,
    archive: Archive,
) -> None:
    client = serve(configure(redis_url="redis://127.0.0.1:1/0"))
    response = teach_task(client, archive({"cat": 1}), headers={"Idempotency-Key": "x"})
    refused(client, spool, picture, 503, response)
    assert int(response.headers["retry-after"]) > 0
    for path in ("/v1/jobs", "/v1/jobs/" + "0" * 32, "/v1/jobs/" + "0" * 32 + "/events"):
        assert client.get(path).status_code == 503
    ready = client.get("/readyz")
    assert (ready.status_code, ready.json()["broker"]) == (200, "unreachable")


class GoneHalfway(Jobs):
    """A broker whose Redis goes away while an upload is validated."""

    def ping(self) -> None:
        return


def test_redis_that_goes_during_the_upload_leaves_nothing(
    client: TestClient, spool: Spool, picture: Picture, archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    app: Any = client.app
    jobs = app.state.services.jobs
    gone = GoneHalfway("redis://127.0.0.1:1/0", timeout_s=0.2)
    object.__setattr__(app.state.services, "jobs", gone)
    response = teach_task(client, archive({"cat": 1}))
    object.__setattr__(app.state.services, "jobs", jobs)
    refused(client, spool, picture, 503, response)
    assert teach_task(client, archive({"cat": 1})).status_code == 202


def test_neither_names_nor_bytes_of_uploads_are_logged(
    client: TestClient, picture: Picture, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG", "app")
    data = zip_of({"secretclass/secretfile.png": picture(1), "secretclass/secretbad.png": b"secretbytes"})
    assert teach_task(client, data, name="secretname").status_code == 202
    client.post("/v1/classify?labels=secretlabel&labels=b", files={"images": ("secretfile.png", b"secretbytes")})
    assert any("task accepted" in r.getMessage() for r in caplog.records)
    assert "secret" not in caplog.text


def test_an_accepted_job_outlives_a_broker_that_loses_all_its_data(
    client: TestClient, archive: Archive, jobs: Jobs, tmp_path: Path
) -> None:
    key, data = f"lost-{tmp_path}", archive({"cat": 1})
    accepted = teach_task(client, data, headers={"Idempotency-Key": key})
    job_id = accepted.json()["job_id"]
    before = client.get(f"/v1/jobs/{job_id}").json()
    jobs._redis.flushdb()
    assert client.get(f"/v1/jobs/{job_id}").json() == before
    again = teach_task(client, data, headers={"Idempotency-Key": key})
    assert again.json()["job_id"] == job_id
    assert again.headers["Idempotency-Replayed"] == "true"


@pytest.mark.parametrize(
    ("override", "bound"),
    [
        ('{"k_adv": 1e9}', "integer"),
        ('{"k_adv": 1000000000}', "less than or equal to 100"),
        ('{"align_steps": 1000000000}', "less than or equal to 20000"),
        ('{"fusion_weight": Infinity}', "finite"),
        ('{"fusion_weight": NaN}', "finite"),
        ('{"learning_rate": 1e300}', "less than or equal to 100"),
        ('{"batch_size": 1' + "0" * 400 + "}", "less than or equal to 4096"),
        ('{"learning_rate": "1e999"}', "valid number"),
        ('{"epochs": true}', "valid integer"),
    ],
)
def test_hyper_parameters_without_an_end_are_refused_with_their_name_and_bound(
    client: TestClient, archive: Archive, spool: Spool, picture: Picture, override: str, bound: str
) -> None:
    response = teach_task(client, archive({"cat": 1}), config=override)
    problem = refused(client, spool, picture, 422, response)
    name = override.split('"')[1]
    assert name in problem["detail"]
    assert bound in problem["detail"]


def test_jobs_are_listed_in_pages(client: TestClient, archive: Archive) -> None:
    made = [teach_task(client, archive({f"class {n}": 1})).json()["job_id"] for n in range(3)][::-1]
    first = client.get("/v1/jobs", params={"limit": 2}).json()
    assert [job["job_id"] for job in first["jobs"]] == made[:2]
    rest = client.get("/v1/jobs", params={"limit": 1, "before": first["next"]}).json()
    assert [job["job_id"] for job in rest["jobs"]] == made[2:]
    for bad in ({"limit": 0}, {"limit": 1001}, {"limit": "x"}):
        assert client.get("/v1/jobs", params=bad).status_code == 422
    assert client.get("/v1/jobs", params={"before": "nobody"}).status_code == 404


def test_a_dry_run_is_a_job_that_learns_nothing(client: TestClient, archive: Archive) -> None:
    files = {"archive": ("pets.zip", archive({"cat": 2, "dog": 3}))}
    accepted = client.post("/v1/tasks", data={"name": "pets", "dry_run": "true"}, files=files)
    assert accepted.status_code == 202
    assert accepted.json()["validation"]["classes"] == {"cat": 2, "dog": 3}
    assert client.get(accepted.json()["location"]).json()["dry_run"] is True
    for more in ({"parent": "000001-0123456789ab"}, {"test_set": "field"}):
        refused = client.post("/v1/tasks", data={"name": "pets", "dry_run": "true", **more}, files=files)
        assert (refused.status_code, "dry_run learns and keeps nothing" in refused.json()["detail"]) == (422, True)


def test_a_parent_that_is_not_there_is_404_and_the_description_says_so(client: TestClient, archive: Archive) -> None:
    files = {"archive": ("pets.zip", archive({"cat": 1}))}
    refused = client.post("/v1/tasks", data={"name": "pets", "parent": "000009-0123456789ab"}, files=files)
    assert (refused.status_code, refused.json()["type"]) == (404, "urn:keepsight:problem:version-not-found")
    responses = create_app(Settings(store=Path("unused"))).openapi()["paths"]["/v1/tasks"]["post"]["responses"]
    assert "404" in responses
