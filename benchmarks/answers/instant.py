"""How soon a task is served: from the last byte of the upload to the first answer by the new version on all servers."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, Final

from benchmarks.common.process import ROOT, answer_of
from benchmarks.faults.service import free_ports

SERVERS: Final = 2
THREADS: Final = 2
ALLOWED_S: Final = 0.5
"""Seconds that a small task may take beside its multiple of the bare loop."""
_POLL_S: Final = 0.02
_PATIENCE_S: Final = 600.0
_SETTLED_S: Final = 8.0
"""After the servers are ready: by then the worker's process has loaded the model."""


@dataclass(frozen=True)
class Timed:
    """Seconds from the last byte of an upload until all servers served its instant version, and its trained one."""

    instant_s: float
    trained_s: float | None


class Service:
    """`keepsight up` with two servers on a store of its own."""

    def __init__(self, base: Path) -> None:
        self.port = free_ports(1)
        command = [sys.executable, "-P", "-m", "keepsight", "up", "--store", str(base / "store")]
        command += ["--port", str(self.port), "--threads", str(THREADS), "--api-processes", str(SERVERS)]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("KEEPSIGHT_")}
        self._process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**environment, "KEEPSIGHT_SPOOL": str(base / "spool"), "KEEPSIGHT_DEVICE": "cpu"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self.until(lambda: len(self.serving()) == SERVERS)
        time.sleep(_SETTLED_S)

    def stop(self) -> None:
        """Stop it, and wait until it has ended."""
        self._process.send_signal(signal.SIGTERM)
        self._process.wait()

    def get(self, path: str) -> Any:
        """Return a route's answer."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=30) as answer:
            return json.loads(answer.read())

    def serving(self) -> list[str]:
        """Return what each server serves."""
        with contextlib.suppress(OSError, ValueError):
            return [process["serving"] for process in self.get("/v1/admin/rollout")["processes"]]
        return []

    def roll_back(self, version: str) -> None:
        """Go back to a version."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/v1/admin/rollback",
            data=json.dumps({"version_id": version, "reason": "the next round"}).encode(),
            headers={"Content-Type": "application/json"},
        )
        urllib.request.urlopen(request, timeout=60).close()  # noqa: S310

    def upload(self, archive: bytes, name: str) -> tuple[str, float]:
        """Send a task. Returns its job, and when the last byte was sent."""
        boundary = uuid.uuid4().hex
        field = f'--{boundary}\r\nContent-Disposition: form-data; name="name"\r\n\r\n{name}\r\n'
        file = f'--{boundary}\r\nContent-Disposition: form-data; name="archive"; filename="a.tar"\r\n\r\n'
        body = (field + file).encode() + archive + f"\r\n--{boundary}--\r\n".encode()
        connection = HTTPConnection("127.0.0.1", self.port, timeout=_PATIENCE_S)
        connection.request("POST", "/v1/tasks", body, {"Content-Type": f"multipart/form-data; boundary={boundary}"})
        sent_at = time.perf_counter()
        answer = json.loads(connection.getresponse().read())
        connection.close()
        return str(answer["job_id"]), sent_at

    def until(self, condition: Callable[[], Any]) -> float:
        """Wait for a condition, and return when it held.

        Raises:
            TimeoutError: it did not.
        """
        deadline = time.perf_counter() + _PATIENCE_S
        while not condition():
            if time.perf_counter() > deadline or self._process.poll() is not None:
                raise TimeoutError("the service did not do in time what is measured")
            time.sleep(_POLL_S)
        return time.perf_counter()

    def teach(self, archive: bytes, name: str, *, trained: bool) -> Timed:
        """Send a task, and time until all servers serve it."""
        job_id, sent_at = self.upload(archive, name)

        def served(key: str) -> bool:
            version = (self.get(f"/v1/jobs/{job_id}")[key] or {}).get("version_id")
            return version is not None and set(self.serving()) == {version}

        instant_s = self.until(lambda: served("instant")) - sent_at
        return Timed(instant_s, self.until(lambda: served("result")) - sent_at if trained else None)


@contextlib.contextmanager
def service() -> Iterator[Service]:
    """Run the service in folders that are removed afterwards."""
    with tempfile.TemporaryDirectory(prefix="keepsight-instant-") as base:
        running = Service(Path(base))
        try:
            yield running
        finally:
            running.stop()


def archive_of(folder: Path) -> bytes:
    """Return a tar of a folder with a folder per class."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        tar.add(folder, arcname=".")
    return out.getvalue()


def bare_s(folder: Path, *, rounds: int) -> float:
    """Return the seconds in which a loop decodes and passes a folder's images: the median of rounds."""
    asked = json.dumps({"folder": str(folder), "threads": THREADS, "rounds": rounds})
    return float(statistics.median(answer_of("benchmarks.answers.bare_loop", asked, environment={})))


def figures(small: Path, large: Path, other: Path, *, rounds: int) -> dict[str, float]:
    """Measure both sizes of a task in quiet, and the small one while another task trains.

    Args:
        small: a folder per class: 5 of 25 photos.
        large: 10 of 200.
        other: a task that trains for long enough.
        rounds: how often each is measured; medians count.
    """
    found: dict[str, list[float]] = {}

    def add(**values: float) -> None:
        for name, value in values.items():
            found.setdefault(name, []).append(value)

    archives = {folder: archive_of(folder) for folder in (small, large, other)}
    with service() as running:
        first = running.serving()[0]
        for number in range(rounds):
            add(bare_125=bare_s(small, rounds=1))
            timed = running.teach(archives[small], f"small {number}", trained=True)
            add(instant_125=timed.instant_s, trained_125=timed.trained_s or 0.0)
            running.roll_back(first)
            time.sleep(_SETTLED_S)
        for number in range(rounds):
            add(bare_2000=bare_s(large, rounds=1))
            timed = running.teach(archives[large], f"large {number}", trained=True)
            add(instant_2000=timed.instant_s)
            running.roll_back(first)
            time.sleep(_SETTLED_S)
        job_id, _ = running.upload(archives[other], "other")
        running.until(lambda: (running.get(f"/v1/jobs/{job_id}")["progress"] or {}).get("phase") == "train")
        add(instant_125_training=running.teach(archives[small], "meanwhile", trained=False).instant_s)
    return {name: statistics.median(values) for name, values in found.items()}
