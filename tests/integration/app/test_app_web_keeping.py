"""The pages that look after what was learned, over HTTP: lists, details, and who sees what."""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from starlette.testclient import TestClient

from app.settings import Settings
from keepsight.keys import KeyFile
from model_store.gate import GatePolicy
from model_store.store import Store
from model_store.types import DatasetRecord, Provenance, VersionId
from segp_cl.class_edits import ClassEdit
from tests.waiting import wait_until
from worker.gate import CHECKS, Answers, Evidence, OnSet, Pairs, judge

Teach = Callable[..., VersionId]
Configure = Callable[..., Settings]
SAME = {"Sec-Fetch-Site": "same-origin"}
GERMAN = {"Accept-Language": "de"}
WRONG = Answers({f"class {number}": (60, 0) for number in range(4)}, distinct=1, top_probability=0.25, not_finite=2)
FAILED = Evidence(
    seen_classes=4,
    held_out=WRONG,
    taught=WRONG,
    kept=WRONG,
    kept_before=Answers({"old": (240, 240)}),
    known_before=WRONG,
    golden_not_finite=1,
    twin_accuracy=0.9,
    test_sets=(OnSet("field's", {"class 1": Pairs(images=40, before=40, right=0, lost=40)}),),
)
"""What no check of the gate lets pass."""
FOUND = judge(GatePolicy(), FAILED)
ONE = Evidence(seen_classes=1, held_out=Answers({"only": (8, 8)}, distinct=1, top_probability=1.0))
EDITS = {
    ClassEdit(kind="rename", classes=("cat",), name="puss"): "„cat“ umbenannt in „puss“",
    ClassEdit(kind="rename", classes=("cat",), prompt="a cat."): "Prompt von „cat“: „a cat.“",
    ClassEdit(kind="swap", classes=("cat", "dog")): "Namen von „cat“, „dog“ getauscht",
    ClassEdit(kind="merge", classes=tuple("abcdefg"), name="all", prompt="all."): (
        "„a“, „b“, „c“, „d“, „e“ und weitere vereinigt zu „all“"
    ),
    ClassEdit(kind="delete", classes=("100%",)): "„100%“ gelöscht",
    ClassEdit(kind="replace", classes=("cat",)): "„cat“ ersetzt",
}


def named(text: str) -> list[str]:
    return re.findall(r'<th scope="row" class="named"><strong>([^<]+)</strong>', text)


def publish(store: Store, **fields: Any) -> VersionId:
    """Publish what CURRENT has once more, as if it had been made so."""
    parent = store.current()
    assert parent is not None
    return store.publish(store.open(parent), parent=parent, provenance=Provenance(who="test", **fields)).version_id


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


def test_the_graph_says_how_each_version_was_made_and_has_all_its_parents(
    client: TestClient, teach: Teach, store: Store
) -> None:
    base, side = teach("cat", "dog"), teach("cat", "owl", promote=False)
    (edit, words), *_ = EDITS.items()
    merged = publish(store, made="merged", other_parent=side)
    edited = publish(store, made="edited", edit=edit)
    held = publish(store, made="trained", report={"gate": FOUND.model_dump(mode="json")})
    found = client.get("/part/versions/graph", headers=GERMAN).json()
    nodes = {node["id"]: node for node in found["nodes"]}
    assert found["current"] == base
    assert (nodes[merged]["made"], nodes[merged]["parents"]) == ("merged", [base, side])
    assert (nodes[edited]["made"], nodes[edited]["parents"], nodes[edited]["what"]) == ("edited", [base], words)
    assert (nodes[held]["made"], nodes[held]["parents"]) == ("held", [base])


def test_an_edit_is_said_in_the_reader_s_language(client: TestClient, teach: Teach, store: Store) -> None:
    teach("cat", "dog")
    for job, (edit, words) in enumerate(EDITS.items()):
        reason = f"job {job}: {edit.words}: it is better"
        version = publish(store, made="edited", edit=edit, job_id=str(job), reason=reason)
        for path in (f"/versions/{version}", "/versions", "/versions/compare"):
            text = html.unescape(client.get(path, headers=GERMAN).text)
            assert words in text
            assert edit.words not in text
    assert "<p>replace 'cat'</p>" in html.unescape(client.get(f"/versions/{version}").text)


def test_what_the_gate_found_is_said_in_the_reader_s_language(client: TestClient, teach: Teach, store: Store) -> None:
    teach("cat", "dog")
    results = [FOUND, judge(GatePolicy(), Evidence(seen_classes=2)), judge(GatePolicy(), ONE)]
    assert {check.name for check in results[0].checks if check.passed is False} == set(CHECKS)
    for result in results:
        version = publish(store, made="trained", report={"gate": result.model_dump(mode="json")})
        page = html.unescape(client.get(f"/versions/{version}", headers=GERMAN).text)
        listed = html.unescape(client.get("/part/versions", headers=GERMAN).text)
        assert '<span lang="en"' not in page + listed
        for check in result.checks:
            assert f">{check.name}" not in page
            assert not check.reason or check.reason not in page + listed
        assert page.count('data-label="Ergebnis"') == len(CHECKS)
        assert page.count('data-label="Schranke"') == len(CHECKS)
    assert "Es gibt nur eine Klasse" in page
    failed = html.unescape(client.get("/versions", headers=GERMAN).text)
    assert "Genauigkeit bei den neuen Bildern: 0,0\u00a0% von 240 Bildern sind richtig" in failed


