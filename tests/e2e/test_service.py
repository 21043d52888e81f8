"""The service as a user has it: started, taught, asked, taken back and stopped through the command line alone."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.waiting import wait_until

FAST = ("--set", "epochs=2", "--set", "k_adv=1", "--set", "rank=4")


def subset(source: Path, target: Path, *names: str) -> str:
    for name in names:
        shutil.copytree(source / name, target / name)
    return str(target)


def test_teach_classify_roll_back_and_stop(keepsight: Any, colours: Path, finish: Callable[..., Any]) -> None:
    process, note = keepsight.up()
    url = note["url"]
    assert set(note["parts"]) == {"broker", "worker", "server"}

    # Version 1 knows no class, but answers words.
    nothing = keepsight("classify", str(colours / "red"), url=url)
    assert nothing.code == 1
    assert nothing.err.startswith("keepsight: ")
    assert nothing.err.count("\n") == 1
    words = keepsight("classify", str(colours / "red"), "--labels", "red,blue", "--json", url=url).json
    assert {r["predictions"][0]["label"] for r in words["results"]} <= {"red", "blue"}

    # Two tasks, from folders.
    first = subset(colours, keepsight.folder / "first", "red", "green")
    second = subset(colours, keepsight.folder / "second", "blue", "yellow")
    taught = keepsight("teach", first, "--name", "warm", "--json", *FAST, url=url)
    assert taught.code == 0, taught.err
    assert taught.json["state"] == "succeeded"
    assert "train" in taught.err
    held_out = [str(colours / name / "*.png") for name in ("red", "green", "blue", "yellow")]
    after_first = keepsight("classify", *held_out, "--top-k", "4", "--json", url=url).json
    told = keepsight("teach", second, *FAST, url=url)
    assert told.code == 0, told.err
    assert "is published and current" in told.out

    # The lineage.
    listing = keepsight("versions", "--json", url=url).json
    assert [v["classes"] for v in listing["versions"]] == [0, 2, 4]
    one, two, three = (v["version_id"] for v in listing["versions"])
    assert (listing["current"], listing["serving"]) == (three, three)
    assert after_first["model_version"] == two
    assert three in keepsight("versions", url=url).out
    assert keepsight("versions", one, url=url).json["classes"] == []
    jobs = keepsight("jobs", "--json", url=url).json["jobs"]
    assert sorted(job["name"] for job in jobs) == ["second", "warm"]

    # A class cannot be taught twice by accident.
    again = keepsight("teach", first, url=url)
    assert again.code == 1
    assert "green" in again.err
    assert "--extend" in again.err

    # Back, with the very answers of then.
    moved = keepsight("rollback", "--reason", "I liked the earlier one", "--json", url=url).json
    assert (moved["from"], moved["to"], moved["serving"]) == (three, two, two)
    assert keepsight("classify", *held_out, "--top-k", "4", "--json", url=url).json == after_first
    assert keepsight("promote", three, url=url).out == f"Serving {three} (was {two}).\n"

    # A second service on the store, and one on the port, are refused in a sentence.
    second_up = keepsight("up", "--port", "0")
    assert second_up.code == 1
    assert f"already runs on the store var/store at {url} (process {note['pid']})" in second_up.err
    for background in ((), ("--detach",)):
        other = keepsight("up", "--port", url.rpartition(":")[2], "--store", "other/store", *background)
        assert other.code == 1
        assert other.err.startswith("keepsight: port ")
        assert other.err.endswith(" is in use; stop what listens there, or choose another with --port\n")

    # No image stays, and stopping is clean and quick.
    assert [path for path in (keepsight.folder / "var" / "spool").rglob("*") if path.is_file()] == []
    began = time.monotonic()
    process.terminate()
    stopped = finish(process)
    assert stopped.code == 0, stopped.err
    assert "Stopped." in stopped.err
    assert time.monotonic() - began < 15
    assert keepsight.left_running() == []
    down = keepsight("versions", url=url)
    assert down.code == 1
    assert "start the service with `keepsight up`" in down.err


def test_when_a_part_is_killed_up_says_which_and_stops_the_rest(keepsight: Any, finish: Callable[..., Any]) -> None:
    process, note = keepsight.up("--no-worker")
    os.kill(note["parts"]["server"], signal.SIGKILL)
    ended = finish(process)
    assert ended.code == 1
    assert "keepsight: the server was killed by SIGKILL; its log, " in ended.err
    assert keepsight.left_running() == []


def test_a_killed_worker_leaves_the_service_serving_and_is_started_again(
    keepsight: Any, colours: Path, finish: Callable[..., Any]
) -> None:
    process, note = keepsight.up()
    url, worker = note["url"], note["parts"]["worker"]
    os.kill(worker, signal.SIGKILL)
    words = keepsight("classify", str(colours / "red"), "--labels", "red,blue", "--json", url=url)
    assert words.code == 0, words.err
    told = keepsight("teach", subset(colours, keepsight.folder / "first", "red", "green"), *FAST, url=url)
    assert told.code == 0, told.err
    process.terminate()
    stopped = finish(process)
    assert stopped.code == 0, stopped.err
    assert "keepsight: the worker was killed by SIGKILL" in stopped.err
    assert "it is started again" in stopped.err
    assert keepsight.left_running() == []


def test_a_killed_up_leaves_nothing_and_its_store_can_be_served_again_in_the_background(
    keepsight: Any, finish: Callable[..., Any]
) -> None:
    process, note = keepsight.up("--no-worker")
    before = keepsight("versions", "--json", url=note["url"]).json
    process.kill()
    finish(process)
    wait_until(lambda: keepsight.left_running() == [])

    started = keepsight("up", "--no-worker", "--detach", "--port", "0", "--json")
    assert started.code == 0, started.err
    url = started.json["url"]
    assert keepsight("versions", "--json", url=url).json == before
    assert keepsight("down").out == "Stopped.\n"
    assert keepsight.left_running() == []


def test_a_server_that_refuses_its_settings_is_quoted(keepsight: Any) -> None:
    ran = keepsight("up", "--no-worker", "--host", "0.0.0.0", "--port", "0")
    assert ran.code == 1
    assert "the server ended with exit code" in ran.err
    assert "refusing to bind to 0.0.0.0" in ran.err
    assert keepsight.left_running() == []
