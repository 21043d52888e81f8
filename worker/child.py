"""The process of one job, `python -m worker.child`: the worker starts it and exchanges lines of JSON with it.

Every job has a new interpreter, so that the memory of an update goes back to the operating system, allocator settings
can differ from the worker's, and a crash harms nothing else. The process ends itself when the worker dies.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import math
import os
import signal
import sys
import threading
import time
from typing import IO, TYPE_CHECKING

from exchange.contracts import JobError
from segp_cl.errors import KeepsightError
from segp_cl.runtime.process import set_up_process
from worker.log import configure_logging, job_logging
from worker.messages import GO, Alive, Done, Failed, Message, Order, ReadyToPublish, Step

if TYPE_CHECKING:  # PyTorch is imported after the first message to the worker, and after the memory setup
    from segp_cl.types import Progress

logger = logging.getLogger("worker.child")  # by name: this module runs as __main__

ORPHANED = 70
"""Exit status of a process whose worker died."""


class Channel:
    """The process's ends of the pipes to its worker."""

    def __init__(self, incoming: IO[str], outgoing: IO[str]) -> None:
        self._incoming = incoming
        self._outgoing = outgoing
        self._go = threading.Event()
        self._sending = threading.Lock()

    def order(self) -> Order:
        """Read the first line."""
        return Order.model_validate_json(self._incoming.readline())

    def watch(self) -> None:
        """Start to listen for `GO`, and end this process at once when the worker closes its end."""
        threading.Thread(target=self._listen, name="worker-watch", daemon=True).start()

    def _listen(self) -> None:
        for line in self._incoming:
            if line.strip() == GO:
                self._go.set()
        os._exit(ORPHANED)

    def send(self, message: Message) -> None:
        """Send a message to the worker."""
        with self._sending:
            self._outgoing.write(message.model_dump_json() + "\n")
            self._outgoing.flush()

    def show_life(self, every_s: float) -> None:
        """Start to send `Alive`, so that the worker can tell a slow step from a stopped process."""
        threading.Thread(target=self._show_life, args=(every_s,), name="life", daemon=True).start()

    def _show_life(self, every_s: float) -> None:
        with contextlib.suppress(OSError, ValueError):  # the worker is gone, and so is this process in a moment
            while True:
                self.send(Alive())
                time.sleep(every_s)

    def step(self, progress: Progress) -> None:
        """Send a step to the worker; the learner's `OnProgress`."""
        losses = {name: float(value) for name, value in progress.losses.items() if math.isfinite(value)}
        self.send(Step(phase=progress.phase, step=progress.step, steps=progress.steps, losses=losses))

    def wait_for_leave(self) -> None:
        """Ask for permission to publish and wait for it. The process of a cancelled job is killed here."""
        self.send(ReadyToPublish())
        self._go.wait()


def describe(error: Exception) -> JobError:
    """Return an error as one sentence for the person who submitted the job."""
    if isinstance(error, KeepsightError):
        return JobError(kind=type(error).__name__, message=str(error))
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return JobError(kind="DiskFullError", message="the worker's disk is full; nothing was published")
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        message = "the update needs more memory than the worker has; a smaller batch_size or dpgd_batch_size needs less"
        return JobError(kind="OutOfMemoryError", message=message)
    return JobError(kind="InternalError", message="the update failed unexpectedly; the worker's log has the details")


def main() -> None:
    """Carry out the order on standard input."""
    set_up_process()
    # only the protocol writes to the real standard output: a library that prints must not garble it
    outgoing = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a service manager signals every process; the worker decides
    channel = Channel(sys.stdin, outgoing)
    order = channel.order()
    channel.watch()
    channel.show_life(min(order.settings.heartbeat_s, order.settings.max_silence_s / 4))
    configure_logging(order.settings.log_level)
    with job_logging(order.job.job_id):
        channel.send(carry_out(order, channel))
    logging.shutdown()
    os._exit(0)  # the watching thread is still reading, and an ordinary exit would fail on it


def carry_out(order: Order, channel: Channel) -> Done | Failed:
    """Run the update, and return its outcome or its error.

    What fails before the update begins, such as an import without memory, ends the process: it may work next time.
    """
    channel.send(Step(phase="loading", step=0, steps=0))
    begun = time.perf_counter()
    import torch  # here, because it takes seconds: the worker gets a message before that

    from segp_cl.data.decode_memory import limit_decode_memory
    from worker.pipeline import run_update

    logger.debug("imports took %.1f s", time.perf_counter() - begun)
    torch.set_num_threads(order.settings.threads)
    limit_decode_memory(order.settings.max_decode_bytes)
    try:
        return Done(
            outcome=run_update(
                order.job,
                order.settings,
                on_progress=channel.step,
                before_publish=channel.wait_for_leave,
                resume_only=order.resume_only,
            )
        )
    except Exception as error:
        answer = describe(error)
        if answer.kind == "InternalError":
            logger.exception("the update failed")
        else:
            logger.error("the update failed: %s: %s", type(error).__name__, error)
        return Failed(error=answer)


if __name__ == "__main__":
    main()
