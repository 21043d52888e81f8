"""What a fault is carried out on: the running service, the client that asks it, and the jobs that it has accepted."""

from __future__ import annotations

import contextlib
import itertools
import os
import select
import signal
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote

import redis

from benchmarks.faults.checks import FINAL, Death, as_json
from benchmarks.faults.client import Steady
from benchmarks.faults.pictures import Pictures
from benchmarks.faults.service import SERVERS, Answer, Service

SHORT: Final = '{"epochs": 1, "k_adv": 1, "rank": 4, "align_steps": 5}'
LONG: Final = '{"epochs": 80, "k_adv": 10, "rank": 4, "align_steps": 150}'
"""Long enough that every phase of the update can be met."""
JOB_S: Final = 240.0
_DYING_S: Final = 1.0
BOUNDARY: Final = "keepsight-faults-boundary"


@dataclass
class Taught:
    """An accepted job: its classes, and the last that was heard of it (None: it is not known any more)."""

    classes: tuple[str, ...]
    state: str | None = "queued"
    phase: str | None = None
    error: str | None = None
    version: str | None = None
    promoted: bool = False


class Stage:
    """A service with two versions, of which the second, `base`, is served before and after every fault."""

    def __init__(self, service: Service, pictures: Pictures) -> None:
        self.service = service
        self.client: Steady
        self.pictures = pictures
        self.jobs: dict[str, Taught] = {}
        self.deaths: list[Death] = []
        self.first = self.base = ""
        self.closing: list[Any] = []
        self._numbers = itertools.count()

    # --- jobs ---------------------------------------------------------------------------------------------------------

    def teach(self, *, config: str = SHORT, timeout_s: float = 60.0) -> tuple[Answer, str | None]:
        """Upload two new classes: the answer, and the job's id if it was accepted."""
        number = next(self._numbers)
        classes = (f"kind {number} a", f"kind {number} b")
        body = form({"name": f"task {number}", "config": config}, archive=self.pictures.archive(classes))
        headers = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
        answer = self.service.ask("POST", "/v1/tasks", body, headers, timeout_s=timeout_s)
        if answer.status != 202:
            return answer, None
        job_id = str(answer.json["job_id"])
        self.jobs[job_id] = Taught(classes)
        return answer, job_id

    def rename(self) -> tuple[Answer, str | None]:
        """Ask for another name of a served class: the answer, and the job's id if it was accepted."""
        new_name = f"kind {next(self._numbers)} renamed"
        answer = self.service.ask("PATCH", f"/v1/classes/{quote(self.classes()[0])}", {"name": new_name}, timeout_s=60)
        if answer.status != 202:
            return answer, None
        job_id = str(answer.json["job_id"])
        self.jobs[job_id] = Taught((new_name,))
        return answer, job_id

    def look(self, job_id: str) -> Taught:
        """What is known of an accepted job now; what was known before if the service does not say."""
        taught = self.jobs[job_id]
        answer = self.service.ask("GET", f"/v1/jobs/{job_id}", timeout_s=15)
        if answer.status == 404:
            taught.state = None
        elif answer.status == 200 and (record := as_json(answer)):
            taught.state = record["state"]
            taught.phase = (record["progress"] or {}).get("phase")
            taught.error = (record["error"] or {}).get("detail")
            taught.version = (record["result"] or {}).get("version_id")
            taught.promoted = bool((record["result"] or {}).get("promoted"))
        return taught

    def in_phase(self, job_id: str, phase: str) -> bool:
        """Whether a job is in this phase, or beyond all phases."""
        taught = self.look(job_id)
        return taught.phase == phase or taught.state in FINAL

    def finish(self, job_ids: Iterable[str], *, timeout_s: float = JOB_S) -> None:
        """Wait until these jobs have a final state, or the time is over; their states say which."""
        deadline = time.monotonic() + timeout_s
        waiting = set(job_ids)
        while waiting and time.monotonic() < deadline and self.service.ended is None:
            waiting -= {job_id for job_id in waiting if self.look(job_id).state in FINAL}
            time.sleep(0.2)

    # --- versions -----------------------------------------------------------------------------------------------------

    def move(self, route: str, version: str) -> Answer:
        """Promote or roll back to a version."""
        return self.service.ask("POST", f"/v1/admin/{route}", {"version_id": version, "reason": "a fault is tried"})

    def classes(self) -> list[str]:
        """The names of the classes that are served; none if nobody answers."""
        answer = self.service.ask("GET", "/v1/classes", timeout_s=15)
        record = as_json(answer) if answer.status == 200 else None
        return [entry["name"] for entry in record["classes"]] if record else []

    def served_by_all(self, version: str) -> bool:
        """Whether every server says, on the port of its own metrics, that it serves a version."""
        told = self.service.metrics()
        return len(told) == SERVERS and all(version in text for text in told)

    # --- means of faults ----------------------------------------------------------------------------------------------

    def signal(self, role: str, number: signal.Signals, *, first: bool = False) -> list[int]:
        """Send a signal, and remember when a server was killed."""
        if role != "server" or number != signal.SIGKILL:
            return self.service.signal(role, number, first=first)
        found = self.service.pids(role)[: 1 if first else None]
        for pid in found:
            self.kill_server(pid)
        return found

    def kill_server(self, pid: int) -> None:
        """Kill a server, and remember when."""
        with contextlib.suppress(ProcessLookupError):
            handle = os.pidfd_open(pid)
            self.deaths.append(death := Death(time.monotonic()))
            os.kill(pid, signal.SIGKILL)
            threading.Thread(target=_note_when_gone, args=(handle, death), daemon=True).start()

    def watch(self, pid: int) -> None:
        """Remember when this server ends, if something kills it."""

        def until_gone() -> None:
            with contextlib.suppress(ProcessLookupError), open(os.pidfd_open(pid)) as handle:
                if select.select([handle], [], [], JOB_S)[0]:
                    now = time.monotonic()
                    self.deaths.append(Death(now - _DYING_S, now))

        threading.Thread(target=until_gone, daemon=True).start()

    def broker(self) -> redis.Redis:
        """A connection to the broker; ended with the fault."""
        connection = self.service.broker()
        self.closing.append(connection)
        return connection

    def close(self) -> None:
        """Close what the fault has opened."""
        for opened in self.closing:
            opened.close()
        self.closing.clear()


def _note_when_gone(handle: int, death: Death) -> None:
    with open(handle) as process:
        select.select([process], [], [])
        death.gone = time.monotonic()


def form(fields: Mapping[str, str], *, archive: bytes, filename: str = "task.zip") -> bytes:
    """The body of an upload."""
    parts = [
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
        for name, value in fields.items()
    ]
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="archive"; filename="{filename}"\r\n\r\n'
    return b"".join(parts) + head.encode() + archive + f"\r\n--{BOUNDARY}--\r\n".encode()
