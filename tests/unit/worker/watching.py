"""Looking on while a job runs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from exchange.jobs import Jobs

FOREVER = """
step("train", 1, 100, total=1.5)
time.sleep(60)
"""


class Runner(Protocol):
    """A supervisor, or an attempt that claims its job itself."""

    def run(self, job_id: str) -> None:
        """See the job through."""


@contextmanager
def running(runner: Runner, job_id: str) -> Iterator[threading.Thread]:
    thread = threading.Thread(target=runner.run, args=(job_id,))
    thread.start()
    yield thread
    thread.join(20)
    assert not thread.is_alive()


def in_phase(jobs: Jobs, job_id: str, phase: str) -> Callable[[], bool]:
    def check() -> bool:
        progress = jobs.get(job_id).progress
        return progress is not None and progress.phase == phase

    return check
