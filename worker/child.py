"""The process of a job, `python -m worker.child`: the worker starts it and exchanges lines of JSON with it.

Every update has a new interpreter, so that its memory goes back to the operating system, allocator settings can differ
from the worker's, and a crash harms nothing else. The interpreter may have been started before there was a job, and may
have made instant versions and edits, which need little memory. The process ends itself when the worker dies.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import math
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Iterator
from typing import IO, TYPE_CHECKING

from exchange.contracts import ContributionReport, JobError, LabelReport
from segp_cl.errors import KeepsightError
from segp_cl.runtime.process import (
    all_yield_to_others,
    give_memory_back,
    importing,
    set_up_process,
    yield_to_others,
)
from worker.log import configure_logging, job_logging
from worker.messages import (
    GO,
    ORDERS,
    Alive,
    Done,
    DoneInstantly,
    Failed,
    Message,
    Order,
    ReadyToPublish,
    Step,
    Told,
    WarmUp,
)

if TYPE_CHECKING:  # PyTorch is imported after the first message to the worker, and after the memory setup
    from segp_cl.types import Progress
    from worker.settings import WorkerSettings

logger = logging.getLogger("worker.child")  # by name: this module runs as __main__

ORPHANED = 70
"""Exit status of a process whose worker died."""


class Channel:
    """The process's ends of the pipes to its worker."""

    def __init__(self, incoming: IO[str], outgoing: IO[str]) -> None:
        self._incoming = incoming
        self._outgoing = outgoing
        self._orders: queue.SimpleQueue[WarmUp | Order] = queue.SimpleQueue()
        self._go = threading.Event()
        self._sending = threading.Lock()
        self._busy = threading.Event()

    def watch(self) -> None:
        """Start to listen to the worker, and end this process at once when the worker closes its end."""
        threading.Thread(target=self._listen, name="worker-watch", daemon=True).start()

    def order(self) -> WarmUp | Order:
        """Wait for the next order."""
        return self._orders.get()

    def _listen(self) -> None:
        with contextlib.suppress(ValueError):  # not an order: a worker that is not ours
            for line in self._incoming:
                if line.strip() == GO:
                    self._go.set()
                else:
                    self._orders.put(ORDERS.validate_json(line))
        os._exit(ORPHANED)

    def send(self, message: Message) -> None:
        """Send a message to the worker."""
        with self._sending:
            self._outgoing.write(message.model_dump_json() + "\n")
            self._outgoing.flush()

    @contextlib.contextmanager
    def at_work(self) -> Iterator[None]:
        """Send `Alive` within the block, if `show_life` was called."""
        self._busy.set()
        try:
            yield
        finally:
            self._busy.clear()

    def show_life(self, every_s: float) -> None:
        """Be ready to send `Alive`, so that the worker can tell a slow step from a stopped process."""
        threading.Thread(target=self._show_life, args=(every_s,), name="life", daemon=True).start()

    def _show_life(self, every_s: float) -> None:
        with contextlib.suppress(OSError, ValueError):  # the worker is gone, and so is this process in a moment
            while True:
                self._busy.wait()
                self.send(Alive())
                time.sleep(every_s)

    def step(self, progress: Progress) -> None:
        """Send a step to the worker; the learner's `OnProgress`."""
        losses = {name: float(value) for name, value in progress.losses.items() if math.isfinite(value)}
        self.send(Step(phase=progress.phase, step=progress.step, steps=progress.steps, losses=losses))

    def tell(self, report: ContributionReport) -> None:
        """Send what the new classes have in common with the old ones."""
        self.send(Told(contributions=report))

    def tell_labels(self, report: LabelReport) -> None:
        """Send what looks wrong in the labels."""
        self.send(Told(labels=report))

    def wait_for_leave(self) -> None:
        """Ask for permission to publish and wait for it. The process of a cancelled job is killed here."""
        self._go.clear()
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
    channel.watch()
    alive = False
    while True:
        order = channel.order()
        configure_logging(order.settings.log_level)
        if isinstance(order, WarmUp):
            threading.Thread(target=warm_up, args=(order.settings,), name="warm-up", daemon=True).start()
            continue
        if not alive:
            channel.show_life(min(order.settings.heartbeat_s, order.settings.max_silence_s / 4))
            alive = True
        with channel.at_work(), job_logging(order.job.job_id):
            channel.send(carry_out(order, channel))
        if not order.returns:
            break
        give_memory_back()
    logging.shutdown()
    os._exit(0)  # the watching thread is still reading, and an ordinary exit would fail on it


def warm_up(settings: WorkerSettings) -> None:
    """Import and load what every order needs, after everything else that wants the processor."""
    yield_to_others()
    try:
        with importing():
            import torch

            torch.set_num_threads(1)  # of this thread
            import worker.instant
            import worker.pipeline  # noqa: F401
            from segp_cl.runtime.hardware import choose_device
            from worker.base_model import base_model

        base_model(settings.model_spec, choose_device(settings.device))
    except Exception:
        logger.exception("the process could not be warmed up; its first order loads what it needs")


def carry_out(order: Order, channel: Channel) -> Done | DoneInstantly | Failed:
    """Run the order, and return its outcome or its error.

    What fails before the work begins, such as an import without memory, ends the process: it may work next time.
    """
    channel.send(Step(phase="loading", step=0, steps=0))
    begun = time.perf_counter()
    with importing():  # here, because it takes seconds: the worker gets a message before that
        import torch

        from segp_cl.data.decode_memory import limit_decode_memory
        from worker.instant import run_instant
        from worker.pipeline import run_update

    logger.debug("imports took %.1f s", time.perf_counter() - begun)
    torch.set_num_threads(order.settings.threads)
    limit_decode_memory(order.settings.max_decode_bytes)
    job, settings, leave = order.job, order.settings, channel.wait_for_leave
    try:
        if order.instant:
            outcome = run_instant(
                job, settings, on_progress=channel.step, on_labels=channel.tell_labels, before_publish=leave
            )
            return DoneInstantly(outcome=outcome)
        if not job.is_quick:
            all_yield_to_others()  # answers, instant versions and edits go first
        return Done(
            outcome=run_update(
                job,
                settings,
                on_progress=channel.step,
                on_contributions=channel.tell,
                on_labels=channel.tell_labels,
                before_publish=leave,
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
