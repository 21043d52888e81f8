from __future__ import annotations

import subprocess
import sys

from celery.app.utils import find_app

from exchange.contracts import UPDATE_TASK, UPDATES_QUEUE
from worker.celery_app import create_celery
from worker.settings import WorkerSettings


def test_a_job_outlives_its_messages_delivery_and_is_taken_one_at_a_time(settings: WorkerSettings) -> None:
    celery = create_celery(settings.model_copy(update={"visibility_timeout_s": 3600}))
    conf = celery.conf
    assert conf.task_acks_late
    assert conf.task_reject_on_worker_lost
    assert conf.worker_prefetch_multiplier == 1
    assert (conf.worker_pool, conf.worker_concurrency) == ("threads", 1)
    assert conf.broker_transport_options == {"visibility_timeout": 3600}
    assert conf.task_default_queue == UPDATES_QUEUE
    assert conf.accept_content == ["json"]
    task = celery.tasks[UPDATE_TASK]
    assert task.acks_late
    assert task.reject_on_worker_lost
    assert task.ignore_result
    celery.close()


def test_celerys_own_command_finds_the_application() -> None:
    assert UPDATE_TASK in find_app("worker.celery_app").tasks


def test_neither_the_worker_nor_the_broker_loads_torch() -> None:
    """Only a job's process needs it; so a worker is small, and starts and answers at once."""
    code = "import sys, worker.celery_app, worker.__main__, exchange.jobs; sys.exit('torch' in sys.modules)"
    assert subprocess.run((sys.executable, "-c", code), check=False).returncode == 0
