"""Starts processes for work that is kept apart from the server: at low priority, and at once."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from segp_cl.runtime.process import yield_to_others

# Every thread waits until a new process runs its program, so it must not be begun at the low priority of those that
# wait for it. A thread has the priority of the one that starts it: this one is started with the module.
_spawner = ThreadPoolExecutor(1, thread_name_prefix="spawn")
_spawner.submit(int)


def start(command: Sequence[str], **options: Any) -> subprocess.Popen[bytes]:
    """Start a process of low priority; `options` are those of `subprocess.Popen`."""

    def begin() -> subprocess.Popen[bytes]:
        process: subprocess.Popen[bytes] = subprocess.Popen(command, **options)
        yield_to_others(process.pid)
        return process

    return _spawner.submit(begin).result()
