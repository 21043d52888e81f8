"""The Celery task: it takes a job's id and hands it on."""

from __future__ import annotations

from celery import Celery, Task

from exchange.contracts import UPDATE_TASK
from worker.supervisor import Supervisor


def register(celery: Celery, supervisor: Supervisor) -> Task:
    """Make `celery` answer messages named `UPDATE_TASK` with `supervisor.run`.

    A message is acknowledged when its job has been dealt with, whatever became of it. One whose worker died is
    delivered again, which is harmless.
    """

    @celery.task(name=UPDATE_TASK, acks_late=True, reject_on_worker_lost=True, ignore_result=True, shared=False)  # type: ignore[untyped-decorator]
    def update(job_id: str) -> None:
        supervisor.run(job_id)

    return update
