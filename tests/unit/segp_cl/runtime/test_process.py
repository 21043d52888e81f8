"""What a serving process asks of the C library, seen from the kernel's side."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

from segp_cl.runtime.process import set_up_environment, set_up_process

REPEATED = """
import resource, sys
from segp_cl.runtime.process import set_up_process, set_up_server
{"plain": lambda: None, "prepared": set_up_process, "server": set_up_server}[sys.argv[1]]()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(3):
    b'x' * (48 << 20)
before = faults()
for _ in range(5):
    b'x' * (48 << 20)
print(faults() - before)
"""


def faults(how: str, **environment: str) -> int:
    """Pages, of whatever size, that five blocks of 48 MiB, one after another, have the kernel map."""
    own = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}
    command = [sys.executable, "-c", REPEATED, how]
    done = subprocess.run(command, env={**own, **environment}, capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="asks glibc's malloc")
def test_freed_memory_is_used_again_and_not_mapped_anew() -> None:
    plain, prepared = faults("plain"), faults("prepared")
    assert plain >= 5 * 24  # as many if it maps pages of 2 MiB
    assert prepared < plain / 10


HEAPS = """
import ctypes, threading
from segp_cl.runtime.process import set_up_server
set_up_server()
together = threading.Barrier(6)
def work():
    block = ctypes.CDLL(None).malloc(100)
    together.wait()
threads = [threading.Thread(target=work) for _ in range(6)]
for thread in threads: thread.start()
for thread in threads: thread.join()
library = ctypes.CDLL(None)
library.fdopen.restype = ctypes.c_void_p
out = ctypes.c_void_p(library.fdopen(1, b"w"))
library.malloc_info(0, out)
library.fflush(out)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="asks glibc's malloc")
def test_a_server_keeps_no_large_blocks_and_two_heaps() -> None:
    assert faults("server") > 10 * faults("prepared")
    own = {name: value for name, value in os.environ.items() if name not in ("GLIBC_TUNABLES", "MALLOC_ARENA_MAX")}
    told = subprocess.run([sys.executable, "-c", HEAPS], env=own, capture_output=True, text=True, check=True).stdout
    assert told.count("<heap nr=") == 2


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="asks glibc's malloc")
def test_an_operators_own_tunables_stand() -> None:
    own = faults("prepared", GLIBC_TUNABLES="glibc.malloc.mmap_threshold=131072")
    assert faults("prepared") < own / 10


def test_threads_that_wait_sleep_unless_the_operator_says_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.arena_max=1")  # this process's memory is left as it is
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    set_up_process()
    assert os.environ["OMP_WAIT_POLICY"] == "PASSIVE"
    assert 0 < int(os.environ["GOMP_SPINCOUNT"]) < 1_000_000
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    monkeypatch.delenv("GOMP_SPINCOUNT")
    set_up_process()
    assert os.environ["OMP_WAIT_POLICY"] == "ACTIVE"
    assert "GOMP_SPINCOUNT" not in os.environ


def test_threads_that_wait_sleep_unless_an_operator_wants_them_to_spin() -> None:
    assert set_up_environment({})["OMP_WAIT_POLICY"] == "PASSIVE"
    assert set_up_environment({"OMP_WAIT_POLICY": "ACTIVE"})["OMP_WAIT_POLICY"] == "ACTIVE"
    assert "GOMP_SPINCOUNT" not in set_up_environment({"OMP_WAIT_POLICY": "ACTIVE"})
    assert "OMP_WAIT_POLICY" not in set_up_environment({"GOMP_SPINCOUNT": "0"})


def test_an_operators_allocator_settings_are_kept() -> None:
    assert "glibc.malloc.mmap_threshold" in set_up_environment({})["GLIBC_TUNABLES"]
    added = set_up_environment({"GLIBC_TUNABLES": "glibc.pthread.rseq=0", "A": "b"})
    assert added["GLIBC_TUNABLES"].startswith("glibc.pthread.rseq=0:glibc.malloc.mmap_threshold=")
    assert added["A"] == "b"
    own = {"GLIBC_TUNABLES": "glibc.malloc.arena_max=1"}
    assert set_up_environment(own)["GLIBC_TUNABLES"] == "glibc.malloc.arena_max=1"


IMPORTS = """
import gc, weakref
from segp_cl.runtime.process import importing
class Knot:
    def __init__(self):
        self.own = self
with importing():
    assert not gc.isenabled()
    lives_on = Knot()
assert gc.isenabled()
set_aside = gc.get_freeze_count()
garbage = Knot()
gone = weakref.ref(garbage)
del garbage
with importing():
    assert not gc.isenabled()
gc.collect()
print(set_aside > 0, gone() is None)
"""


def test_what_is_imported_first_is_set_aside_and_later_garbage_is_not() -> None:
    ran = subprocess.run([sys.executable, "-c", IMPORTS], capture_output=True, text=True, check=True, timeout=60)
    assert ran.stdout.split() == ["True", "True"]


YIELDS = """
import os, threading
from segp_cl.runtime.process import all_yield_to_others, yield_to_others
def priorities():
    return sorted(os.getpriority(os.PRIO_PROCESS, int(thread)) for thread in os.listdir("/proc/self/task"))
before = os.getpriority(os.PRIO_PROCESS, 0)
ended = threading.Event()
threading.Thread(target=ended.wait).start()
yield_to_others()
print(priorities() == [before, 10])
all_yield_to_others()
threading.Thread(target=ended.wait).start()
print(priorities() == [10, 10, 10])
ended.set()
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/task"), reason="threads have priorities of their own on Linux alone")
def test_threads_that_began_earlier_yield_too() -> None:
    done = subprocess.run([sys.executable, "-c", YIELDS], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "True"], done.stderr
