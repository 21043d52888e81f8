"""Commands that store test sets, measure versions on them, report and compare."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

RunCli = Callable[..., Any]
MakeJob = Callable[..., dict[str, Any]]

ONE, TWO = "000003-0123456789ab", "000005-0123456789ab"
FIELD: dict[str, Any] = {
    "name": "field",
    "digest": "d" * 64,
    "images": 5,
    "bytes": 3 * 1024 * 1024,
    "images_per_class": {"cat": 2, "yak": 3},
    "unknown": ["yak"],
    "who": "ann",
    "reason": "a study",
    "added_at": "2026-11-27T00:00:00Z",
    "expires_at": "2027-11-27T00:00:00Z",
}
VALIDATION = {"classes": {"cat": 2, "yak": 3}, "accepted": 5, "rejected": [], "rejected_count": 0}
RESULT: dict[str, Any] = {
    "version_id": TWO,
    "test_set": "field",
    "digest": "d" * 64,
    "images": 4,
    "images_in_all": 5,
    "unknown_labels": 3,
    "overall": {"images": 2, "text": 0.5, "visual": 0.75, "fused": 1.0},
    "classes": 1,
    "per_class": {},
    "confusions": [],
    "confusion_count": 0,
    "calibration_error": 0.125,
    "coverage": None,
    "set_size": None,
    "known_told": None,
    "strangers_told": None,
    "against": {
        "version_id": ONE, "images": 2, "right_before": 2, "right": 1, "right_to_wrong": 2, "wrong_to_right": 1,
    },
    "seconds": 0.1,
}  # fmt: skip
REPORT: dict[str, Any] = {
    "version_id": TWO,
    "path": "fused",
    "test_sets": ["field"],
    "tasks": [
        {"task": 1, "classes": ["cat"], "test_images": 8},
        {"task": 2, "classes": ["yak"], "test_images": 4},
    ],
    "rows": [
        {
            "version_id": ONE, "tasks": 1, "accuracies": [0.875, None], "seen": 0.875, "by_test_set": {},
            "in_part": True,
        },
        {"version_id": TWO, "tasks": 2, "accuracies": [None, None], "seen": None, "by_test_set": {}, "in_part": False},
    ],
    "last": None,
    "average": 0.5,
    "backward_transfer": None,
    "forgetting": None,
    "not_measured": [{"version_id": TWO, "test_set": "field"}],
    "measure": f"keepsight evaluate {TWO} --test-set field",
}  # fmt: skip
COUNTS = {"images": 8, "wins": 4, "losses": 1, "ties": 3, "right_a": 7, "right_b": 4}
COMPARISON: dict[str, Any] = {
    "a": ONE,
    "b": TWO,
    "overall": {"test_set": None, "p_value": 0.375, "only_a_knows": 0, "only_b_knows": 4, "in_part": True, **COUNTS},
    "test_sets": [
        {"test_set": "field", "p_value": 0.375, "only_a_knows": 0, "only_b_knows": 4, "in_part": True, **COUNTS}
    ],
    "per_class": [{"label": "cat", **COUNTS}],
    "classes": 1,
    "changed": [],
    "changed_count": 5,
    "cost": {
        "a": {"bytes": 2048, "update_s": 61.0},
        "b": {"bytes": None, "update_s": None},
    },
    "not_measured": [],
    "measure": None,
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "pets" / "cat" / "1.png"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"png")
    return tmp_path / "pets"


def test_a_set_is_stored_and_what_is_not_known_is_said(run_cli: RunCli, service: Any, folder: Path) -> None:
    service.script["PUT /v1/test-sets/field"] = {"test_set": FIELD, "validation": VALIDATION}
    ran = run_cli("test-sets", "put", "field", str(folder), "--reason", "a study", "--days", "2.5")
    assert ran.code == 0
    assert "Stored the test set field: 5 images, kept until 2027-11-27" in ran.out
    assert "1 of its classes are not known yet" in ran.out
    assert "images: 5 accepted (cat 2, yak 3), 0 rejected" in ran.err
    body = service.requests[0].content
    assert b'name="reason"\r\n\r\na study' in body
    assert b'name="days"\r\n\r\n2.5' in body
    assert b"cat/1.png" in body


def test_a_refused_set_is_told_file_by_file(run_cli: RunCli, service: Any, folder: Path) -> None:
    found = {**VALIDATION, "accepted": 0, "rejected": [{"path": "cat/1.png", "reason": "torn"}], "rejected_count": 1}
    problem = {"status": 422, "detail": "the upload has no usable image", "validation": found}
    service.script["PUT /v1/test-sets/field"] = httpx.Response(422, json=problem)
    ran = run_cli("test-sets", "put", "field", str(folder))
    assert (ran.code, ran.out) == (1, "")
    assert "  cat/1.png: torn\n" in ran.err
    assert ran.err.endswith("keepsight: the upload has no usable image\n")


def test_sets_are_listed_shown_and_removed(run_cli: RunCli, service: Any) -> None:
    service.script["GET /v1/test-sets"] = [
        {"test_sets": [FIELD], "sets_left": 19, "bytes_left": 1},
        {"test_sets": [], "sets_left": 20, "bytes_left": 1},
    ]
    listed = run_cli("test-sets")
    assert [word in listed.out for word in ("field", "5", "3.0 MiB", "yak")] == [True] * 4
    assert "keepsight test-sets put NAME DIR" in run_cli("test-sets").out
    service.script["GET /v1/test-sets/field"] = {**FIELD, "labels": [], "checksums": []}
    shown = run_cli("test-sets", "show", "field")
    for words in ("why: a study", "cat 2, yak 3", "not known to the current version: yak"):
        assert words in shown.out
    receipt = {"name": "field", "digest": "d" * 64, "images": 5, "bytes": 9, "removed_at": FIELD["added_at"]}
    service.script["DELETE /v1/test-sets/field"] = {**receipt, "who": "ann", "reason": "asked for"}
    removed = run_cli("test-sets", "remove", "field", "--reason", "asked for")
    assert "Removed the test set field (5 images, 9 bytes, digest dddddddddddd)" in removed.out
    assert service.requests[-1].url.params["reason"] == "asked for"


def test_teach_sends_the_name_of_a_set_and_prints_what_it_answers(
    run_cli: RunCli, service: Any, folder: Path, make_finished_job: MakeJob
) -> None:
    accepted = {"job_id": "j1", "location": "/v1/jobs/j1", "validation": {**VALIDATION, "test_set": {"cat": 2}}}
    job = make_finished_job()
    job["result"]["test_sets"] = {"results": [RESULT], "not_measured": {"other": "it is corrupt"}}
    service.script["POST /v1/tasks"] = httpx.Response(202, json=accepted)
    service.script["GET /v1/jobs/j1"] = job
    ran = run_cli("teach", str(folder), "--test-set", "field")
    assert b'name="test_set"\r\n\r\nfield' in service.requests[0].content
    assert "kept as a test set: cat 2\n" in ran.err
    assert (
        "test set field: fused 100.0 % (4 of 5 images, 3 of classes that are not known; 2 became wrong, 1 right)\n"
        "test set other: not measured: it is corrupt\n"
    ) in ran.out


def test_evaluate_follows_the_job_and_prints_what_was_found(
    run_cli: RunCli, service: Any, make_finished_job: MakeJob, make_job: MakeJob
) -> None:
    service.script["POST /v1/evaluations"] = httpx.Response(202, json={"job_id": "j1", "location": "/v1/jobs/j1"})
    job = make_finished_job(evaluates=[TWO])
    job["result"] |= {"evaluation": None, "test_sets": {"results": [RESULT], "not_measured": {}}}
    service.script["GET /v1/jobs/j1"] = job
    ran = run_cli("evaluate", ONE, TWO, "--test-set", "field")
    assert ran.code == 0
    assert [word in ran.out for word in (TWO, "4 of 5", "100.0 %", "12.5 %", "-2 +1")] == [True] * 5
    assert service.requests[0].content == f'{{"versions":["{ONE}","{TWO}"],"test_set":"field"}}'.encode()
    assert "measured; nothing was published" in run_cli("jobs", "show", "j1").out
    queued = run_cli("evaluate", ONE, "--no-wait")
    assert queued.out == "Job j1 is queued: keepsight jobs show j1\n"
    service.script["GET /v1/jobs/j1"] = make_job(state="failed", error={"detail": "there is no test set"})
    failed = run_cli("evaluate", ONE)
    assert failed.code == 1
    assert failed.err.endswith("keepsight: job j1 measured nothing to its end (failed: there is no test set)\n")


def test_the_report_is_of_the_current_version_and_says_what_is_missing(run_cli: RunCli, service: Any) -> None:
    service.script["GET /v1/versions"] = {"current": TWO, "serving": TWO, "versions": []}
    service.script[f"GET /v1/versions/{TWO}/report"] = REPORT
    ran = run_cli("report")
    assert ran.code == 0
    lines = ran.out.splitlines()
    assert [word in lines[1] for word in (f"{ONE}*", "87.5 %", "–")] == [True] * 3
    assert "Last –, Avg 50.0 %, backward transfer –, forgetting – (fused path)" in lines
    assert f"not measured: 1 versions and sets; measure them: keepsight evaluate {TWO} --test-set field" in lines
    assert run_cli("report", TWO, "--json").json == REPORT
    assert run_cli("report", "--path", "else").err == "keepsight: --path is fused, text or visual; got 'else'\n"
    run_cli("report", TWO, "--path", "text", "--test-set", "field")
    assert dict(service.requests[-1].url.params) == {"path": "text", "test_set": "field"}


def test_the_report_is_drawn_as_a_heat_map(run_cli: RunCli, service: Any, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    service.script[f"GET /v1/versions/{TWO}/report"] = REPORT
    file = tmp_path / "report.png"
    assert run_cli("report", TWO, "--png", str(file)).code == 0
    with Image.open(file) as drawn:
        assert drawn.format == "PNG"
        assert len(drawn.convert("RGB").getcolors(1 << 20) or []) > 50
    ran = run_cli("report", TWO, "--png", str(tmp_path / "no" / "report.png"))
    assert (ran.code, ran.err.count("\n")) == (1, 1)
    assert "cannot be written" in ran.err
    service.script[f"GET /v1/versions/{TWO}/report"] = {**REPORT, "rows": [], "tasks": []}
    assert "nothing to draw" in run_cli("report", TWO, "--png", str(file)).err


def test_a_heat_map_without_matplotlib_says_what_to_install(
    run_cli: RunCli, service: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    ran = run_cli("report", TWO, "--png", str(tmp_path / "report.png"))
    assert ran.err == "keepsight: a heat map needs matplotlib: pip install 'keepsight[bench]'\n"
    assert service.requests == []


def test_two_versions_are_compared(run_cli: RunCli, service: Any) -> None:
    service.script[f"GET /v1/versions/{ONE}/compare/{TWO}"] = COMPARISON
    ran = run_cli("compare", ONE, TWO)
    assert ran.code == 0
    for words in (
        "field*",
        "87.5 %",
        "0.375",
        f"a is {ONE}, b is {TWO}",
        "not compared: images 0 of classes that a alone knows, 4 that b alone knows",
        "  cat: a has 7 of 8 right, b 4",
        "5 images are answered differently",
        "cost of a: 2.0 KiB, made in 1 min 01 s",
        "cost of b: unknown size, made in –",
    ):
        assert words in ran.out, words
    missing = service.problem(409, f"{ONE} was not measured on any test set: keepsight evaluate {ONE}")
    service.script[f"GET /v1/versions/{ONE}/compare/{TWO}"] = missing
    assert run_cli("compare", ONE, TWO).err.endswith(f"keepsight evaluate {ONE}\n")


def test_a_version_shows_what_it_answered_when_it_was_published(run_cli: RunCli, service: Any) -> None:
    manifest = {
        "version_id": TWO,
        "parent": ONE,
        "created_at": FIELD["added_at"],
        "made": "trained",
        "strategy": "segp",
        "classes": [],
        "tasks": 2,
        "dataset": None,
        "evaluation": None,
        "report": {"test_sets": {"results": [RESULT], "not_measured": {}}},
    }
    service.script[f"GET /v1/versions/{TWO}"] = manifest
    assert "test set field: fused 100.0 % (4 of 5 images" in run_cli("versions", "show", TWO).out
    service.script[f"GET /v1/versions/{TWO}"] = {**manifest, "report": None}
    assert "test set" not in run_cli("versions", "show", TWO).out
