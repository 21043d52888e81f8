"""The server beside this code before it had engines, `compact`: the same photographs, store and clients, in turn."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from benchmarks.common.proc import freeze
from benchmarks.common.process import ROOT
from benchmarks.serving.contenders import CLASSIFY
from benchmarks.serving.figures import median_ratio, ratios_by_round
from benchmarks.serving.foreign import interleaved, load_of
from benchmarks.serving.servers import Launch, Server, ServerError, running
from benchmarks.serving.workplace import COMPACT, Workplace, measure_load

BEFORE: Final = "2f32a32"
"""The code that the gain is held against. Much besides engines has come since."""
CLIENTS: Final = 16
NOW, THEN = "now", "before"


class CheckoutError(RuntimeError):
    """The code before cannot be had, because this is no clone with its history. The message is git's."""


def measure(place: Workplace) -> dict[str, Any]:
    """The part's record."""
    folder, described = place.photos()
    with checked_out(BEFORE) as code, place.generator(folder) as generator:
        # made by the older code, since newer code reads older versions
        store, _ = place.store(COMPACT, versions=1, name="gain", code=code)
        other, _ = place.store(COMPACT, versions=1, name="gain-before", code=code)
        before = _in(code, place.ours(COMPACT, other))
        with (
            running(place.ours(COMPACT, store), place.log("gain-now")) as ours,
            running(before, place.log("gain-before")) as theirs,
        ):
            check_engines(ours, theirs)
            servers = {NOW: ours, THEN: theirs}
            for server in servers.values():
                freeze(server.root, frozen=True)

            def load(server: Server) -> Mapping[str, Any]:
                plan = place.plan
                return measure_load(
                    generator, server, CLASSIFY, clients=CLIENTS, warm_s=plan.warm_s, measure_s=plan.bare_window_s
                )

            for server in servers.values():  # what is slow once
                load(server)
            windows = interleaved(
                {name: lambda server=server: load(server) for name, server in servers.items()},  # type: ignore[misc]
                rounds=place.plan.gain_rounds,
                gate=place.gate,
                on_window=place.tell,
            )
    return {
        "figures": {
            "compact_gain_c16": median_ratio(windows, NOW, THEN, "per_s"),
            "compact_cpu_gain_c16": median_ratio(windows, THEN, NOW, "cpu_ms"),
        },
        "before": BEFORE,
        "gains": ratios_by_round(windows, NOW, THEN, "per_s"),
        "photos": described,
        "windows": [window.as_record() for window in windows],
        "load": load_of(windows),
    }


def check_engines(ours: Server, theirs: Server) -> None:
    """Make sure that the servers are what they are called.

    Raises:
        ServerError: ours is not run by OpenVINO, or theirs knows of engines.
    """
    engines = [json.loads(server.get("/readyz")[1]).get("engine") for server in (ours, theirs)]
    if engines != ["openvino", None]:
        raise ServerError(f"the engines now and before are {engines}, expected openvino and none that is named")


@contextlib.contextmanager
def checked_out(commit: str) -> Iterator[Path]:
    """The code of a commit in a folder of its own, for as long as the block lasts.

    Raises:
        CheckoutError: git does not have it.
    """
    with tempfile.TemporaryDirectory(prefix="keepsight-before-") as name:
        code = Path(name) / "code"
        _git("worktree", "add", "--detach", "--quiet", str(code), commit)
        try:
            yield code
        finally:
            _git("worktree", "remove", "--force", str(code))


def _git(*arguments: str) -> None:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True)  # noqa: S607
    if done.returncode:
        raise CheckoutError(done.stderr.strip())


def _in(code: Path, launch: Launch) -> Launch:
    """The launch with another checkout's code."""
    path = os.pathsep.join(filter(None, (str(code), os.environ.get("PYTHONPATH"))))
    return replace(launch, environment={**launch.environment, "PYTHONPATH": path}, folder=code)
