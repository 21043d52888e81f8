"""What an upload costs: a process that takes one in, as a server does, and says how much memory that took."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from app.intake.limits import IntakeLimits
from app.intake.take_in import take_in
from app.settings import Settings
from exchange.contracts import new_job_id
from exchange.spool import Spool
from segp_cl.errors import KeepsightError
from segp_cl.runtime.process import give_memory_back, set_up_server

ROOT = Path(__file__).parents[4]
MIB = 1024 * 1024


@dataclass(frozen=True)
class Footprint:
    """How an upload ended, and the memory above rest that it took at most and keeps, in bytes."""

    error: str
    message: str
    peak: int
    kept: int
    spooled: int


def footprint(upload: Path) -> Footprint:
    """Take an upload in with the default settings, in a new process."""
    command = [sys.executable, "-P", "-m", "tests.unit.app.intake.footprint", str(upload)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    said = subprocess.run(command, env=environment, check=True, capture_output=True, text=True, timeout=240).stdout
    return Footprint(**json.loads(said))


def _kib(name: str, pid: int | str = "self") -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1])
    return 0


@contextlib.contextmanager
def _peak_of_children() -> Iterator[Callable[[], int]]:
    """Look at the children's peaks every few milliseconds; what the last look of a child showed is its peak."""
    peaks: dict[str, int] = {}
    done = threading.Event()

    own = Path("/proc/self/cmdline").read_bytes()

    def look() -> None:
        while not done.is_set():
            for task in Path("/proc/self/task").iterdir():
                with contextlib.suppress(OSError, ValueError):
                    for child in (task / "children").read_text().split():
                        # until it runs a program of its own, it is in the memory of this process
                        if Path("/proc", child, "cmdline").read_bytes() != own:
                            peaks[child] = max(peaks.get(child, 0), _kib("VmHWM", child))
            time.sleep(0.003)

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        yield lambda: max(peaks.values(), default=0)
    finally:
        done.set()
        watcher.join()


def _take(path: Path, spool: Spool) -> tuple[str, str]:
    with path.open("rb") as file, spool.create(new_job_id()) as writer:
        try:
            limits = IntakeLimits.of(Settings())
            take_in(file, path.stat().st_size, writer, limits=limits, check_names=lambda names: None)
        except KeepsightError as error:
            return type(error).__name__, str(error)
    return "", ""


def _main(upload: Path) -> None:
    set_up_server()
    with tempfile.TemporaryDirectory() as folder:
        spool = Spool(Path(folder) / "spool")
        nothing = Path(folder) / "nothing"
        nothing.write_bytes(b"PK\x05\x06" + bytes(18))
        _take(nothing, spool)  # imports what is imported late
        rest = _kib("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")
        with _peak_of_children() as peak_of_children:
            error, message = _take(upload, spool)
            peak = _kib("VmHWM") - rest + peak_of_children()
        give_memory_back()
        kept = _kib("VmRSS") - rest
        spooled = sum(file.is_file() for file in spool.root.rglob("*"))
    print(
        json.dumps({"error": error, "message": message, "peak": peak * 1024, "kept": kept * 1024, "spooled": spooled})
    )


if __name__ == "__main__":
    _main(Path(sys.argv[1]))
