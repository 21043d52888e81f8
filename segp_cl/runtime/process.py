"""Settings of the C library and OpenMP for a process that runs models. Apply them before PyTorch is loaded."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import resource
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final

# names in malloc.h
_TRIM_THRESHOLD: Final = -1
_MMAP_THRESHOLD: Final = -3
_ARENA_MAX: Final = -8
_KEPT_BYTES: Final = 1 << 30
_OWN_BYTES: Final = 32 << 20
_HEAPS: Final = 2
_SWITCH_S: Final = 0.001
_SHORT_SWITCH_S: Final = 0.0001
_WAITING: Final = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "1000"}
"""How threads of OpenMP wait: they spin for a microsecond or two, and then sleep.

Without that moment every step of an operation in many small ones, such as an eigendecomposition, wakes threads anew.
"""


def set_up_process(*, own_from_bytes: int = _KEPT_BYTES) -> None:
    """Let threads that wait for long sleep, and keep freed memory for the next pass or step.

    Waiting: server and worker may need the same cores. Memory: glibc would return a pass's activations to the kernel
    when they are freed, and the kernel would zero and map them again, page by page, for the next pass. With another C
    library, or if an operator has set GLIBC_TUNABLES, memory settings do not change.

    Args:
        own_from_bytes: blocks of this size and more are not kept: such as no pass needs, but a large image does.
    """
    os.environ.update(_waiting(os.environ))
    if "glibc.malloc." in os.environ.get("GLIBC_TUNABLES", ""):
        return
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_TRIM_THRESHOLD, _KEPT_BYTES)
        mallopt(_MMAP_THRESHOLD, own_from_bytes)


def set_up_environment(base: Mapping[str, str]) -> dict[str, str]:
    """Return `base` with the same settings, for a program that does not call `set_up_process` itself."""
    tunables = base.get("GLIBC_TUNABLES", "")
    if "glibc.malloc." not in tunables:
        ours = f"glibc.malloc.mmap_threshold={_KEPT_BYTES}:glibc.malloc.trim_threshold={_KEPT_BYTES}"
        tunables = f"{tunables}:{ours}" if tunables else ours
    return {**base, **_waiting(base), "GLIBC_TUNABLES": tunables}


def _waiting(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the settings of `_WAITING`, or none where an operator has said how threads wait."""
    return {} if environment.keys() & _WAITING.keys() else _WAITING


def peak_rss_bytes() -> int:
    """Return the most memory that this process has held so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def set_up_server() -> None:
    """As `set_up_process`, for many threads that work on small things, and large images that come now and then.

    Blocks of 32 MiB, such as no pass of a batch needs, are not kept. Two heaps for all threads keep less than one for
    each. Threads that compute in Python give way after one millisecond instead of five: answers wait for them.
    """
    set_up_process(own_from_bytes=_OWN_BYTES)
    sys.setswitchinterval(_SWITCH_S)
    if "glibc.malloc." in os.environ.get("GLIBC_TUNABLES", "") or "MALLOC_ARENA_MAX" in os.environ:
        return
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(_ARENA_MAX, _HEAPS)


def yield_to_others(pid: int | None = None) -> None:
    """Lower the priority of a process, by default of the calling thread, for good; nothing where it cannot.

    Answers then go before its work. What it starts from then on has the lower priority too.
    """
    with contextlib.suppress(OSError, AttributeError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id() if pid is None else pid, 10)


def all_yield_to_others() -> None:
    """The same for every thread that this process has: PyTorch's, which began with earlier work, as well."""
    yield_to_others()
    with contextlib.suppress(OSError):
        for thread in os.listdir("/proc/self/task"):
            yield_to_others(int(thread))


class _ShortTurns:
    """Lets threads that compute in Python give way after 0.1 ms for as long as any block of this lasts.

    A forward pass lets the interpreter go in each of its hundred operations and has to get it back. Beside a thread
    that never leaves Python, it waits for a whole turn each time.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._asked = 0
        self._usual_s = 0.0

    @contextlib.contextmanager
    def __call__(self) -> Iterator[None]:
        with self._lock:
            self._asked += 1
            if self._asked == 1:
                self._usual_s = sys.getswitchinterval()
                sys.setswitchinterval(min(self._usual_s, _SHORT_SWITCH_S))
        try:
            yield
        finally:
            with self._lock:
                self._asked -= 1
                if self._asked == 0:
                    sys.setswitchinterval(self._usual_s)


short_turns: Final = _ShortTurns()
"""The one of this process: `with short_turns(): ...` around work in Python that may take long."""


def give_memory_back() -> None:
    """Return freed memory to the operating system. With `set_up_process`, the C library would keep it for later."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


@contextmanager
def importing() -> Iterator[None]:
    """Spare the garbage collector while modules are imported, which takes a fifth less time then.

    It would look again and again at PyTorch's million objects, all of which stay. They are set aside in the end, the
    first time: a process that imports again may have garbage by then.
    """
    gc.disable()
    try:
        yield
    finally:
        if not gc.get_freeze_count():
            gc.freeze()
        gc.enable()


def set_aside_what_lives_on() -> None:
    """Spare the garbage collector what a process has loaded, and give back what loading needed.

    Call it once all that stays is there. A full collection holds up every thread, with PyTorch's million objects for
    most of a second. Afterwards young objects alone are collected, unless `gc.collect` is called in a quiet moment.
    """
    gc.freeze()
    give_memory_back()
    young, middle, _ = gc.get_threshold()
    gc.set_threshold(young, middle, 1_000_000)


def resident_bytes() -> int:
    """Return the memory that this process holds now; 0 where the system does not say."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0
