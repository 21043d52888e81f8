"""Starts the processes of jobs; one of them beforehand, so that no job waits for imports and for the model."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence

from worker.messages import Order, WarmUp
from worker.process import COMMAND, JobProcess, NotStartedError
from worker.settings import WorkerSettings

logger = logging.getLogger(__name__)


class Processes:
    """The processes of a worker's jobs. Thread-safe.

    With the setting `warm`, at most one is idle: it has loaded the base model and waits. It serves instant versions one
    after the other; an update takes it for good, and another one is started, at low priority.

    Args:
        settings: the worker's settings.
        command: starts a process.
    """

    def __init__(self, settings: WorkerSettings, *, command: Sequence[str] = COMMAND) -> None:
        self._settings = settings
        self._command = command
        self._lock = threading.Lock()
        self._idle: JobProcess | None = None
        self._closed = False

    def prepare(self) -> None:
        """Start a process beforehand, unless one is idle or none is wanted."""
        if not self._settings.warm:
            return
        with self._lock:
            if self._closed or (self._idle is not None and self._idle.runs):
                return
            self._drop()
            try:
                self._idle = JobProcess(WarmUp(settings=self._settings), command=self._command)
            except NotStartedError as error:
                logger.warning("no process could be started beforehand: %s", error)

    def take(self, order: Order) -> JobProcess:
        """Return a process that carries out the order: the idle one, or a new one.

        Raises:
            NotStartedError: none could be started.
        """
        with self._lock:
            idle, self._idle = self._idle, None
        if idle is not None and idle.runs:
            try:
                idle.give(order)
            except RuntimeError as error:
                idle.close()
                raise NotStartedError(f"could not be started: {error}") from error
            return idle
        if idle is not None:
            idle.close()
        return JobProcess(order, command=self._command)

    def give_back(self, process: JobProcess) -> None:
        """Take a process back that has carried out its order and waits for another one.

        One whose order failed is closed instead: what it lacked (memory, files, a disk) it may lack for ever.
        """
        with self._lock:
            keep = self._settings.warm and not self._closed and self._idle is None and process.runs
            if keep:
                self._idle = process
        if not keep:
            process.close()

    def close(self) -> None:
        """End the idle process, and keep none from now on."""
        with self._lock:
            self._closed = True
            self._drop()

    def _drop(self) -> None:
        if self._idle is not None:
            self._idle.close()
            self._idle = None
