"""`python -m worker`: one worker, set up from `KEEPSIGHT_*`."""

from __future__ import annotations

import argparse
import os
import sys

from pydantic import ValidationError


def main(argv: list[str] | None = None) -> int:
    """Run a worker until a signal stops it. Returns the exit status: 2 if the settings are refused."""
    parser = argparse.ArgumentParser(
        prog="python -m worker",
        description="Runs Keepsight's updates: takes them from the queue in Redis, learns, evaluates, publishes and "
        "promotes, one at a time. All settings are KEEPSIGHT_* environment variables (docs/configuration.md). "
        "SIGTERM stops it; the running update goes back to the queue, and the next worker runs it again.",
    )
    parser.parse_args(argv)
    from exchange.heartbeat import Heartbeat
    from exchange.settings import why_refused
    from worker.celery_app import create_celery
    from worker.settings import WorkerSettings

    try:
        settings = WorkerSettings()
    except ValidationError as error:
        print(f"keepsight worker: {why_refused(error)}", file=sys.stderr)
        return 2
    os.umask(int(settings.umask, 8))
    Heartbeat().beat_from_a_thread()
    # one queue in one Redis: workers need not coordinate
    flags = ["--pool", "threads", "--concurrency", "1", "--without-gossip", "--without-mingle"]
    create_celery(settings).worker_main(["--quiet", "worker", *flags, "--loglevel", settings.log_level])
    return 0


if __name__ == "__main__":
    sys.exit(main())
