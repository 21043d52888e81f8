"""Starting a measuring process as the worker starts an update's, and hearing from it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.common.process import ROOT
from benchmarks.cost.jobs import LINE, Job, Sample, Tick
from segp_cl.runtime.process import set_up_environment

_TAIL_BYTES = 2000


@dataclass(frozen=True)
class Answer:
    """What a process measured; `failure` says how it ended if it did not finish (the samples before that hold)."""

    samples: tuple[Sample, ...]
    failure: str | None = None


Run = Callable[[Job, Callable[[str], None]], Answer]


def run_point(job: Job, on_tick: Callable[[str], None]) -> Answer:
    """Measure `job` in a fresh process: peak memory is a process's, and glibc reads its tunables at the start only."""
    samples: list[Sample] = []
    environment = set_up_environment({"HF_HUB_OFFLINE": "1", **os.environ})
    command = (sys.executable, "-m", "benchmarks.cost.point", job.model_dump_json())
    with tempfile.TemporaryFile() as errors:
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, env=environment, cwd=ROOT, text=True, encoding="utf-8"
        ) as process:
            assert process.stdout is not None
            try:
                for line in process.stdout:
                    message = LINE.validate_json(line)
                    if isinstance(message, Tick):
                        on_tick(message.what)
                    else:
                        samples.append(message)
            except BaseException:
                process.kill()
                raise
        if process.returncode == 0:
            return Answer(tuple(samples))
        errors.seek(max(0, errors.seek(0, os.SEEK_END) - _TAIL_BYTES))
        print(errors.read().decode(errors="replace"), file=sys.stderr)
    return Answer(tuple(samples), _how(process.returncode))


def _how(returncode: int) -> str:
    if returncode == -signal.SIGKILL:
        return "ended by SIGKILL (most likely out of memory)"
    return f"ended by signal {-returncode}" if returncode < 0 else f"ended with exit status {returncode}"
