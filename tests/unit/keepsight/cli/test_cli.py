"""What a user sees: sentences on stderr, JSON alone on stdout, exit codes that scripts can trust."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from keepsight.cli.commands import teaching
from keepsight.keys import MARKER

MakeJob = Callable[..., dict[str, Any]]
RunCli = Callable[..., Any]

PREDICTION = {"label": "cat", "score": 0.4, "text_score": 0.3, "visual_score": None, "probability": 0.75}
ACCEPTED = {
    "job_id": "j1",
    "location": "/v1/jobs/j1",
    "validation": {
        "classes": {"cat": 1},
        "accepted": 1,
        "rejected": [{"path": "cat/x.txt", "reason": "not an image"}],
        "rejected_count": 1,
    },
}
COMMANDS = (
    "up", "down", "demo", "classify", "teach", "jobs", "jobs show", "jobs cancel", "versions", "versions show", "merge",
    "classes", "classes rename", "classes swap", "classes merge", "classes delete", "classes replace",
    "rollback", "promote", "rollout", "prune", "pin", "unpin", "verify", "export", "backup", "restore",
    "gate", "gate show", "gate set", "keys", "keys create", "keys list", "keys revoke", "keys forget", "test-sets",
    "test-sets put", "test-sets show", "test-sets remove", "evaluate", "report", "compare", "correct", "corrections",
    "corrections list", "corrections learn", "corrections remove",
)  # fmt: skip


def result(index: int, **changes: Any) -> dict[str, Any]:
    return {"index": index, "filename": "sent", "predictions": [PREDICTION], "error": None, **changes}


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "cat.png"
    path.write_bytes(b"png")
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "pets" / "cat" / "1.png"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"png")
    return tmp_path / "pets"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(run_cli: RunCli, command: str) -> None:
    ran = run_cli(*command.split(), "--help")
    assert ran.code == 0
    assert ran.out.startswith("Usage: keepsight ")


@pytest.mark.parametrize(
    "command", [command for command in COMMANDS if command != "keys"]
)  # a group, with none of its own
def test_every_command_has_json_output(run_cli: RunCli, command: str) -> None:
    assert "--json" in run_cli(*command.split(), "--help").out


def test_version_is_the_distributions(run_cli: RunCli) -> None:
    from importlib.metadata import version

    assert run_cli("--version").out == f"keepsight {version('keepsight')}\n"


def test_help_needs_neither_the_model_nor_the_network_libraries() -> None:
    code = (
        "import sys; import keepsight.cli; "
        "print([m for m in ('torch', 'numpy', 'sklearn', 'httpx', 'redis', 'fastapi') if m in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


def test_help_imports_little() -> None:
    """It takes as long as what it imports, which can be counted on any machine."""
    command = [sys.executable, "-X", "importtime", "-m", "keepsight", "--help"]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stderr.splitlines()
    imported = [line.rpartition("|")[2].strip() for line in told if line.startswith("import time:")]
    assert "keepsight.cli.main" in imported
    assert {name.partition(".")[0] for name in imported}.isdisjoint(
        {"torch", "numpy", "PIL", "pydantic", "fastapi", "httpx", "celery", "redis", "matplotlib"}
    )
    assert len(imported) < 400


def test_classify_prints_a_table(run_cli: RunCli, service: Any, image: Path) -> None:
    service.script["POST /v1/classify"] = {"model_version": "v2", "results": [result(0)]}
    ran = run_cli("classify", str(image))
    assert ran.code == 0
    assert [word in ran.out for word in (str(image), "cat", "75.0 %", "0.300", "–")] == [True] * 5


def test_classify_lists_sets_and_marks_unknown_images(run_cli: RunCli, service: Any, image: Path) -> None:
    strange = result(0, label_set=["cat", "lynx"], unknown=True, unknown_score=0.987)
    service.script["POST /v1/classify"] = {"model_version": "v2", "results": [strange]}
    ran = run_cli("classify", str(image), "--set-coverage", "0.9", "--known-share", "0.95")
    assert [word in ran.out for word in ("cat, lynx", "98.7 %")] == [True] * 2
    body = service.requests[0].content
    assert b'name="set_coverage"\r\n\r\n0.9' in body
    assert b'name="known_share"\r\n\r\n0.95' in body


def test_classify_sends_64_images_a_request_and_joins_the_answers(
    run_cli: RunCli, service: Any, tmp_path: Path
) -> None:
    for n in range(130):
        (tmp_path / f"{n:03d}.png").write_bytes(b"x")
    service.script["POST /v1/classify"] = [
        {"model_version": "v2", "results": [result(n) for n in range(size)]} for size in (64, 64, 2)
    ]
    ran = run_cli("classify", str(tmp_path), "--json")
    assert [request.content.count(b'name="images"') for request in service.requests] == [64, 64, 2]
    assert [r["index"] for r in ran.json["results"]] == list(range(130))
    assert ran.json["results"][129]["filename"].endswith("129.png")
    assert ran.err == ""


def test_an_unreadable_image_is_told_apart_and_makes_the_exit_code_1(
    run_cli: RunCli, service: Any, image: Path
) -> None:
    broken = result(0, predictions=[], error={"detail": "truncated"})
    service.script["POST /v1/classify"] = {"model_version": "v", "results": [broken]}
    ran = run_cli("classify", str(image), "--json")
    assert ran.code == 1
    assert ran.json["results"][0]["error"]["detail"] == "truncated"
    assert ran.err == "keepsight: 1 of 1 images could not be classified\n"
    ran = run_cli("classify", str(image))
    assert "not classified" in ran.out
    assert ran.err.splitlines()[0] == f"{image}: truncated"


def test_labels_are_sent_with_how_they_are_to_be_ranked(run_cli: RunCli, service: Any, image: Path) -> None:
    service.script["POST /v1/classify"] = {"model_version": "v", "alike": [["cat", "dog"]], "results": [result(0)]}
    words = ("--labels", "cat, dog", "--template", "my {}")
    ran = run_cli("classify", str(image), *words, "--with-classes", "--zero-shot", "adapted", "--path", "text")
    assert ran.code == 0
    assert "the model cannot tell these labels apart: cat, dog" in ran.err
    body = service.requests[0].content
    assert b'name="path"\r\n\r\ntext' in body
    assert b'name="labels"\r\n\r\ndog' in body
    assert b'name="with_classes"\r\n\r\ntrue' in body
    assert b'name="zero_shot"\r\n\r\nadapted' in body


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("classify", "gone.png"), "keepsight: gone.png does not exist\n"),
        (("teach", "gone"), "keepsight: gone does not exist; give a folder with a subfolder per class, or an archive"),
        (("classify", "{image}", "--labels", ","), "keepsight: --labels names no label"),
        (("classify", "{image}", "--with-classes"), "keepsight: --with-classes and --zero-shot go with --labels"),
        (
            ("classify", "{image}", "--template", "a {{}}"),
            "keepsight: --template is the prompt for --labels; give both",
        ),
        (
            ("classify", "{image}", "--labels", "a,b", "--set-coverage", "0.9"),
            "keepsight: --set-coverage is for the served classes; leave it or --labels out",
        ),
        (
            ("classify", "{image}", "--known-share", "95"),
            "keepsight: --known-share is 95; expected a share between 0 and 1, for example 0.9",
        ),
        (("teach", "{folder}", "--set", "epochs"), "keepsight: --set takes KEY=VALUE, for example epochs=5"),
        (("teach", "{folder}", "--set", "a=1", "--set", "a=2"), "keepsight: --set gives a twice"),
        (("jobs", "show", "nope"), "keepsight: there is no GET /v1/jobs/nope\n"),
        (("rollback",), "keepsight: there is no POST /v1/admin/rollback\n"),
        (("down", "--store", "{folder}/store"), "keepsight: no service runs on the store"),
        (("keys", "forget", "--keys-file", "{folder}/k.json"), "keepsight: the service would then answer everybody"),
        (("keys", "revoke", "abc", "--keys-file", "{folder}/k.json"), "keepsight: no key has the id 'abc' in"),
        (("keys", "create", "me", "-s", "all", "--keys-file", "{folder}/k.json"), "keepsight: scopes must be some of"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(
    run_cli: RunCli, image: Path, folder: Path, arguments: tuple[str, ...], sentence: str
) -> None:
    ran = run_cli(*(argument.format(image=image, folder=folder) for argument in arguments))
    assert ran.code == 1
    assert ran.out == ""
    assert ran.err.startswith(sentence)
    assert ran.err.count("\n") == 1


def test_missing_rights_name_the_option_that_gives_them(run_cli: RunCli, service: Any) -> None:
    service.script["GET /v1/jobs"] = service.problem(401, "a key is needed")
    ran = run_cli("jobs")
    assert ran.err == "keepsight: a key is needed; give a key with --api-key or KEEPSIGHT_API_KEY\n"


def test_a_service_that_is_down_is_one_sentence(run_cli: RunCli, service: Any) -> None:
    service.script["GET /v1/versions"] = httpx.ConnectError("refused")
    ran = run_cli("versions")
    assert (ran.code, ran.out) == (1, "")
    assert ran.err.startswith("keepsight: nothing answers at http://fake; start the service with `keepsight up`")


def test_a_mistyped_command_is_a_usage_error(run_cli: RunCli) -> None:
    ran = run_cli("clasify")
    assert ran.code == 2
    assert "No such command 'clasify'" in ran.err


def test_surprises_are_sentences_too_unless_debugging(
    run_cli: RunCli, service: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    service.script["GET /v1/versions"] = {"unexpected": 1}
    ran = run_cli("versions")
    assert ran.code == 70
    assert ran.err == "keepsight: this should not have happened: KeyError: 'versions' (KEEPSIGHT_DEBUG=1 shows where)\n"
    monkeypatch.setenv("KEEPSIGHT_DEBUG", "1")
    with pytest.raises(KeyError):
        run_cli("versions")


def test_teach_streams_a_folder_and_follows_the_job(
    run_cli: RunCli, service: Any, folder: Path, make_job: MakeJob, make_finished_job: MakeJob
) -> None:
    service.script["POST /v1/tasks"] = httpx.Response(202, json=ACCEPTED)
    progress = {"phase": "train", "step": 1, "steps": 4, "losses": {"classify": 0.5}, "eta_s": 9.0, "elapsed_s": 3.0}
    running = make_job(state="running", progress=progress)
    service.script["GET /v1/jobs/j1"] = [make_job(), running, make_finished_job()]
    service.script["GET /v1/jobs/j1/events"] = httpx.Response(404)
    ran = run_cli(
        "teach", str(folder), "--set", "epochs=2", "-s", "strategy=naive", "--template", "a {}", "--seed", "3"
    )
    assert ran.code == 0
    assert "Learned: version 000002-0123456789ab is published and current." in ran.out
    assert "accuracy on 4 held-out images: fused 100.0 %, text 50.0 %, visual 75.0 %" in ran.out
    assert "images: 1 accepted (cat 1), 1 rejected\n  cat/x.txt: not an image\n" in ran.err
    assert "pets: train (4 steps)" in ran.err
    body = service.requests[0].content
    assert b"cat/1.png" in body
    assert b'{"epochs": 2, "strategy": "naive"}' in body


def test_teach_takes_a_strategy_by_name_once(run_cli: RunCli, service: Any, folder: Path) -> None:
    service.script["POST /v1/tasks"] = httpx.Response(202, json=ACCEPTED)

    assert run_cli("teach", str(folder), "--strategy", "segp+merge", "-s", "merge_weight=0.5", "--no-wait").code == 0
    assert b'{"strategy": "segp+merge", "merge_weight": 0.5}' in service.requests[0].content

    twice = run_cli("teach", str(folder), "--strategy", "merge", "--set", "strategy=naive")
    assert (twice.code, len(service.requests)) == (1, 1)
    assert "gives strategy twice" in twice.err


FOUND = {
    "classes": {"cat": 3, "dog": 1},
    "accepted": 4,
    "held_out": {"cat": 1},
    "rejected": [{"path": f"cat/{n}.txt", "reason": "[not] an image"} for n in range(12)],
    "rejected_count": 40,
    "passed_over": [{"path": "__MACOSX", "reason": "left by macOS", "entries": 7}],
    "passed_over_count": 1,
    "repeated": [{"path": "dog/3.png", "label": "dog", "first_path": "cat/1.png", "first_label": "cat"}],
    "repeated_count": 1,
    "renamed": [{"typed": "c\u200bat", "taught": "cat"}],
    "notes": ["the classes are the folders in 'data'"],
}


def test_teach_tells_all_that_became_of_the_upload(run_cli: RunCli, service: Any, folder: Path) -> None:
    (folder / ".hidden").mkdir()
    service.script["POST /v1/tasks"] = httpx.Response(202, json={**ACCEPTED, "validation": FOUND})
    ran = run_cli("teach", str(folder), "--no-wait")
    assert ran.err.splitlines() == [
        "images: 4 accepted (cat 3, dog 1), 40 rejected",
        *(f"  cat/{n}.txt: [not] an image" for n in range(10)),
        "  and 30 more",
        "held out to measure on: cat 1",
        "note: the classes are the folders in 'data'",
        "passed over: 2",
        "  .hidden: hidden",
        "  __MACOSX (7 entries): left by macOS",
        "the same picture in two places: 1",
        "  dog/3.png (dog) is cat/1.png (cat)",
        "taught under a name without invisible characters: 1",
        "  'c\\u200bat' as 'cat'",
    ]


def test_a_refused_upload_is_told_file_by_file_before_the_sentence(run_cli: RunCli, service: Any, folder: Path) -> None:
    problem = {"status": 422, "detail": "the upload has no usable image", "validation": {**FOUND, "accepted": 0}}
    service.script["POST /v1/tasks"] = httpx.Response(422, json=problem)
    ran = run_cli("teach", str(folder))
    assert ran.code == 1
    assert "  cat/0.txt: [not] an image\n" in ran.err
    assert ran.err.endswith("keepsight: the upload has no usable image\n")


def test_an_archive_of_unknown_encoding_is_shown_in_each(run_cli: RunCli, service: Any, tmp_path: Path) -> None:
    (tmp_path / "pets.zip").write_bytes(b"zip")
    guesses = [{"encoding": "gbk", "reads": ["猫/1.png"]}, {"encoding": "cp866", "reads": ["├и/1.png"]}]
    problem = {"status": 422, "detail": "which is it? send encoding= with one", "encodings": guesses}
    service.script["POST /v1/tasks"] = [httpx.Response(422, json=problem), httpx.Response(202, json=ACCEPTED)]
    ran = run_cli("teach", str(tmp_path / "pets.zip"))
    assert ran.err == (
        "  --encoding gbk: '猫/1.png'\n  --encoding cp866: '├и/1.png'\n"
        "keepsight: which is it? give --encoding with one\n"
    )
    assert run_cli("teach", str(tmp_path / "pets.zip"), "--encoding", "gbk", "--no-wait").code == 0
    assert b'name="encoding"\r\n\r\ngbk' in service.requests[-1].content


def test_classify_says_what_it_skips(run_cli: RunCli, service: Any, tmp_path: Path) -> None:
    for name in ("1.heic", "2.txt", ".3.png"):
        (tmp_path / name).write_bytes(b"x")
    service.script["POST /v1/classify"] = {"model_version": "v2", "results": [result(0)]}
    ran = run_cli("classify", str(tmp_path), "--json")
    assert ran.code == 0
    assert len(ran.json["results"]) == 1
    assert ran.err.splitlines() == [
        "skipped: 2",
        f"  {tmp_path}/.3.png: hidden",
        f"  {tmp_path}/2.txt: not called like an image that is read",
    ]


def test_a_file_s_name_that_is_not_utf_8_is_sent_and_shown_with_question_marks(
    run_cli: RunCli, service: Any, tmp_path: Path
) -> None:
    name = os.fsdecode("狗".encode("gbk"))
    for path in (tmp_path / f"{name}.png", tmp_path / name / "cat" / "1.png"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    service.script["POST /v1/classify"] = {"model_version": "v2", "results": [result(0)]}
    assert "??.png" in run_cli("classify", str(tmp_path / f"{name}.png")).out
    assert (
        run_cli("classify", str(tmp_path / f"{name}.png"), "--json").json["results"][0]["filename"].endswith("/??.png")
    )
    service.script["POST /v1/tasks"] = httpx.Response(202, json=ACCEPTED)
    assert run_cli("teach", str(tmp_path / name), "--no-wait").code == 0
    assert b'name="name"\r\n\r\n??' in service.requests[-1].content


def test_classify_of_a_folder_without_images_fails_and_names_what_is_there(run_cli: RunCli, tmp_path: Path) -> None:
    (tmp_path / "2.txt").write_bytes(b"x")
    ran = run_cli("classify", str(tmp_path))
    assert ran.code == 1
    assert ran.err.startswith(f"keepsight: {tmp_path} has no images in it; skipped {tmp_path}/2.txt (not called like")


def test_teach_can_leave_the_job_alone(run_cli: RunCli, service: Any, folder: Path) -> None:
    service.script["POST /v1/tasks"] = httpx.Response(202, json=ACCEPTED)
    assert run_cli("teach", str(folder), "--no-wait", "--json").json == ACCEPTED
    assert "keepsight jobs show j1" in run_cli("teach", str(folder), "--no-wait").out


def test_a_failed_job_fails_the_command(run_cli: RunCli, service: Any, folder: Path, make_job: MakeJob) -> None:
    service.script["POST /v1/tasks"] = httpx.Response(202, json=ACCEPTED)
    service.script["GET /v1/jobs/j1"] = make_job(state="failed", error={"detail": "a class is already known."})
    ran = run_cli("teach", str(folder), "--json")
    assert ran.code == 1
    assert ran.json["state"] == "failed"
    assert "keepsight: job j1 ended without a new version (failed: a class is already known)" in ran.err


def interrupt_once(job: dict[str, Any]) -> Callable[..., Any]:
    calls: list[None] = []

    def follow(self: object, job_id: str) -> Any:
        calls.append(None)
        if len(calls) == 1:
            raise KeyboardInterrupt
        yield job

    return follow


def test_ctrl_c_without_a_terminal_leaves_the_job_running_and_says_so(
    run_cli: RunCli, service: Any, folder: Path, make_job: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    service.script["POST /v1/tasks"] = httpx.Response(202, json=ACCEPTED)
    monkeypatch.setattr("keepsight.client.Client.follow", interrupt_once(make_job()))
    ran = run_cli("teach", str(folder))
    assert ran.code == 130
    assert "The job goes on without being watched." in ran.err
    assert not any(request.method == "DELETE" for request in service.requests)


def test_ctrl_c_can_cancel_the_job(
    run_cli: RunCli, service: Any, folder: Path, make_job: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    service.script["POST /v1/tasks"] = httpx.Response(202, json=ACCEPTED)
    service.script["DELETE /v1/jobs/j1"] = make_job()
    monkeypatch.setattr("keepsight.client.Client.follow", interrupt_once(make_job(state="cancelled")))
    monkeypatch.setattr(teaching, "ask_what_now", lambda job_id: "cancel")
    ran = run_cli("teach", str(folder))
    assert ran.code == 1
    assert "cancelled; nothing was published" in ran.err
    assert any(request.method == "DELETE" for request in service.requests)


def test_jobs_are_listed_shown_and_cancelled(
    run_cli: RunCli, service: Any, make_job: MakeJob, make_finished_job: MakeJob
) -> None:
    service.script["GET /v1/jobs"] = {"jobs": [make_finished_job(), make_job(job_id="j2")]}
    service.script["GET /v1/jobs/j1"] = make_finished_job()
    service.script["DELETE /v1/jobs/j2"] = make_job(job_id="j2", state="cancelled")
    listing = run_cli("jobs").out
    assert "000002-0123456789ab" in listing
    assert "queued" in listing
    assert run_cli("jobs", "--json").json["jobs"][1]["job_id"] == "j2"
    shown = run_cli("jobs", "show", "j1").out
    assert "3 accepted (cat 2, dog 1)" in shown
    assert run_cli("jobs", "cancel", "j2").out == "Asked job j2 to stop (now cancelled).\n"


def test_no_jobs_says_how_to_make_one(run_cli: RunCli, service: Any) -> None:
    service.script["GET /v1/jobs"] = {"jobs": []}
    assert "keepsight teach" in run_cli("jobs").out


def test_versions_mark_what_is_current(run_cli: RunCli, service: Any) -> None:
    version = {
        "version_id": "000001-aa", "number": 1, "parent": None, "created_at": "2026-01-02T03:04:05+00:00",
        "classes": 0, "tasks": 0, "strategy": None, "dataset": None, "evaluation": None, "pinned": False,
    }  # fmt: skip
    second = {
        **version, "version_id": "000002-bb", "number": 2, "parent": "000001-aa", "dataset": "pets", "pinned": True,
        "evaluation": {"images": 4, "text": 0.5, "visual": 0.75, "fused": 0.875},
    }  # fmt: skip
    listing = {"current": "000002-bb", "serving": "000001-aa", "versions": [version, second]}
    service.script["GET /v1/versions"] = listing
    lines = run_cli("versions").out.splitlines()
    assert lines[1].startswith("●")
    assert all(word in lines[1] for word in ("000002-bb", "000001-aa", "pets", "87.5 %", "pinned"))
    assert lines[2].startswith("○")
    assert run_cli("versions", "--json").json == listing


CONTRIBUTIONS: dict[str, Any] = {
    "new_classes": 1,
    "old_classes": 2,
    "images": 20,
    "tasks": [],
    "nearest": {"image_to_text": [{"old": "cat", "new": "lynx", "cosine": 0.3}]},
    "at_risk": [{"old": "cat", "new": "lynx", "margin": -0.02}],
    "at_risk_count": 1,
    "sigma_image": 0.2,
    "forecast": {"most_affected": [2, 1], "correlation": {"caltech101": 0.25}},
    "no_forecast_because": None,
}


def test_one_version_is_shown_with_what_its_classes_had_in_common(run_cli: RunCli, service: Any) -> None:
    manifest = {
        "version_id": "000002-bb",
        "parent": "000001-aa",
        "other_parent": "000001-cc",
        "made": "merged",
        "strategy": "segp",
        "created_at": "2026-03-01T12:00:00Z",
        "classes": [{}, {}, {}],
        "tasks": 2,
        "dataset": None,
        "evaluation": None,
    }
    service.script["GET /v1/versions/000002-bb"] = manifest
    service.script["GET /v1/versions/000002-bb/contributions"] = CONTRIBUTIONS
    for command in (("versions", "show", "000002-bb"), ("versions", "000002-bb")):
        out = run_cli(*command).out
        assert "parents: 000001-aa and 000001-cc" in out
        assert "nearest, image to text: cat and lynx 0.30" in out
        assert "at risk: 1 of the old classes, such as cat (taken for lynx)" in out
        assert "forecast, no promise: most is lost of task 2, 1 (correlation on benchmarks: caltech101 +0.25)" in out
    assert run_cli("versions", "show", "000002-bb", "--json").json == manifest
    del service.script["GET /v1/versions/000002-bb/contributions"]
    assert "at risk" not in run_cli("versions", "show", "000002-bb").out


def test_why_there_is_no_forecast_is_told_in_the_job(run_cli: RunCli, service: Any, make_finished_job: MakeJob) -> None:
    job = make_finished_job()
    why: dict[str, Any] = {
        "forecast": None,
        "no_forecast_because": "images are too much alike",
        "at_risk": [],
        "at_risk_count": 0,
    }
    service.script["GET /v1/jobs/j1"] = {**job, "contributions": {**CONTRIBUTIONS, **why}}
    shown = run_cli("jobs", "show", "j1").out
    assert "no forecast: images are too much alike" in shown
    assert "at risk: none" in shown


def test_rollback_and_promote_say_what_is_served(run_cli: RunCli, service: Any) -> None:
    service.script["POST /v1/admin/rollback"] = {"from": "v2", "to": "v1", "serving": "v1"}
    service.script["POST /v1/admin/promote"] = {"from": "v1", "to": "v2", "serving": "v1"}
    assert run_cli("rollback", "--reason", "worse").out == "Serving v1 (was v2).\n"
    assert json.loads(service.requests[0].content) == {"version_id": None, "reason": "worse"}
    assert run_cli("promote", "v2").out == "Current is v2; this server still answers with v1.\n"


def test_a_merge_is_followed_or_left(run_cli: RunCli, service: Any, make_finished_job: MakeJob) -> None:
    job: dict[str, Any] = make_finished_job()
    job["result"] |= {"evaluation": None, "version_id": "v3"}
    service.script |= {
        "POST /v1/versions/merge": {"job_id": "j1", "location": "/v1/jobs/j1"},
        "GET /v1/jobs/j1": job,
    }
    done = run_cli("merge", "v1", "v2", "--reason", "both", "--set", "align_steps=5")
    assert done.out == "Merged: version v3 is published and current.\n"
    sent = {"versions": ["v1", "v2"], "reason": "both", "config": {"align_steps": 5}}
    assert json.loads(service.requests[0].content) == sent
    left = run_cli("merge", "v1", "v2", "--no-wait")
    assert left.out == "Job j1 is queued: keepsight jobs show j1\n"
    assert run_cli("merge", "v1", "v2", "--json").json["job_id"] == job["job_id"]


def test_pruning_says_what_goes_and_what_stays(run_cli: RunCli, service: Any) -> None:
    pruned = {
        "dry_run": True,
        "removed": [{"version_id": "v1", "bytes": 11_300_000}],
        "bytes": 11_300_000,
        "kept": [{"version_id": "v2", "because": "pinned"}, {"version_id": "v3", "because": "CURRENT"}],
    }
    service.script["POST /v1/admin/prune"] = pruned
    shown = run_cli("prune", "--keep", "3", "--dry-run", "--reason", "monthly")
    assert json.loads(service.requests[0].content) == {"keep": 3, "dry_run": True, "reason": "monthly"}
    lines = [" ".join(line.split()) for line in shown.out.splitlines()]
    assert lines[1:] == [
        "v1 would be removed 11.3 MB",
        "v2 kept: pinned",
        "v3 kept: CURRENT",
        "1 version would be removed, 11.3 MB.",
    ]
    assert run_cli("prune", "--keep", "3", "--json").json == pruned
    assert run_cli("prune", "--keep", "0").code == 2
    assert run_cli("prune").code == 2


def test_a_version_is_pinned_and_unpinned_with_a_reason(run_cli: RunCli, service: Any) -> None:
    service.script["POST /v1/versions/v1/pin"] = {"version_id": "v1", "pinned": True}
    service.script["DELETE /v1/versions/v1/pin"] = {"version_id": "v1", "pinned": False}
    assert run_cli("pin", "v1", "-r", "the paper's").out == "Pinned v1.\n"
    assert json.loads(service.requests[0].content) == {"reason": "the paper's"}
    assert run_cli("unpin", "v1", "-r", "done with it").out == "Unpinned v1.\n"
    assert service.requests[1].url.params["reason"] == "done with it"
    assert run_cli("unpin", "v1", "--json").json == {"version_id": "v1", "pinned": False}


def test_verifying_exits_with_1_if_anything_is_wrong(run_cli: RunCli, service: Any) -> None:
    good = {"version_id": "v1", "ok": True, "files": "intact", "answers": "same", "problem": None}
    bad = {"version_id": "v2", "ok": False, "files": "damaged", "answers": "unknown", "problem": "v2 is corrupt"}
    service.script |= {
        "GET /v1/versions": {
            "current": "v1",
            "serving": "v1",
            "versions": [{"version_id": "v1"}],
            "damaged": [{"version_id": "v2", "reason": "r"}],
        },
        "POST /v1/versions/v1/verify": good,
        "POST /v1/versions/v2/verify": bad,
    }
    current = run_cli("verify", "--json")
    assert (current.code, current.json) == (0, {"ok": True, "versions": [good]})
    every = run_cli("verify", "--all")
    assert every.code == 1
    assert [" ".join(line.split()) for line in every.out.splitlines()[1:]] == [
        "v1 intact same ok",
        "v2 damaged unknown not ok",
    ]
    assert every.err.endswith("v2: v2 is corrupt\n")
    assert run_cli("verify", "v2", "--json").code == 1
    assert run_cli("verify", "v2", "--all").code == 1


def test_an_export_is_written_to_a_file_or_into_a_folder(run_cli: RunCli, service: Any, tmp_path: Path) -> None:
    onnx = httpx.Response(200, content=b"model", headers={"Keepsight-Difference": "2.38e-07"})
    service.script["GET /v1/versions/v1/export"] = onnx
    done = run_cli("export", "v1", str(tmp_path / "pets.onnx"))
    assert done.out == (
        f"Wrote {tmp_path / 'pets.onnx'} (5 B).\nIts answers differ from the service's by at most 2.4e-07.\n"
    )
    assert (tmp_path / "pets.onnx").read_bytes() == b"model"
    assert service.requests[0].url.params["format"] == "onnx"
    service.script["GET /v1/versions/v1/export"] = httpx.Response(200, content=b"tensors")
    said = run_cli("export", "v1", str(tmp_path), "--json").json
    assert said == {"path": str(tmp_path / "v1.safetensors"), "bytes": 7, "difference": None}
    assert service.requests[1].url.params["format"] == "safetensors"
    assert run_cli("export", "v1", str(tmp_path), "--format", "pickle").code == 1
    service.script["GET /v1/versions/v1/export"] = service.problem(409, "the version cannot be exported")
    refused = run_cli("export", "v1", str(tmp_path / "other.onnx"))
    assert (refused.code, refused.err) == (1, "keepsight: the version cannot be exported\n")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pets.onnx", "v1.safetensors"]


@pytest.mark.parametrize("as_json", [False, True])
def test_backups_and_restores_become_the_stores_program(
    run_cli: RunCli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, as_json: bool
) -> None:
    started: list[list[str]] = []
    monkeypatch.setattr(os, "execve", lambda path, words, environment: started.append(words))
    extra = ["--json"] if as_json else []
    assert run_cli("backup", str(tmp_path), "--store", "s", *extra).code == 0
    assert run_cli("restore", str(tmp_path), "--store", "s", *extra).code == 0
    assert [words[1:4] for words in started] == [["-P", "-m", "model_store"]] * 2
    assert [words[4:] for words in started] == [
        ["backup", *extra, "--", "s", str(tmp_path)],
        ["restore", *extra, "--", str(tmp_path), "s"],
    ]


CORRECTION = {
    "number": 3, "label": "cat", "new_class": False, "taught_as": "dog", "answered": "owl", "probability": 0.25,
    "answered_by": "v1", "reason": "", "corrected_by": "ada", "at": "2026-03-01T12:00:00Z",
    "expires_at": "2026-03-15T12:00:00Z", "bytes": 7,
}  # fmt: skip
CORRECTED = {
    "corrections": 4, "left_out": 1, "mended": 3, "spoiled": 1, "right_before": 1, "right_now": 3, "sampled": 32,
    "sampled_flipped": 2, "sampled_right_before": 30, "sampled_right_now": 31, "effects": [],
}  # fmt: skip


def test_a_correction_is_sent_with_what_is_known_of_it(run_cli: RunCli, service: Any, image: Path) -> None:
    service.script["POST /v1/corrections"] = CORRECTION
    ran = run_cli("correct", str(image), "cat", "--taught-as", "dog", "--reason", "whiskers")
    assert ran.out == "Correction 3 is kept: cat, answered owl.\n"
    sent = service.requests[0].content
    for name, value in {"label": "cat", "taught_as": "dog", "reason": "whiskers", "new_class": "false"}.items():
        assert f'name="{name}"\r\n\r\n{value}\r\n'.encode() in sent
    assert b'name="image"; filename="cat.png"' in sent
    assert run_cli("correct", str(image), "cat", "--json").json["number"] == 3
    gone = run_cli("correct", str(image.with_name("gone.png")), "cat")
    assert (gone.code, "is no file" in gone.err) == (1, True)


def test_corrections_are_listed_and_removed(run_cli: RunCli, service: Any) -> None:
    listed = {"corrections": [CORRECTION], "bytes": 7, "learned_at_count": 50, "learned_after_s": None}
    service.script |= {
        "GET /v1/corrections": listed,
        "DELETE /v1/corrections/3": {"removed": 1},
        "DELETE /v1/corrections": {"removed": 2},
    }
    told = run_cli("corrections").out
    assert all(word in told for word in ("3", "cat", "owl", "25.0 %", "dog", "ada"))
    assert told.endswith("1 correction waits; learned at 50.\n")
    assert run_cli("corrections", "list", "--json").json == listed
    service.script["GET /v1/corrections"] = {**listed, "corrections": [], "learned_at_count": None}
    assert run_cli("corrections").out == "0 corrections wait; learned when you ask for it.\n"
    assert run_cli("corrections", "remove", "3").out == "Removed 1.\n"
    assert run_cli("corrections", "remove", "--all").out == "Removed 2.\n"
    assert run_cli("corrections", "remove").code == 1
    assert run_cli("corrections", "remove", "3", "--all").code == 1


def test_corrections_are_learned_and_their_effect_is_printed(
    run_cli: RunCli, service: Any, make_finished_job: MakeJob
) -> None:
    job: dict[str, Any] = make_finished_job()
    job["result"] |= {"evaluation": None, "version_id": "v3", "report": {"corrections": CORRECTED}}
    job["receipt"] = {"corrections": 5, "removed_at": "2026-03-01T12:00:00Z", "learned": True}
    service.script |= {
        "POST /v1/corrections/learn": {"job_id": "j1", "location": "/v1/jobs/j1", "corrections": 5},
        "GET /v1/jobs/j1": job,
    }
    told = run_cli("corrections", "learn").out
    assert told.startswith("Learned: version v3 is published and current.\n")
    assert "1 of 4 were right before, 3 are now (3 mended, 1 spoiled)" in told
    assert "2 of 32 sampled features" in told
    assert "1 were left out" in told
    assert "5 corrections were learned; their images were removed" in run_cli("jobs", "show", "j1").out


def test_labels_that_are_likely_wrong_are_printed(
    run_cli: RunCli, service: Any, folder: Path, make_finished_job: MakeJob
) -> None:
    job = make_finished_job()
    wrong = {"label": "cat", "likely": "dog", "label_probability": 0.1, "likely_probability": 0.9}
    pair = {"path": "cat/1.png", "label": "cat", "other_path": "dog/2.png", "other_label": "dog", "cosine": 0.95}
    job["labels"] = {
        "images": 40,
        "likely_wrong": [{"path": f"cat/{number}.png", **wrong} for number in range(12)],
        "likely_wrong_count": 300,
        "nearly_same": [pair],
        "nearly_same_count": 2,
    }
    service.script |= {"POST /v1/tasks": ACCEPTED, "GET /v1/jobs/j1": job}
    told = run_cli("teach", str(folder)).err
    assert "label likely wrong: cat/0.png looks like dog (90.0 %), not like cat (10.0 %)" in told
    assert "and 290 more labels that are likely wrong" in told
    assert "nearly the same picture: cat/1.png (cat) and dog/2.png (dog)" in told
    assert "and 1 more pairs" in told
    assert "label likely wrong" in run_cli("jobs", "show", "j1").out


def test_the_lineage_is_a_tree_with_branches_and_merges(run_cli: RunCli, service: Any) -> None:
    def version(number: int, parent: str | None, **more: object) -> dict[str, object]:
        usual = {"created_at": "2026-03-01T12:00:00Z", "classes": 2, "tasks": 1, "strategy": "segp", "dataset": "pets"}
        return {"version_id": f"v{number}", "number": number, "parent": parent, "evaluation": None, **usual, **more}

    service.script["GET /v1/versions"] = {
        "current": "v4",
        "serving": "v4",
        "versions": [
            version(1, None, made=None, strategy=None, dataset=None),
            version(2, "v1", made="trained"),
            version(3, "v1", made="trained", held_because=["bad"]),
            version(4, "v2", made="merged", other_parent="v3", dataset=None),
        ],
        "damaged": [],
    }
    lines = run_cli("versions", "--tree").out.splitlines()
    assert [line.strip("│├└─● ") for line in lines] == [
        "v1  first, 2 classes",
        "v2  trained, pets, 2 classes",
        "v4  merged, with v3, 2 classes",
        "v3  trained, pets, 2 classes, held",
    ]
    assert "●" in lines[2]


def test_teach_names_the_parent(run_cli: RunCli, service: Any, folder: Path, make_finished_job: MakeJob) -> None:
    job = make_finished_job()
    job["result"] |= {"promoted": False, "not_promoted_because": "it was learned on v1, beside CURRENT"}
    service.script |= {"POST /v1/tasks": ACCEPTED, "GET /v1/jobs/j1": job}
    told = run_cli("teach", str(folder), "--parent", "v1")
    assert b'name="parent"\r\n\r\nv1\r\n' in service.requests[0].content
    assert "published but not promoted: it was learned on v1, beside CURRENT" in told.out


HELD = "own classes: 0 of 16 images [14 taught] are right"


def held_job(make: MakeJob) -> dict[str, Any]:
    job: dict[str, Any] = make()
    checks = [
        {"name": "taught", "passed": False, "value": 0.0, "upper": 0.17, "bound": 0.5, "images": 16, "reason": HELD},
        {"name": "flat", "passed": None, "value": None, "upper": None, "bound": None, "images": 2, "reason": "too few"},
        {"name": "finite", "passed": True, "value": 0.0, "upper": None, "bound": 0.0, "images": 16, "reason": ""},
    ]
    job["result"] |= {
        "promoted": False,
        "not_promoted_because": f"held: {HELD}",
        "held_because": [HELD],
        "gate": {"enabled": True, "checks": checks, "held_because": [HELD]},
    }
    return job


def test_a_held_version_is_told_wherever_its_job_is(
    run_cli: RunCli, service: Any, folder: Path, make_finished_job: MakeJob
) -> None:
    job = held_job(make_finished_job)
    version = job["result"]["version_id"]
    service.script |= {
        "POST /v1/tasks": {"job_id": "j1", "location": "/v1/jobs/j1", "validation": job["validation"]},
        "GET /v1/jobs": {"jobs": [job]},
        "GET /v1/jobs/j1": job,
    }
    told = f"version {version} is published and held: {HELD}"
    assert told in run_cli("teach", str(folder)).out
    shown = run_cli("jobs", "show", "j1").out
    assert told in shown
    assert f"keepsight promote {version} --anyway --reason TEXT" in shown
    assert f"gate, taught: not passed (16 images): {HELD}" in shown
    assert "gate, flat: not judged (2 images): too few" in shown
    assert "gate, finite: passed (16 images)\n" in shown
    assert f"{version} (held)" in run_cli("jobs").out


def test_a_held_version_is_promoted_anyway_with_a_reason_only(run_cli: RunCli, service: Any) -> None:
    service.script["POST /v1/admin/promote"] = {"from": "v1", "to": "v2", "serving": "v2"}
    refused = run_cli("promote", "v2", "--anyway")
    assert (refused.code, service.requests) == (1, [])
    assert "--anyway needs a --reason" in refused.err
    assert run_cli("promote", "v2", "--anyway", "--reason", "a test").out == "Serving v2 (was v1).\n"
    assert json.loads(service.requests[0].content) == {"version_id": "v2", "reason": "a test", "anyway": True}


def test_the_gate_is_shown_and_set(run_cli: RunCli, service: Any) -> None:
    policy = {"enabled": True, "min_accuracy": 0.2, "few_images": 20}
    gate = {"policy": policy, "source": "damaged", "problem": "gate.json is damaged, the defaults are used: not JSON"}
    service.script |= {"GET /v1/admin/gate": gate, "PATCH /v1/admin/gate": {**gate, "problem": None}}
    for command in (["gate"], ["gate", "show"]):
        shown = run_cli(*command)
        assert [line.split() for line in shown.out.splitlines()[1:]] == [
            ["enabled", "true"],
            ["min_accuracy", "0.2"],
            ["few_images", "20"],
        ]
        assert "the defaults are used" in shown.err
        assert run_cli(*command, "--json").json == gate
    changed = run_cli("gate", "set", "min_accuracy=0.5", "enabled=false", "max_drop=null", "--reason", "strict")
    assert (changed.code, changed.err) == (0, "")
    sent = {"min_accuracy": 0.5, "enabled": False, "max_drop": None, "reason": "strict"}
    assert json.loads(service.requests[-1].content) == sent
    assert "gate set takes KEY=VALUE" in run_cli("gate", "set", "min_accuracy").err


def process(**changes: Any) -> dict[str, Any]:
    return {
        "id": "box-7", "host": "box", "pid": 7, "device": "cuda:0", "serving": "000002-bb", "prepared": None,
        "state": "serving", "reason": None, "seen_s": 0.2, **changes,
    }  # fmt: skip


def test_rollout_shows_what_every_process_serves_and_why_one_does_not(run_cli: RunCli, service: Any) -> None:
    refused = process(id="box-8", serving=None, state="refused", reason="[out] of memory")
    state = {"current": "000002-bb", "target": "000003-cc", "processes": [process(), refused]}
    service.script["GET /v1/admin/rollout"] = state
    head, first, second, said = run_cli("rollout").out.splitlines()
    assert head.split() == ["server", "device", "serving", "state", "reason"]
    assert first.split() == ["box-7", "cuda:0", "000002-bb", "serving"]
    assert second.split() == ["box-8", "cuda:0", "–", "refused", "[out]", "of", "memory"]
    assert said == "Current is 000002-bb; 000003-cc is being prepared."
    assert run_cli("rollout", "--json").json == state


def test_a_rollout_that_is_over_prepares_nothing(run_cli: RunCli, service: Any) -> None:
    service.script["GET /v1/admin/rollout"] = {"current": "000002-bb", "target": None, "processes": []}
    assert run_cli("rollout").out.splitlines()[-1] == "Current is 000002-bb."


def test_a_store_is_told_of_keys_and_made_to_forget_them(run_cli: RunCli, tmp_path: Path) -> None:
    keys_file, store = tmp_path / "keys.json", tmp_path / "store"
    store.mkdir()
    place = ("--keys-file", str(keys_file))
    run_cli("keys", "create", "ann", *place)
    assert (store / MARKER).exists()
    assert "holds keys" in run_cli("keys", "forget", "--yes", *place).err
    keys_file.unlink()
    assert "restart the service" in run_cli("keys", "forget", "--yes", *place).out
    assert not (store / MARKER).exists()
    assert f"{store} remembers no keys" in " ".join(run_cli("keys", "forget", "--yes", *place).out.split())


def test_keys_live_in_their_file(run_cli: RunCli, tmp_path: Path) -> None:
    place = ("--keys-file", str(tmp_path / "keys.json"))
    created = run_cli("keys", "create", "ann", "--scopes", "classify, train", "--json", *place).json
    assert created["scopes"] == ["classify", "train"]
    printed = run_cli("keys", "create", "bob", *place)
    assert printed.out.startswith("ks_")
    assert printed.out.strip() not in (tmp_path / "keys.json").read_text()
    assert run_cli("keys", "revoke", created["id"], *place).out == f"Key {created['id']} (ann) is revoked.\n"
    listed = run_cli("keys", "list", "--json", *place).json["keys"]
    assert [(k["name"], k["revoked_at"] is None) for k in listed] == [("ann", False), ("bob", True)]
    assert "token" not in listed[0]
    assert "bob" in run_cli("keys", "list", *place).out


def test_the_reader_of_our_output_may_leave(tmp_path: Path) -> None:
    keys = tmp_path / "keys.json"
    command = [sys.executable, "-m", "keepsight", "keys", "list", "--json", "--keys-file", str(keys)]
    read, write = os.pipe()
    os.close(read)
    try:
        ran = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, check=False)
    finally:
        os.close(write)
    assert ran.stderr == ""
    assert ran.returncode == 1


def edit_job(make_finished_job: MakeJob, **report: object) -> dict[str, Any]:
    job = make_finished_job()
    job["result"] |= {"evaluation": None, "version_id": "v3", "report": report}
    return job


@pytest.mark.parametrize(
    ("arguments", "route", "sent", "done"),
    [
        (
            ("rename", "cat", "puss", "--reason", "r"),
            "PATCH /v1/classes/cat",
            {"name": "puss", "reason": "r"},
            "Renamed",
        ),
        (("rename", "a/b", "--prompt", "a b"), "PATCH /v1/classes/a/b", {"prompt": "a b"}, "Renamed"),
        (("swap", "cat", "dog"), "PATCH /v1/classes/cat", {"name": "dog", "swap": True}, "Swapped"),
        (
            ("merge", "cat", "dog", "--into", "pet", "--prompt", "p"),
            "POST /v1/classes/merge",
            {"classes": ["cat", "dog"], "name": "pet", "prompt": "p"},
            "Merged",
        ),
        (("delete", "cat"), "DELETE /v1/classes/cat", None, "Deleted"),
    ],
)
def test_classes_are_edited(
    run_cli: RunCli,
    service: Any,
    make_finished_job: MakeJob,
    arguments: tuple[str, ...],
    route: str,
    sent: object,
    done: str,
) -> None:
    edit = {"kind": "delete", "classes": ["cat"], "name": None, "prompt": None}
    service.script |= {
        route: {"job_id": "j1", "location": "/v1/jobs/j1", "edit": edit},
        "GET /v1/jobs/j1": edit_job(make_finished_job, edit={"remains": ["a trace"]}),
    }
    told = run_cli("classes", *arguments)
    assert told.out == f"{done}: version v3 is published and current.\nremains: a trace\n"
    body = service.requests[0].content
    assert (json.loads(body) if body else None) == sent
    assert run_cli("classes", *arguments, "--no-wait").out == "Job j1 is queued: keepsight jobs show j1\n"
    assert run_cli("classes", *arguments, "--no-wait", "--json").json["edit"] == edit


def test_a_class_is_replaced_from_a_folder(
    run_cli: RunCli, service: Any, make_finished_job: MakeJob, folder: Path
) -> None:
    service.script |= {
        "POST /v1/classes/cat/replace": ACCEPTED,
        "GET /v1/jobs/j1": edit_job(make_finished_job),
    }
    told = run_cli("classes", "replace", "cat", str(folder), "--reason", "sharper")
    assert told.out == "Replaced: version v3 is published and current.\n"
    assert b'name="reason"\r\n\r\nsharper\r\n' in service.requests[0].content


def test_the_classes_are_listed(run_cli: RunCli, service: Any) -> None:
    known = {"name": "cat", "prompt": "a photo of a cat.", "task": 1, "images": 23}
    service.script["GET /v1/classes"] = {"model_version": "v1", "classes": [known]}
    assert "a photo of a cat." in run_cli("classes").out
    assert run_cli("classes", "--json").json["classes"] == [known]


@pytest.mark.parametrize(
    ("arguments", "sent"),
    [
        (("rename", "cat", "puss"), {"kind": "rename", "classes": ["cat"], "name": "puss"}),
        (("swap", "cat", "dog"), {"kind": "swap", "classes": ["cat", "dog"]}),
        (("merge", "cat", "dog", "--into", "pet"), {"kind": "merge", "classes": ["cat", "dog"], "name": "pet"}),
        (("delete", "cat"), {"kind": "delete", "classes": ["cat"]}),
    ],
)
def test_an_edit_says_first_what_it_would_change(
    run_cli: RunCli, service: Any, arguments: tuple[str, ...], sent: object
) -> None:
    facts = {"name": "cat", "images": 7, "accuracy": 0.5, "nearest": {"label": "dog", "cosine": 0.4}}
    service.script["POST /v1/classes/preview"] = {
        "words": "do it",
        "version_id": "v3",
        "classes_before": 3,
        "classes_after": 2,
        "affected": [facts],
        "test_sets": [{"test_set": "field", "images": 4}],
        "removed": ["the prototype"],
        "remains": ["old versions"],
    }
    told = run_cli("classes", *arguments, "--dry-run")
    assert told.code == 0, told.err
    assert [json.loads(request.content) for request in service.requests] == [sent]
    for said in ("Nothing was changed.", "3 now, 2 then", "cat: 7 images, accuracy 50%, nearest to dog.", "field: 4"):
        assert said in told.out
    assert "Removed: the prototype." in told.out
    assert "Remains: old versions." in told.out
