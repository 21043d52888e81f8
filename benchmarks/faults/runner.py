"""Tries faults one after another on one service, and begins anew with another where one has left it broken."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

from benchmarks.faults.client import PATIENCE_S, Steady
from benchmarks.faults.fault import Fault
from benchmarks.faults.pictures import Pictures
from benchmarks.faults.service import ServiceError, running
from benchmarks.faults.stage import Stage
from benchmarks.faults.trial import NotWholeError, Outcome, Trial

_STARTS: Final = 3
"""How many times as long as the first start the steady client waits for an answer, at least."""


@contextlib.contextmanager
def stage(folder: Path, *, name: str, model: str, seed: int) -> Iterator[Stage]:
    """A service that has learned two tasks, with a steady client.

    Raises:
        ServiceError: it does not start, or does not learn.
    """
    pictures = Pictures(seed)
    begun = time.monotonic()
    with running(folder, name=name, model=model) as service:
        # whoever asks while all servers are killed waits for others to start, on a slow machine longer than elsewhere
        patience_s = max(PATIENCE_S, _STARTS * (time.monotonic() - begun))
        # pictures of one grey each teach a model with random weights too little for the gate
        answer = service.ask("PATCH", "/v1/admin/gate", {"enabled": False})
        if answer.status != 200:
            raise ServiceError(f"switching off the gate was answered {answer}")
        made = Stage(service, pictures)
        made.first, made.base = learned(made), learned(made)
        with Steady(service.url, pictures.png(), folder, patience_s=patience_s) as made.client:
            service.wait(lambda: made.client.between(0, float("inf")), "a first answer to the steady client")
            yield made


def learned(made: Stage) -> str:
    """Teach a task; the version that comes of it.

    Raises:
        ServiceError: none does.
    """
    answer, job_id = made.teach()
    if job_id is None:
        raise ServiceError(f"an upload was answered {answer}")
    made.finish([job_id])
    taught = made.jobs[job_id]
    if taught.version is None:
        raise ServiceError(f"a first job is {taught.state}: {taught.error}")
    made.service.wait(lambda: made.served_by_all(str(taught.version)), "the first versions")
    return taught.version


def try_all(
    faults: Sequence[Fault],
    folder: Path,
    *,
    model: str,
    seed: int,
    tell: Callable[[str], None] = lambda name: None,
    found: Callable[[Outcome], None] = lambda outcome: None,
) -> list[Outcome]:
    """The outcome of each fault, in their order.

    Args:
        faults: what to try.
        folder: for the services' folders.
        model: the base model.
        seed: of the pictures.
        tell: gets a fault's name before it is tried.
        found: gets its outcome.
    """
    outcomes: list[Outcome] = []
    waiting = list(faults)
    number = 0
    while waiting:
        number += 1
        fresh = True
        with stage(folder, name=f"service-{number}", model=model, seed=seed) as made:
            while waiting:
                fault = waiting[0]
                tell(fault.name)
                try:
                    outcome = Trial(fault, made).run()
                except NotWholeError as error:
                    if fresh:
                        raise ServiceError(f"a service is not whole at its beginning: {error}") from error
                    # what the one before did shows only now; this one is tried on another service
                    outcomes[-1].problems.append(f"afterwards: {error}")
                    break
                del waiting[0]
                fresh = False
                outcomes.append(outcome)
                found(outcome)
                if outcome.problems:
                    break
    return outcomes
