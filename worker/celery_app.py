"""The Celery application: `celery -A worker.celery_app worker`, or `python -m worker`."""

from __future__ import annotations

import logging
import threading

from celery import Celery
from celery.signals import setup_logging, worker_ready, worker_shutting_down

from exchange.addresses import celery_url
from exchange.contracts import UPDATES_QUEUE
from exchange.jobs import Jobs
from exchange.spool import Spool
from worker import transport
from worker.instant_lane import InstantLane
from worker.ledger import Ledger
from worker.log import configure_logging
from worker.settings import WorkerSettings
from worker.supervisor import Supervisor
from worker.sweeper import Sweeper
from worker.tasks import register
from worker.warm import Processes

logger = logging.getLogger(__name__)


def create_celery(settings: WorkerSettings) -> Celery:
    """Return a Celery application that runs updates, one at a time on a thread, each in its own process.

    On SIGTERM the running update is stopped and goes back to the queue; if it is publishing, it finishes first.
    """
    transport.install()
    celery = Celery("keepsight", broker=celery_url(settings.redis_url), set_as_current=False)
    celery.conf.update(
        task_serializer="json",
        result_serializer="json",
        event_serializer="json",
        accept_content=["json"],
        task_ignore_result=True,
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        task_default_queue=UPDATES_QUEUE,
        task_create_missing_queues=True,
        worker_pool="threads",
        worker_concurrency=1,
        worker_prefetch_multiplier=1,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_transport_options={"visibility_timeout": settings.visibility_timeout_s},
    )
    stop = threading.Event()
    jobs = Jobs(settings.redis_url)
    spool = Spool(settings.spool)
    processes = Processes(settings)
    supervisor = Supervisor(settings, jobs, spool, stop=stop, processes=processes)
    register(celery, supervisor)

    def log_as_configured(**_: object) -> None:
        configure_logging(settings.log_level)
        # a job outlives the loss of its connection on purpose; Celery warns about that at every start
        said = "worker_cancel_long_running_tasks_on_connection_loss"
        logging.getLogger("py.warnings").addFilter(lambda record: said not in record.getMessage())

    def start_sweeping(**_: object) -> None:
        logger.info("ready for updates; store %s, spool %s", settings.store.resolve(), settings.spool.resolve())
        Sweeper(settings, jobs, spool, stop=stop).start()
        processes.prepare()
        InstantLane(settings, Ledger(jobs, spool, stop=stop), processes, run=supervisor.run, stop=stop).start()

    def stop_the_job(**_: object) -> None:
        stop.set()
        processes.close()

    setup_logging.connect(log_as_configured, weak=False)
    worker_ready.connect(start_sweeping, weak=False)
    worker_shutting_down.connect(stop_the_job, weak=False)
    return celery


def __getattr__(name: str) -> Celery:
    # `celery -A worker.celery_app` looks for `app`; created on access, so that importing reads no environment
    if name == "app":
        app = create_celery(WorkerSettings())
        globals()["app"] = app
        return app
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
