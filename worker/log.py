"""The worker's log: one line per event on standard error, with the job it belongs to."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_job_id: ContextVar[str] = ContextVar("job_id", default="-")
FORMAT = "%(asctime)s %(levelname)s %(name)s job_id=%(job_id)s %(message)s"


class _JobIdFilter(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        record.job_id = _job_id.get()
        return True


def configure_logging(level: str) -> None:
    """Send all logging of this process to standard error. For entry points only."""
    handler = logging.StreamHandler()
    handler.addFilter(_JobIdFilter())
    handler.setFormatter(logging.Formatter(FORMAT))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    # open_clip and others log every step to the root logger
    root.setLevel(max(logging.WARNING, logging.getLevelName(level)))
    for name in ("worker", "model_store", "segp_cl", "celery"):
        logging.getLogger(name).setLevel(level)
    logging.captureWarnings(True)


@contextmanager
def job_logging(job_id: str) -> Iterator[None]:
    """Add `job_id` to the log lines of this thread within the block."""
    token = _job_id.set(job_id)
    try:
        yield
    finally:
        _job_id.reset(token)
