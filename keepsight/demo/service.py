"""The demo's own folder and service: fresh for every run, and separate from all else that the user has."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from keepsight.demo.data import DemoData, digits, from_folder
from keepsight.demo.errors import DemoError
from keepsight.local.detach import start_detached
from keepsight.local.errors import StartError
from keepsight.local.instance import Instance, check_port

MARKER = ".keepsight-demo"
HOST = "127.0.0.1"
NOT_OURS = ("KEEPSIGHT_REDIS_URL", "KEEPSIGHT_SPOOL", "KEEPSIGHT_STORE")  # not passed on: the demo has its own


@dataclass(frozen=True)
class DemoSettings:
    """The options of `keepsight demo`; see its `--help`."""

    data: Path | None = None
    tasks: int = 2
    template: str | None = None
    short: bool = False
    stop_at_end: bool = False
    port: int = 8000
    folder: Path = Path("var/demo")
    overrides: dict[str, object] = field(default_factory=dict)


def gather_images(settings: DemoSettings) -> DemoData:
    """Return the demo's images, from its own folder or the user's."""
    if settings.data is None:
        data = digits(settings.folder / "images", short=settings.short)
    else:
        data = from_folder(settings.data, tasks=settings.tasks, short=settings.short)
    if settings.template is None:
        return data
    return replace(data, template=settings.template)


def make_folder(folder: Path) -> Instance:
    """Empty the demo's folder, after stopping an earlier demo in it. Only a demo's folder is ever deleted.

    Raises:
        DemoError: the folder holds something else.
    """
    instance = Instance(folder / "store")
    instance.stop()
    if folder.exists() and any(folder.iterdir()):
        if not (folder / MARKER).exists():
            raise DemoError(f"{folder} holds files that are not a demo's; name another --folder")
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MARKER).touch()
    return instance


def start(settings: DemoSettings, screen: Console) -> dict[str, Any]:
    """Start `keepsight up` for the demo, on another port if the wanted one is taken."""
    port = settings.port
    if port:
        try:
            check_port(HOST, port)
        except StartError:
            screen.print(f"Port {port} is in use, so the demo takes a free one.")
            port = 0
    environment = {name: value for name, value in os.environ.items() if name not in NOT_OURS}
    environment["KEEPSIGHT_KEYS_FILE"] = str((settings.folder / "keys.json").resolve())
    store = settings.folder / "store"
    with screen.status("Starting broker, worker and server"):
        return start_detached(
            ["--host", HOST, "--port", str(port), "--store", str(store)],
            log=settings.folder / "log" / "up.log",
            environment=environment,
            outlive_us=not settings.stop_at_end,
        )


def peak_memory_mib(pids: dict[str, int]) -> dict[str, float]:
    """Return the peak memory of each process in MiB, where the system reports it; an update's is in its report."""
    peaks = {}
    for name, pid in pids.items():
        try:
            lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
        except OSError:
            continue
        for line in lines:
            if line.startswith("VmHWM:"):
                peaks[name] = int(line.split()[1]) / 1024
    return peaks
