"""Requests to all doors of the service while a fault lasts: each may be refused, and none may end in an error."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final

from benchmarks.faults.service import Answer
from benchmarks.faults.stage import Stage

PATIENCE_S: Final = 45.0
READ: Final = ("/readyz", "/v1/versions", "/v1/classes", "/v1/jobs", "/v1/admin/rollout", "/metrics")


class Probes:
    """Asks everything at once, each on a thread of its own, as soon as it is made.

    Args:
        stage: what is asked.
        uploads: whether an upload and a move of CURRENT (to where it is) are among the requests.
    """

    def __init__(self, stage: Stage, *, uploads: bool) -> None:
        asked: dict[str, Callable[[], Answer]] = {}
        for path in READ:
            asked[f"GET {path}"] = lambda path=path: stage.service.ask("GET", path, timeout_s=PATIENCE_S)  # type: ignore[misc]
        if uploads:
            asked["POST /v1/tasks"] = lambda: stage.teach(timeout_s=PATIENCE_S)[0]
            asked["POST /v1/admin/rollback"] = lambda: stage.move("rollback", stage.base)
        self._answers: dict[str, Answer] = {}
        self._threads = [
            threading.Thread(target=self._ask, args=(name, ask), daemon=True) for name, ask in asked.items()
        ]
        for thread in self._threads:
            thread.start()

    def _ask(self, name: str, ask: Callable[[], Answer]) -> None:
        self._answers[name] = ask()

    def answers(self) -> dict[str, Answer]:
        """What came back, by request; all of it."""
        for thread in self._threads:
            thread.join()
        return self._answers
