"""`python -m benchmarks.accuracy`, which `keepsight bench` starts.

It begins by starting itself again with the allocator settings of an update's process, which glibc reads only then.
"""

from __future__ import annotations

import os
import sys

from worker.process import child_environment


def main() -> None:
    """Run the command line in the environment of an update."""
    environment = child_environment(os.environ)
    if environment["GLIBC_TUNABLES"] != os.environ.get("GLIBC_TUNABLES"):
        os.execve(sys.executable, [sys.executable, "-m", "benchmarks.accuracy", *sys.argv[1:]], environment)  # noqa: S606
    from benchmarks.accuracy import cli

    cli.main()


if __name__ == "__main__":
    main()
