"""The pages that look after what was learned, over HTTP: lists, details, and who sees what."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import pytest
from starlette.testclient import TestClient

from app.settings import Settings
from keepsight.keys import KeyFile
from model_store.store import Store
from model_store.types import VersionId
from tests.waiting import wait_until

Teach = Callable[..., VersionId]
Configure = Callable[..., Settings]
SAME = {"Sec-Fetch-Site": "same-origin"}


def named(text: str) -> list[str]:
    return re.findall(r'<th scope="row" class="named"><strong>([^<]+)</strong>', text)


@pytest.fixture
def many(client: TestClient, teach: Teach) -> Sequence[str]:
    names = [f"class {number:03d}" for number in range(120)]
    version = teach(*names)
    wait_until(lambda: client.get("/v1/versions").json()["serving"] == version)
    return names


def test_classes_are_paged_searched_and_ordered(client: TestClient, many: Sequence[str]) -> None:
    assert named(client.get("/classes").text) == list(many[:50])
    assert named(client.get("/part/classes", params={"page": 3}).text) == list(many[100:])
    assert named(client.get("/part/classes", params={"q": "CLASS 04"}).text) == list(many[40:50])
    assert "No class has this in its name." in client.get("/part/classes", params={"q": "yak"}).text
    for order in ("name", "images", "accuracy", "task"):
        assert len(named(client.get("/part/classes", params={"order": order}).text)) == 50
    assert client.get("/classes", params={"order": "colour"}).status_code == 422


def test_an_edit_is_of_classes_that_are_known(client: TestClient, teach: Teach) -> None:
    teach("<b>cat</b>", "dog")
    one = client.get("/part/classes/edit", params={"name": "<b>cat</b>"})
    assert "&lt;b&gt;cat" in one.text
    assert "<b>cat" not in one.text
    assert "What they are called then" in client.get("/part/classes/edit?name=dog&name=<b>cat</b>").text
    assert client.get("/part/classes/edit", params={"name": "yak"}).status_code == 404


def test_versions_are_listed_drawn_and_shown(client: TestClient, teach: Teach, store: Store) -> None:
    first = store.current()
    version = teach("cat", "dog")
    text = client.get("/versions").text
    assert text.count('data-compare="') == len(store.list())
    nodes = client.get("/part/versions/graph").json()["nodes"]
    assert [(node["id"], node["lane"]) for node in nodes] == [(first, 0), (version, 0)]
    assert nodes[1]["parents"] == [first]
    assert [node["current"] for node in nodes] == [False, True]
    shown = client.get(f"/versions/{version}")
    assert shown.status_code == 200
    assert version in shown.text
    assert client.get("/versions/000009-aaaaaaaaaaaa").status_code == 404
    assert "There is none of these." in client.get("/part/versions", params={"only": "pinned"}).text
    store.pin(version, who="ann", reason="")
    assert "pinned" in client.get("/part/versions", params={"only": "pinned"}).text


def test_two_versions_are_compared_as_far_as_it_is_known(client: TestClient, teach: Teach) -> None:
    assert "Choose two versions." in client.get("/versions/compare").text
    version = teach("cat", "dog")
    text = client.get("/versions/compare").text
    assert "Classes added" in text
    assert "There is no test set yet." in text
    assert client.get("/versions/compare", params={"a": version, "b": "000009-aaaaaaaaaaaa"}).status_code == 404


def test_a_branch_off_the_lineage_has_a_lane_of_its_own(client: TestClient, teach: Teach, store: Store) -> None:
    base = teach("cat")
    side = teach("cat", "dog")
    store.rollback(base, who="ann", reason="it forgot")
    on = teach("cat", "owl")
    lanes = {node["id"]: node["lane"] for node in client.get("/part/versions/graph").json()["nodes"]}
    assert store.manifest(on).parent == base
    assert (lanes[base], lanes[on]) == (0, 0)
    assert lanes[side] > 0


def test_what_goes_on_is_told_by_scope(client: TestClient, configure: Configure, picture: Callable[..., bytes]) -> None:
    keys = KeyFile(configure().keys_file)
    for scopes, sees_jobs, sees_journal in (
        (["classify"], False, False),
        (["train"], True, False),
        (["admin"], False, True),
    ):
        token = keys.create("k", scopes).token
        client.cookies.clear()
        client.post("/sign-in", data={"key": token, "next": "/live"}, headers=SAME)
        now = client.get("/part/live").json()
        assert [process["state"] for process in now["processes"]] == ["serving"]
        assert now["processes"][0]["figures"]["queue"] == 0
        assert (now["jobs"] is not None) is sees_jobs
        assert ("<li>" in client.get("/part/live/journal").text) is sees_journal
        assert client.get("/keys").status_code == (200 if "admin" in scopes else 403)
        assert client.get("/corrections").status_code == (200 if "train" in scopes else 403)
        assert ("Store a test set" in client.get("/test-sets").text) is ("admin" in scopes)


def test_keys_show_no_digest(client: TestClient, configure: Configure) -> None:
    assert "There are no keys." in client.get("/keys").text
    made = KeyFile(configure().keys_file).create("ada", ["admin"])
    client.post("/sign-in", data={"key": made.token, "next": "/keys"}, headers=SAME)
    text = client.get("/keys").text
    assert "ada" in text
    assert made.token not in text
    assert made.key.sha256 not in text


def test_corrections_and_test_sets_are_shown(
    client: TestClient, teach: Teach, picture: Callable[..., bytes], archive: Callable[..., bytes]
) -> None:
    version = teach("cat", "dog")
    wait_until(lambda: client.get("/v1/versions").json()["serving"] == version)
    client.post("/v1/corrections", files={"image": picture(1)}, data={"label": "cat", "reason": "it has <whiskers>"})
    assert "it has &lt;whiskers&gt;" in client.get("/corrections").text
    client.put("/v1/test-sets/field", files={"archive": archive({"cat": 2, "yak": 1})})
    text = client.get("/test-sets").text
    assert "1 label is not known to the current version." in text
    assert 'data-remove="field"' in text
    assert "Not measured yet." in client.get(f"/versions/{version}").text