def test_a_check_names_what_it_is_about(client: TestClient, teach: Teach, store: Store) -> None:
    teach("cat", "dog")
    version = publish(store, report={"gate": FOUND.model_dump(mode="json")})
    text = html.unescape(client.get(f"/versions/{version}").text)
    assert "It is about: class 0." in text
    assert "It is about: field's, class 1." in text
    assert text.count("<template>") == 1, "the dialog shows what holds it"


def test_a_reason_that_no_check_has_is_shown_as_english(client: TestClient, teach: Teach, store: Store) -> None:
    teach("cat", "dog")
    version = publish(store, report={"gate": {"held_because": ["the <b>moon</b> is full"]}})
    text = client.get(f"/versions/{version}", headers=GERMAN).text
    assert '<li><span lang="en">the &lt;b&gt;moon&lt;/b&gt; is full</span></li>' in text


def test_the_journal_is_told_in_the_reader_s_language(client: TestClient, teach: Teach, store: Store) -> None:
    first, side = store.current(), teach("cat", promote=False)
    teach("cat", "dog")
    pets = DatasetRecord(name="the pets", digest="0" * 64, images_per_class={"cat": 1})
    made: Sequence[tuple[str, str, dict[str, Any]]] = (
        ("1", "job 1 learned 'the pets'", {"made": "trained", "dataset": pets}),
        ("2", "job 2 learned 3 corrections", {"made": "corrected"}),
        ("3", f"job 3 merged {first} and {side}: beide", {"made": "merged", "other_parent": side}),
        ("4", "weil ich es will", {}),
    )
    for job, reason, changes in made:
        publish(store, job_id=job, reason=reason, **changes)
    held = publish(store, job_id="5", reason="job 5 learned 'x'", report={"gate": FOUND.model_dump(mode="json")})
    moved = client.post(
        "/v1/admin/promote", json={"version_id": held, "reason": "ich habe nachgesehen", "anyway": True}
    )
    assert moved.status_code == 200, moved.text
    text = html.unescape(client.get("/part/live/journal", headers=GERMAN).text)
    for words in (
        "das Grundmodell, vor jeder Aufgabe",
        "gelernt: the pets",
        "Korrekturen gelernt",
        "vereint: beide",
        "weil ich es will",
        "Genauigkeit bei den neuen Bildern; ",
        "zurückgehalten, trotzdem bereitgestellt: ich habe nachgesehen",
    ):
        assert f" · {words}" in text, words
    assert not any(check.reason and check.reason in text for check in FOUND.checks)


def test_what_holds_a_version_is_said_by_itself_too(client: TestClient, teach: Teach, store: Store) -> None:
    teach("cat", "dog")
    held = publish(store, report={"gate": FOUND.model_dump(mode="json")})
    text = html.unescape(client.get(f"/part/versions/{held}/held", headers=GERMAN).text)
    assert text.count("<br>") == len(FOUND.held_because) - 1
    assert "Genauigkeit bei den neuen Bildern: 0,0\u00a0% von 240 Bildern sind richtig" in text
    assert client.get("/part/versions/000009-aaaaaaaaaaaa/held").status_code == 404


def test_an_older_version_is_served_by_a_rollback_unless_it_is_held(
    client: TestClient, teach: Teach, store: Store
) -> None:
    older = teach("cat")
    held = publish(store, report={"gate": {"held_because": ["no"]}})
    newest = teach("cat", "dog")
    newer = publish(store)
    rows = client.get("/part/versions").text
    for version, move in ((older, "rollback"), (held, "promote"), (newer, "promote")):
        button = f'data-move="{move}" data-version="{version}" data-expected="{newest}"'
        assert button in rows
        assert button in client.get(f"/versions/{version}").text


def test_the_servers_of_the_current_version_are_named(client: TestClient, teach: Teach) -> None:
    version = teach("cat", "dog")
    wait_until(lambda: client.get("/v1/versions").json()["serving"] == version)
    server = client.get("/part/live").json()["processes"][0]["id"]
    wait_until(lambda: f"<li>{server}</li>" in client.get("/versions").text)


def test_a_comparison_says_how_many_classes_it_leaves_out(client: TestClient, many: Sequence[str]) -> None:
    text = html.unescape(client.get("/versions/compare", headers=GERMAN).text)
    assert "und 60 weitere" in text
    assert " – begonnen</option>" in text


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
