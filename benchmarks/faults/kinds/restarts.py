"""The whole service is ended and started again on what it left; and keys that come and go."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from benchmarks.common.process import ROOT
from benchmarks.faults.fault import Fault, nothing
from benchmarks.faults.kinds.damage import Change, emptied, folder, garbage
from benchmarks.faults.stage import Stage


def restart(*, kindly: bool, between: Callable[[Stage], None] | None = None) -> Callable[[Stage], None]:
    """End the service, with or without asking, and start it again."""

    def inject(stage: Stage) -> None:
        stage.service.end(kindly=kindly)
        if between is not None:
            between(stage)
        stage.service.start()

    return inject


def create_key(stage: Stage) -> None:
    """Make a key, once: from now on every request needs one."""
    if stage.service.key is None:
        command = [sys.executable, "-P", "-m", "keepsight", "keys", "create", "faults", "--json"]
        made = subprocess.run(command, cwd=ROOT, env=stage.service.environment, capture_output=True, check=True)
        stage.service.key = str(json.loads(made.stdout)["token"])
        time.sleep(1)


def keys_then(change: Change | None) -> tuple[Callable[[Stage], None], Callable[[Stage], None]]:
    """Make a key, and change the file of keys; and the way back, after which there are keys still."""

    def inject(stage: Stage) -> None:
        create_key(stage)
        if change is not None:
            change.inject(stage)

    return inject, nothing if change is None else change.undo


def nobody_without_a_key(stage: Stage) -> list[str]:
    """Requests that were answered though they had no key."""
    asked = [("GET", "/v1/classes"), ("GET", "/v1/jobs"), ("POST", "/v1/admin/rollback"), ("POST", "/v1/classify")]
    answers = [(path, stage.service.ask(method, path, headers={"Authorization": ""})) for method, path in asked]
    return [f"{path} without a key: {answer}" for path, answer in answers if answer.status not in (401, 403, 503)]


def keys_are_asked_for(why: str) -> bool:
    """A client without a key is turned away while there are keys, or were."""
    return why.startswith(("401 ", "403 ", "503 "))


def away(why: str) -> bool:
    """Nobody answers while nothing runs."""
    return True


def _keys(stage: Stage) -> Path:
    return stage.service.keys_file


RESTARTS: Final = (
    Fault("everything is killed, and started again", restart(kindly=False), excused=away, breaks=True, quick=True),
    Fault("the service is ended, and started again", restart(kindly=True), excused=away, breaks=True),
    *(
        Fault(name, *keys_then(change), lasts_s=2, job=False, excused=keys_are_asked_for, holds=nobody_without_a_key,
              quick=quick)
        for name, change, quick in (
            ("keys are made", None, False),
            ("the file of keys is deleted", Change(_keys, None), True),
            ("the file of keys is garbage", Change(_keys, garbage), False),
            ("the file of keys is empty", Change(_keys, emptied), False),
            ("the file of keys is a folder", Change(_keys, folder), False),
        )
    ),
)  # fmt: skip
