"""Those who look after versions are killed: while they export, prune and back up."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Final

from benchmarks.common.process import ROOT
from benchmarks.faults.fault import Fault, busy, nothing
from benchmarks.faults.service import Answer, is_alive
from benchmarks.faults.stage import Stage

ORPHAN_S: Final = 20.0
"""Seconds in which a process must notice that its server is gone."""
BACKUPS: Final = 6
"""How often a backup is killed, each time later."""


class _Export:
    """An export that was asked for, and the process that makes it."""

    def __init__(self, stage: Stage) -> None:
        self.answer: Answer | None = None
        self._stage = stage
        self._thread = threading.Thread(target=self._ask)
        self._thread.start()
        self.pid = stage.service.wait_for("exporter")[0]

    def _ask(self) -> None:
        self.answer = self._stage.service.ask("GET", f"/v1/versions/{self._stage.base}/export?format=onnx")

    def ended(self) -> Answer | None:
        """The answer."""
        self._thread.join()
        return self.answer


def export_and_kill(stage: Stage) -> list[str]:
    """Kill the process that makes an export: it is an error, and the next export is right."""
    export = _Export(stage)
    os.kill(export.pid, signal.SIGKILL)
    answer = export.ended()
    problems = [] if answer is not None and answer.status == 409 else [f"a killed export was answered {answer}"]
    again = stage.service.ask("GET", f"/v1/versions/{stage.base}/export?format=onnx", timeout_s=120)
    if again.status != 200 or int(again.headers["content-length"]) != len(again.body):
        problems.append(f"the export after it was answered {again.status}")
    return problems


def export_and_kill_the_servers(stage: Stage) -> list[str]:
    """Kill the servers while one exports: the process ends by itself."""
    export = _Export(stage)
    for pid in stage.service.pids("server"):
        stage.kill_server(pid)
    export.ended()
    deadline = time.monotonic() + ORPHAN_S
    while is_alive(export.pid) and time.monotonic() < deadline:
        time.sleep(0.1)
    return ["the process of an export outlives its server"] if is_alive(export.pid) else []


def prune_and_kill_the_servers(stage: Stage) -> list[str]:
    """Kill the servers while they prune and pin: what is listed afterwards is whole."""
    asked = [
        threading.Thread(target=stage.service.ask, args=("POST", "/v1/admin/prune", {"keep": 1, "reason": "a fault"})),
        threading.Thread(target=stage.service.ask, args=("POST", f"/v1/versions/{stage.base}/pin", {"reason": "it"})),
    ]
    for thread in asked:
        thread.start()
    for pid in stage.service.pids("server"):
        stage.kill_server(pid)
    for thread in asked:
        thread.join()
    return []


def verify_all(stage: Stage) -> list[str]:
    """What is wrong with any version that is listed."""
    listing = stage.service.ask("GET", "/v1/versions")
    if listing.status != 200:
        return [f"the list of versions was answered {listing}"]
    problems = [f"{entry['version_id']} is damaged" for entry in listing.json["damaged"]]
    for entry in listing.json["versions"]:
        found = stage.service.ask("POST", f"/v1/versions/{entry['version_id']}/verify", timeout_s=120)
        if found.status != 200 or not found.json["ok"]:
            problems.append(f"verifying {entry['version_id']} was answered {found}")
    return problems


def back_up_and_kill(stage: Stage) -> list[str]:
    """Kill backups of the running service's store, each later than the last; then one that ends, and a restore."""
    with tempfile.TemporaryDirectory() as folder:
        for name in ("copy", "copy.tar"):
            target = Path(folder) / name
            for number in range(BACKUPS):
                process = subprocess.Popen(_store("backup", stage.service.store, target), stderr=subprocess.DEVNULL)
                time.sleep(2.0 + 0.2 * number)
                process.kill()
                process.wait()
            if (problem := _done("backup", stage.service.store, target)) is not None:
                return [problem]
            restored = Path(folder) / f"{name}-restored"
            if (problem := _done("restore", target, restored)) is not None:
                return [problem]
            if (restored / "CURRENT").read_text().strip() != stage.base:
                return [f"the restored store has CURRENT {(restored / 'CURRENT').read_text()}"]
            if left := [path.name for path in Path(folder).glob("*.part")]:
                return [f"killed backups leave {', '.join(left)}"]
            shutil.rmtree(restored)
    return []


def _store(command: str, *paths: Path) -> list[str]:
    return [sys.executable, "-P", "-m", "model_store", command, "--json", "--", *map(str, paths)]


def _done(command: str, *paths: Path) -> str | None:
    done = subprocess.run(_store(command, *paths), cwd=ROOT, capture_output=True, text=True, check=False)
    return None if done.returncode == 0 else f"a {command} ended with {done.returncode}: {done.stderr}"


UPKEEP: Final = (
    Fault("kill the process of an export", nothing, holds=export_and_kill, job=False, quick=True),
    Fault(
        "kill the servers while one exports",
        nothing,
        holds=export_and_kill_the_servers,
        job=False,
        breaks=True,
        excused=busy,
    ),
    Fault(
        "kill the servers while they prune and pin",
        nothing,
        holds=prune_and_kill_the_servers,
        job=False,
        breaks=True,
        excused=busy,
        quick=True,
    ),
    Fault(
        "kill backups",
        nothing,
        holds=lambda stage: verify_all(stage) + back_up_and_kill(stage),
        job=False,
    ),
)
