"""The server as a process of its own: its address, its exit codes, its sockets."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.settings import Settings
from exchange.jobs import Jobs
from keepsight.keys import KeyFile
from tests.waiting import wait_until

Start = Callable[..., "subprocess.Popen[str]"]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def environment(configure: Callable[..., Settings]) -> dict[str, str]:
    settings = configure(port=free_port())
    names = ("store", "spool", "keys_file", "redis_url", "model", "device", "threads", "port")
    return {f"KEEPSIGHT_{name.upper()}": str(getattr(settings, name)) for name in names}


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    started: list[subprocess.Popen[str]] = []

    def run(environment: Mapping[str, str], *, files: int | None = None) -> subprocess.Popen[str]:
        limit = [] if files is None else ["prlimit", f"--nofile={files}:{files}"]
        process = subprocess.Popen(
            [*limit, sys.executable, "-m", "app"],
            env={**os.environ, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield run
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


def wait_ready(url: str, process: subprocess.Popen[str]) -> Any:
    def ready() -> Any:
        assert process.poll() is None, process.communicate()[1]
        try:
            response = httpx.get(f"{url}/readyz")
        except httpx.TransportError:
            return None
        return response.json() if response.status_code == 200 else None

    return wait_until(ready, 200)


def test_help_names_every_setting() -> None:
    shown = subprocess.run([sys.executable, "-m", "app", "--help"], capture_output=True, text=True, check=True).stdout
    assert all(f"KEEPSIGHT_{name.upper()} " in shown for name in Settings.model_fields)


def test_without_keys_only_loopback_is_bound(environment: dict[str, str], start: Start) -> None:
    process = start({**environment, "KEEPSIGHT_HOST": "0.0.0.0"})
    out, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert err.count("\n") == 1
    assert "refusing to bind to 0.0.0.0" in err
    assert "keepsight keys" in err
    assert out == ""


def test_a_revoked_key_is_no_key(environment: dict[str, str], start: Start) -> None:
    keys = KeyFile(Path(environment["KEEPSIGHT_KEYS_FILE"]))
    keys.revoke(keys.create("old", ["admin"]).key.id)
    process = start({**environment, "KEEPSIGHT_HOST": "::"})
    process.communicate(timeout=60)
    assert process.returncode == 2


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"KEEPSIGHT_PORT": "many"}, "KEEPSIGHT_PORT: "),
        ({"KEEPSIGHT_MODEL": "local-dir:/nowhere"}, "nowhere"),
    ],
)
def test_settings_that_cannot_work_end_it_with_one_sentence(
    environment: dict[str, str], start: Start, changed: dict[str, str], said: str
) -> None:
    process = start({**environment, **changed})
    _, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert said in err.splitlines()[-1]
    assert "Traceback" not in err


def test_two_processes_share_a_port_and_one_goes_on_when_the_other_is_killed(
    environment: dict[str, str], start: Start
) -> None:
    shared = {**environment, "KEEPSIGHT_SHARE_PORT": "true"}
    own_port = free_port()
    second = start(shared)
    url = f"http://127.0.0.1:{environment['KEEPSIGHT_PORT']}"
    wait_ready(url, second)
    first = start({**shared, "KEEPSIGHT_METRICS_PORT": str(own_port)})

    def both_serving() -> Any:
        shown = httpx.get(f"{url}/v1/admin/rollout").json()["processes"]
        return shown if len(shown) == 2 and all(process["state"] == "serving" for process in shown) else None

    shown = wait_until(both_serving, 200)
    assert {process["pid"] for process in shown} == {first.pid, second.pid}

    def own_metrics() -> str | None:
        with contextlib.suppress(httpx.TransportError):  # it says that it serves a moment before it listens
            return httpx.get(f"http://127.0.0.1:{own_port}/metrics").text
        return None

    assert "keepsight_serving_info" in wait_until(own_metrics, 200)
    first.kill()
    first.wait()
    for _ in range(20):
        assert httpx.get(f"{url}/readyz").status_code == 200


def test_a_device_that_is_not_there_is_refused(environment: dict[str, str], start: Start) -> None:
    process = start({**environment, "KEEPSIGHT_DEVICE": "cuda:99"})
    _, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "the device cuda:99 was requested, but PyTorch finds" in err.splitlines()[-1]


def test_it_serves_refuses_what_is_too_large_at_once_and_stops_when_told(
    environment: dict[str, str], start: Start, redis_url: str, archive: Callable[[Mapping[str, int]], bytes]
) -> None:
    keys = KeyFile(Path(environment["KEEPSIGHT_KEYS_FILE"]))
    token = keys.create("all", ["classify", "train", "admin"]).token
    port = int(environment["KEEPSIGHT_PORT"])
    process = start({**environment, "KEEPSIGHT_HOST": "0.0.0.0"})
    url = f"http://127.0.0.1:{port}"
    assert wait_ready(url, process)["broker"] == "reachable"

    with socket.create_connection(("127.0.0.1", port), timeout=5) as raw:
        raw.sendall(
            b"POST /v1/tasks HTTP/1.1\r\nHost: x\r\nContent-Length: 3000000000\r\n"
            b"Content-Type: multipart/form-data; boundary=b\r\n\r\n"
        )
        answer = raw.recv(65_536)
    assert answer.startswith(b"HTTP/1.1 413")
    assert b"application/problem+json" in answer

    with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {token}"}) as client:
        accepted = client.post("/v1/tasks", files={"archive": archive({"cat": 2})}, data={"name": "animals"})
        assert accepted.status_code == 202, accepted.text
        job_id = accepted.json()["job_id"]
        with client.stream("GET", f"/v1/jobs/{job_id}/events") as events:
            lines = events.iter_lines()
            assert next(line for line in lines if line.startswith("event")) == "event: state"
            Jobs(redis_url).request_cancel(job_id)
            assert any('"state":"cancelled"' in line for line in lines)
        # a stream that is still open does not keep the server from stopping
        second = client.post("/v1/tasks", files={"archive": archive({"cat": 3})}, data={"name": "animals"}).json()
        with client.stream("GET", f"/v1/jobs/{second['job_id']}/events") as events:
            next(events.iter_lines())
            process.send_signal(signal.SIGTERM)
            _, err = process.communicate(timeout=30)
    assert process.returncode == 0, err
    assert token not in err
    assert "Traceback" not in err
    assert "POST /v1/tasks 202" in err


def test_idle_connections_leave_room_for_honest_requests_and_do_not_hold_up_a_stop(
    environment: dict[str, str], start: Start, archive: Callable[[Mapping[str, int]], bytes]
) -> None:
    process = start({**environment, "KEEPSIGHT_HEADER_TIMEOUT_S": "100"}, files=128)
    port = int(environment["KEEPSIGHT_PORT"])
    url = f"http://127.0.0.1:{port}"
    wait_ready(url, process)
    idle = []
    try:
        for number in range(200):
            idle.append(socket.create_connection(("127.0.0.1", port), timeout=20))
            if number % 10 == 0:
                assert httpx.get(f"{url}/v1/versions").status_code == 200
        upload = httpx.post(f"{url}/v1/tasks", files={"archive": archive({"cat": 2})}, data={"name": "animals"})
        assert upload.status_code == 202, upload.text
        assert len(os.listdir(f"/proc/{process.pid}/fd")) < 120
        metrics = httpx.get(f"{url}/metrics").text
        assert 'keepsight_connections_ended_total{reason="made-room"}' in metrics
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=60)
    finally:
        for one in idle:
            one.close()
    assert process.returncode == 0, err
    assert "Traceback" not in err
    assert "Too many open files" not in err
