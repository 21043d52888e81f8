"""The Celery task, which runs the job with the given id."""

from __future__ import annotations

from celery import Celery, Task

from exchange.contracts import UPDATE_TASK
from worker.supervisor import Supervisor


def register(celery: Celery, supervisor: Supervisor) -> Task:
    """Register `supervisor.run` with `celery` as the task `UPDATE_TASK`.

    A message is acknowledged after its job was handled, whatever the outcome. If the worker dies, the message is
    delivered again, which is harmless.
    """

    @celery.task(name=UPDATE_TASK, acks_late=True, reject_on_worker_lost=True, ignore_result=True, shared=False)  # type: ignore[untyped-decorator]
    def update(job_id: str) -> None:
        supervisor.run(job_id)

    return update
