"""Corrections over HTTP: kept, listed, removed, and learned by one job."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable

import pytest
from starlette.testclient import TestClient

from app.serving.answer_ids import answer_id
from app.settings import Settings
from exchange.corrections import taken_by
from exchange.jobs import Jobs
from exchange.spool import Spool
from keepsight.client import AsyncClient, Client
from keepsight.keys import KeyFile
from model_store.store import Store
from model_store.types import VersionId
from tests.waiting import wait_until

Teach = Callable[..., VersionId]
Configure = Callable[..., Settings]
Picture = Callable[..., bytes]


@pytest.fixture
def taught(client: TestClient, teach: Teach) -> VersionId:
    """A server that serves cats, dogs and owls."""
    version = teach("cat", "dog", "owl")
    wait_until(lambda: client.get("/v1/versions").json()["serving"] == version)
    return version


def correct(client: TestClient, image: bytes, **fields: str) -> dict[str, object]:
    answer = client.post("/v1/corrections", files={"image": ("a.png", image)}, data={"label": "cat", **fields})
    assert answer.status_code == 201, answer.text
    assert answer.headers["Location"] == f"/v1/corrections/{answer.json()['number']}"
    return dict(answer.json())


def test_a_correction_is_kept_with_what_is_answered_now(
    client: TestClient, taught: VersionId, picture: Picture, configure: Configure
) -> None:
    best = client.post("/v1/classify", files={"images": ("a.png", picture(1))}).json()["results"][0]["predictions"][0]
    kept = correct(client, picture(1), reason="it has whiskers", taught_as="dog")
    assert (kept["answered"], kept["answered_by"], kept["taught_as"]) == (best["label"], taught, "dog")
    assert kept["probability"] == pytest.approx(best["probability"])
    assert (kept["number"], kept["label"], kept["new_class"], kept["corrected_by"]) == (1, "cat", False, "local")
    listed = client.get("/v1/corrections").json()
    assert listed["corrections"] == [kept]
    assert (listed["bytes"], listed["learned_at_count"]) == (len(picture(1)), configure().corrections_learn_count)


def test_the_id_of_an_answer_says_what_was_answered_also_after_another_version_is_served(
    client: TestClient, taught: VersionId, teach: Teach, picture: Picture
) -> None:
    files = [("images", ("a.png", picture(1))), ("images", ("b.txt", b"text"))]
    first, broken = client.post("/v1/classify", files=files).json()["results"]
    assert broken["id"] is None
    version = teach("cat", "dog", "owl", "yak")
    wait_until(lambda: client.get("/v1/versions").json()["serving"] == version)
    kept = correct(client, picture(1), answer_id=first["id"])
    best = first["predictions"][0]
    assert (kept["answered"], kept["answered_by"]) == (best["label"], taught)
    assert kept["probability"] == pytest.approx(best["probability"])


def test_the_answer_that_an_id_names_may_be_to_words(client: TestClient, taught: VersionId, picture: Picture) -> None:
    asked = {"labels": ["ein Käfer", "snow"]}
    (found,) = client.post("/v1/classify", files={"images": picture(1)}, data=asked).json()["results"]
    kept = correct(client, picture(1), answer_id=found["id"])
    assert (kept["answered"], kept["answered_by"]) == (found["predictions"][0]["label"], taught)


def test_an_id_that_is_not_of_this_image_is_refused(client: TestClient, taught: VersionId, picture: Picture) -> None:
    (found,) = client.post("/v1/classify", files={"images": picture(1)}).json()["results"]
    for given, said in (
        (answer_id("000002-aaaaaaaaaaaa", picture(1), "cat", 0.5), "there never was a version"),
        (answer_id(taught, picture(2), "cat", 0.5), "another image"),
        (found["id"][:-3] + "AAA", "expected the id of an answer"),
        (answer_id(taught, picture(1), "cat", float("nan")), "expected the id of an answer"),
        (answer_id(taught, picture(1), "cat", 7.0), "expected the id of an answer"),
        (answer_id(taught, picture(1), "", 0.5), "expected the id of an answer"),
        ("", "expected the id of an answer"),
        ("é" * 30, "expected the id of an answer"),
    ):
        answer = client.post("/v1/corrections", files={"image": picture(1)}, data={"label": "cat", "answer_id": given})
        assert (answer.status_code, said in answer.json()["detail"]) == (422, True), answer.text
    twice = {"label": "cat", "answer_id": found["id"], "answered": "owl"}
    answer = client.post("/v1/corrections", files={"image": picture(1)}, data=twice)
    assert (answer.status_code, "answer_id says" in answer.text) == (422, True)
    assert client.get("/v1/corrections").json()["corrections"] == []


def test_json_with_base64_and_what_the_client_was_answered(
    client: TestClient, taught: VersionId, picture: Picture
) -> None:
    body = {
        "image": base64.b64encode(picture(1)).decode(),
        "label": "axolotl",
        "new_class": True,
        "answered": "owl",
        "probability": 0.25,
        "answered_by": "000001-aaaaaaaaaaaa",
    }
    kept = client.post("/v1/corrections", json=body).json()
    assert (kept["label"], kept["new_class"], kept["answered"], kept["probability"]) == ("axolotl", True, "owl", 0.25)


@pytest.mark.parametrize(
    ("fields", "status", "said"),
    [
        ({"label": "axolotl"}, 422, "new_class=true"),
        ({"label": "Cat", "new_class": "true"}, 409, "known class"),
        ({"label": "cat", "taught_as": "axolotl"}, 422, "taught_as: the served version has no class"),
        ({"label": "cat", "taught_as": "cat"}, 422, "nothing to correct"),
        ({"label": ""}, 422, "label"),
        ({"label": "cat", "probability": "2"}, 422, "probability"),
        ({"label": "cat", "colour": "red"}, 422, "colour"),
    ],
)
def test_what_cannot_be_learned_is_refused(
    client: TestClient, taught: VersionId, picture: Picture, fields: dict[str, str], status: int, said: str
) -> None:
    answer = client.post("/v1/corrections", files={"image": ("a.png", picture(1))}, data=fields)
    assert answer.status_code == status, answer.text
    assert said in answer.json()["detail"]
    assert client.get("/v1/corrections").json()["corrections"] == []


def test_an_image_that_cannot_be_decoded_is_refused(client: TestClient, taught: VersionId) -> None:
    answer = client.post("/v1/corrections", files={"image": ("a.png", b"no image")}, data={"label": "cat"})
    assert (answer.status_code, answer.json()["type"]) == (422, "urn:keepsight:problem:undecodable-image")
    answer = client.post("/v1/corrections", json={"image": "!", "label": "cat"})
    assert answer.status_code == 422
    answer = client.post("/v1/corrections", data={"label": "cat"}, files={"images": ("a.png", b"x")})
    assert "in the field 'image'" in answer.json()["detail"]


def test_there_is_a_quota(
    configure: Configure, serve: Callable[[Settings], TestClient], teach: Teach, picture: Picture
) -> None:
    client = serve(configure(corrections_max=1))
    version = teach("cat", "dog")
    wait_until(lambda: client.get("/v1/versions").json()["serving"] == version)
    correct(client, picture(1))
    answer = client.post("/v1/corrections", files={"image": ("a.png", picture(2))}, data={"label": "cat"})
    assert (answer.status_code, answer.json()["type"]) == (507, "urn:keepsight:problem:corrections-full")


def test_they_are_removed_one_by_one_and_all_at_once(client: TestClient, taught: VersionId, picture: Picture) -> None:
    for number in range(3):
        correct(client, picture(number))
    assert client.delete("/v1/corrections/2").json() == {"removed": 1}
    assert client.delete("/v1/corrections/2").json()["type"] == "urn:keepsight:problem:correction-not-found"
    assert client.delete("/v1/corrections").json() == {"removed": 2}
    assert client.get("/v1/corrections").json()["corrections"] == []


def test_one_job_learns_them_and_a_cancelled_one_gives_a_receipt(
    client: TestClient, taught: VersionId, picture: Picture, configure: Configure, redis_url: str
) -> None:
    assert client.post("/v1/corrections/learn").json()["type"] == "urn:keepsight:problem:no-corrections"
    for number in range(2):
        correct(client, picture(number))
    answer = client.post("/v1/corrections/learn")
    assert (answer.status_code, answer.json()["corrections"]) == (202, 2)
    job_id = answer.json()["job_id"]
    assert answer.headers["Location"] == answer.json()["location"] == f"/v1/jobs/{job_id}"
    assert client.get("/v1/corrections").json()["corrections"] == []
    spool = Spool(configure().spool)
    assert [each.number for each in taken_by(spool, job_id)] == [1, 2]
    job = client.get(f"/v1/jobs/{job_id}").json()
    assert (job["state"], job["name"], job["corrections"], job["receipt"]) == ("queued", "2 corrections", 2, None)
    jobs = Jobs(redis_url)
    waiting = iter(lambda: jobs.next_instant(0.1), None)  # with those of other tests
    assert job_id in list(waiting)

    cancelled = client.delete(f"/v1/jobs/{job_id}").json()
    assert (cancelled["receipt"]["corrections"], cancelled["receipt"]["learned"]) == (2, False)
    assert client.get(f"/v1/jobs/{job_id}").json()["receipt"] == cancelled["receipt"]
    assert not spool.folder(job_id).exists()
    assert client.get("/v1/corrections").json()["corrections"] == []


def test_without_redis_they_wait(
    configure: Configure, serve: Callable[[Settings], TestClient], teach: Teach, picture: Picture
) -> None:
    client = serve(configure(redis_url="redis://127.0.0.1:1/0"))
    version = teach("cat", "dog")
    wait_until(lambda: client.get("/v1/versions").json()["serving"] == version)
    correct(client, picture(1))
    answer = client.post("/v1/corrections/learn")
    assert answer.json()["type"] == "urn:keepsight:problem:broker-unavailable"
    assert len(client.get("/v1/corrections").json()["corrections"]) == 1


def test_a_key_for_classifying_does_not_teach(client: TestClient, configure: Configure, picture: Picture) -> None:
    token = KeyFile(configure().keys_file).create("ada", ["classify"]).token
    answer = client.post(
        "/v1/corrections",
        files={"image": ("a.png", picture(1))},
        data={"label": "cat"},
        headers={"Authorization": f"Bearer {token}"},
    )
    assert answer.status_code == 403


def test_both_clients_do_it_all(
    configure: Configure, listen: Callable[[Settings], str], store: Store, client: TestClient, taught: VersionId,
    picture: Picture,
) -> None:  # fmt: skip
    url = listen(configure())

    async def with_the_other() -> list[object]:
        async with AsyncClient(url) as other:
            kept = await other.correct(("b.png", picture(2)), "dog", answered="cat", probability=0.5, answered_by="x")
            found = await other.corrections()
            removed = await other.remove_correction(kept["number"])
            return [kept["answered"], len(found["corrections"]), removed["removed"]]

    with Client(url) as first:
        assert first.correct(picture(1), "owl", taught_as="cat", reason="it has feathers")["taught_as"] == "cat"
        assert asyncio.run(with_the_other()) == ["cat", 2, 1]
        accepted = first.learn_corrections()
        assert (accepted["corrections"], first.job(accepted["job_id"])["state"]) == (1, "queued")
        assert first.remove_corrections() == {"removed": 0}
