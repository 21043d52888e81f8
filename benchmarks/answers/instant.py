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
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, Final

from benchmarks.accuracy.datasets import load_dataset
from benchmarks.accuracy.datasets.types import LabelledImages
from benchmarks.answers.group import Group, Inputs, Part
from benchmarks.common.pages import number, table
from benchmarks.common.process import ROOT, answer_of
from benchmarks.common.record import Record
from benchmarks.faults.service import free_ports

SERVERS: Final = 2
THREADS: Final = 2
ALLOWED_S: Final = 0.5
"""Seconds that a small task may take beside its multiple of the bare loop."""
_POLL_S: Final = 0.05
"""Asking more often would take a good part of a core from what is measured."""
_DATA: Final = b"data:"
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

    def upload(self, archive: bytes, name: str, config: Mapping[str, object] | None = None) -> tuple[str, float]:
        """Send a task. Returns its job, and when the last byte was sent."""
        boundary, fields = uuid.uuid4().hex, {"name": name, "config": json.dumps(dict(config or {}))}
        field = "".join(
            f'--{boundary}\r\nContent-Disposition: form-data; name="{key}"\r\n\r\n{value}\r\n'
            for key, value in fields.items()
        )
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

        def served(key: str) -> float:
            version = self.version_of(job_id, key)
            return self.until(lambda: set(self.serving()) == {version}) - sent_at

        return Timed(served("instant"), served("result") if trained else None)

    def version_of(self, job_id: str, key: str) -> str:
        """Wait for a job's `instant` version, or that of its `result`, by its events: asking would cost what is timed.

        Raises:
            TimeoutError: it has ended without.
        """
        url = f"http://127.0.0.1:{self.port}/v1/jobs/{job_id}/events"
        with urllib.request.urlopen(url, timeout=_PATIENCE_S) as events:
            for line in events:
                job = json.loads(line[len(_DATA) :]) if line.startswith(_DATA) else {}
                if version := (job.get(key) or {}).get("version_id"):
                    return str(version)
        raise TimeoutError(f"the job has ended without {key}")


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


def measure(inputs: Inputs) -> Part:
    """Measure both sizes of a task in quiet, and the small one while another task trains; medians of the rounds."""
    found: dict[str, list[float]] = {}

    def add(**values: float | None) -> None:
        for name, value in values.items():
            found.setdefault(name, []).append(value or 0.0)

    with tempfile.TemporaryDirectory(prefix="keepsight-photos-") as folder, service() as running:
        small, large, other = _tasks(inputs.data, Path(folder))
        archives = {task: archive_of(task) for task in (small, large, other)}
        first = running.serving()[0]
        for name, task in (("125", small), ("2000", large)):
            for number in range(inputs.rounds):
                timed = running.teach(archives[task], f"{name} {number}", trained=True)
                add(**{f"instant_{name}_s": timed.instant_s, f"trained_{name}_s": timed.trained_s})
                running.roll_back(first)
                time.sleep(_SETTLED_S)
                add(**{f"bare_{name}_s": bare_s(task, rounds=1)})
        job_id, _ = running.upload(archives[other], "other")
        running.until(lambda: (running.get(f"/v1/jobs/{job_id}")["progress"] or {}).get("phase") == "train")
        add(instant_125_beside_s=running.teach(archives[small], "meanwhile", trained=False).instant_s)
    seconds = {name: statistics.median(values) for name, values in found.items()}
    return Part(
        {
            "instant_overhead_125": (seconds["instant_125_s"] - ALLOWED_S) / seconds["bare_125_s"],
            "instant_overhead_2000": seconds["instant_2000_s"] / seconds["bare_2000_s"],
            "instant_overhead_125_beside": (seconds["instant_125_beside_s"] - ALLOWED_S) / seconds["bare_125_s"],
            "trained_seconds_125": seconds["trained_125_s"],
        },
        {"seconds": seconds, "rounds": found},
    )


def _tasks(data: Path, folder: Path) -> tuple[Path, Path, Path]:
    """Write three tasks as folders of classes: 5 of 25 photos, 10 of 200 pictures, and one that trains for a while."""
    photos, pictures = (load_dataset(name, data) for name in ("caltech101", "cifar10"))

    def write(name: str, source: LabelledImages, classes: range, each: int) -> Path:
        target = folder / name
        left = dict.fromkeys(classes, each)
        for index, label in enumerate(source.labels):
            if left.get(label, 0):
                left[label] -= 1
                path = target / f"class {label}" / f"{index}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                source.open(index).save(path)
        return target

    return (
        write("small", photos.train, range(5), 25),
        write("large", pictures.train, range(10), 200),
        write("other", photos.train, range(10, 50), 25),
    )


def section(details: Record) -> str:
    """The seconds, as a table."""
    rows = [[name, number(value, 2)] for name, value in details["seconds"].items()]
    return (
        f"`keepsight up` with {SERVERS} servers, {THREADS} threads each. From the last byte of the upload until all "
        "servers serve the version. `bare`: a loop that decodes the same images and passes them once, by the server's "
        "passes. "
        f"`beside`: while another task trains.\n\n{table(['what', 'seconds'], rows)}"
    )


INSTANT = Group(
    meanings={
        "instant_overhead_125": "5 classes of 25 photos: seconds until served, less 0.5, over the bare loop",
        "instant_overhead_2000": "10 classes of 200 pictures: seconds until served, over the bare loop",
        "instant_overhead_125_beside": "the first while another task trains",
        "trained_seconds_125": "seconds until the trained version of the 125 is served",
    },
    measure=measure,
    section=section,
    on_features=False,
)
