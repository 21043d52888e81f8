"""A script that becomes another program, which gets a signal when the process that started it dies.

    python -I -S bound.py PARENT_PID SIGNAL PROGRAM ARGUMENT...

A parent that gets SIGKILL cannot stop its children, so the kernel does (Linux: PR_SET_PDEATHSIG, which survives exec).
It is a script because `preexec_fn` is not safe if the parent has threads.
"""

from __future__ import annotations

import os
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    """Bind this process to its parent, then exec the program."""
    parent, death_signal, *program = sys.argv[1:]
    if sys.platform == "linux":
        import ctypes

        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(PR_SET_PDEATHSIG, int(death_signal), 0, 0, 0) != 0:
            sys.exit(f"prctl: {os.strerror(ctypes.get_errno())}")
    if os.getppid() != int(parent):  # it died before we were bound to it
        sys.exit(1)
    try:
        os.execvp(program[0], program)  # noqa: S606 - that is this script's purpose
    except OSError as error:
        sys.exit(f"{program[0]}: {error.strerror}")


if __name__ == "__main__":
    main()
