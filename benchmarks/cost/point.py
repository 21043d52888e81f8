"""`python -m benchmarks.cost.point '<job as JSON>'`: one measurement in a process of its own, JSON lines out."""

from __future__ import annotations

import os
import sys
import time

from benchmarks.cost.jobs import JOB, Line, Tick

_TICK_EVERY_S = 1.0


def main() -> None:
    """Carry out the job on the command line."""
    # the answers keep the real standard output to themselves: a library that prints must not garble them
    outgoing = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    job = JOB.validate_json(sys.argv[1])
    told = 0.0

    def send(line: Line) -> None:
        outgoing.write(line.model_dump_json() + "\n")
        outgoing.flush()

    def tick(what: str) -> None:
        nonlocal told
        if time.monotonic() - told >= _TICK_EVERY_S:
            told = time.monotonic()
            send(Tick(what=what))

    from benchmarks.cost.measure import measure

    for sample in measure(job, tick):
        send(sample)


if __name__ == "__main__":
    main()
