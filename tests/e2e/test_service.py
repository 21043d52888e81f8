"""The service as a user has it: started, taught, asked, taken back and stopped through the command line alone."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import redis

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
    long_enough_to_be_seen = ("--set", "epochs=30", *FAST[2:])
    taught = keepsight("teach", first, "--name", "warm", "--json", *long_enough_to_be_seen, url=url)
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
    assert [(v["made"], v["classes"]) for v in listing["versions"]] == [
        (None, 0), ("instant", 2), ("trained", 2), ("instant", 4), ("trained", 4),
    ]  # fmt: skip
    one, _, two, _, three = (v["version_id"] for v in listing["versions"])
    assert (listing["current"], listing["serving"]) == (three, three)
    assert after_first["model_version"] == two
    assert three in keepsight("versions", url=url).out
    assert keepsight("versions", "show", one, "--json", url=url).json["classes"] == []
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


def stopped(process: Any, finish: Callable[..., Any]) -> str:
    """Stop the service and return what it said."""
    process.terminate()
    ended = finish(process)
    assert ended.code == 0, ended.err
    return str(ended.err)


def parts_of(keepsight: Any) -> dict[str, int]:
    """The process ids of the parts at present."""
    note = json.loads((keepsight.folder / "var" / "store.up.json").read_text())
    return dict(note["parts"])


def answers(url: str, colours: Path) -> int:
    """The status of a classify request that waits for an answer."""
    image = (colours / "red" / "0.png").read_bytes()
    files, data = {"images": ("0.png", image, "image/png")}, {"labels": ["red", "blue"]}
    return httpx.post(f"{url}/v1/classify", files=files, data=data, timeout=60).status_code


def test_whichever_part_is_killed_the_others_go_on_and_it_is_started_again(
    keepsight: Any, colours: Path, finish: Callable[..., Any]
) -> None:
    process, note = keepsight.up("--api-processes", "2")
    url, before = note["url"], note["parts"]
    assert set(before) == {"broker", "worker", "server", "server-2"}
    with client_of(note) as broker:
        broker.set("kept", "yes")
    for pid in before.values():
        os.kill(pid, signal.SIGKILL)
        assert answers(url, colours) == 200  # with both servers gone it waits for the next
    wait_until(lambda: not set(parts_of(keepsight).values()) & set(before.values()), timeout_s=120)
    told = keepsight("teach", subset(colours, keepsight.folder / "first", "red", "green"), *FAST, url=url)
    assert told.code == 0, told.err
    with client_of(note) as broker:
        assert broker.get("kept") == "yes"
    said = stopped(process, finish)
    assert all(f"keepsight: the {name} was killed by SIGKILL" in said for name in before), said
    assert keepsight.left_running() == []


def test_a_stopped_server_is_replaced_and_a_stopped_broker_is_waited_for(
    keepsight: Any, colours: Path, finish: Callable[..., Any]
) -> None:
    process, note = keepsight.up("--no-worker", "--api-processes", "2")
    url, before = note["url"], note["parts"]
    wait_until(lambda: all("startup complete" in log_of(note, name) for name in ("server", "server-2")), timeout_s=120)
    for group in (before["broker"], before["server"]):
        os.killpg(group, signal.SIGSTOP)
    for _ in range(20):  # each on a connection of its own, and none is given to the stopped one
        assert answers(url, colours) == 200
    after = wait_until(lambda: (now := parts_of(keepsight))["server"] != before["server"] and now, timeout_s=120)
    assert after["broker"] == before["broker"]  # silent for as long, and not killed for it
    os.killpg(before["broker"], signal.SIGCONT)
    wait_until(lambda: httpx.get(f"{url}/v1/jobs").status_code == 200)
    (keepsight.folder / "var" / "store.up.json").unlink()
    assert "the server has given no sign of life for 10 s; it is killed" in stopped(process, finish)


def log_of(note: Any, part: str) -> str:
    return Path(note["logs"][part]).read_text()


@contextmanager
def client_of(note: Any) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(note["broker"], decode_responses=True) as client:
        yield client


def test_what_is_deleted_beside_a_running_service_does_not_end_it(
    keepsight: Any, colours: Path, finish: Callable[..., Any]
) -> None:
    process, note = keepsight.up("--no-worker")
    url, base = note["url"], keepsight.folder / "var"
    with client_of(note) as broker:
        broker.set("kept", "yes")
    for name in ("store.up.json", "store.up.lock"):
        (base / name).unlink()
    shutil.rmtree(base / "log")
    shutil.rmtree(base / "spool")
    shutil.rmtree(base / "broker", ignore_errors=True)
    assert answers(url, colours) == 200
    wait_until(lambda: (base / "store.up.json").exists() and parts_of(keepsight)["broker"] != note["parts"]["broker"])
    with client_of(note) as broker:
        wait_until(lambda: broker_answers(broker))
        assert broker.get("kept") == "yes"
    second = keepsight("up", "--port", "0")
    assert "already runs on the store" in second.err
    assert parts_of(keepsight)["server"] == note["parts"]["server"]
    assert "written again from the broker's memory" in stopped(process, finish)


def broker_answers(broker: redis.Redis) -> bool:
    try:
        return bool(broker.ping())
    except redis.exceptions.ConnectionError:
        return False


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
