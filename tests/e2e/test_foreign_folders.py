"""The service is started where the user's project has packages of the same names as ours: ours are run, theirs are not.

See docs/adr/0001.
"""

from __future__ import annotations

import dataclasses
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

NAMES = ("app", "benchmarks", "exchange", "keepsight", "model_store", "segp_cl", "worker")
MODULES = ("celery", "redis", "torch", "uvicorn", "sitecustomize", "logging")
THEIRS = """
import pathlib, sys
with pathlib.Path({trace!r}).open("a") as trace:
    trace.write(__name__ + "\\n")
sys.exit("the user's own program was run")
"""


@pytest.fixture
def trace(keepsight: Any) -> Path:
    """The file into which the user's packages write when they are run; they lie where the command is typed."""
    trace: Path = keepsight.folder / "trace"
    for name in NAMES:
        package = keepsight.folder / name
        package.mkdir()
        for module in ("__init__", "__main__"):
            (package / f"{module}.py").write_text(THEIRS.format(trace=str(trace)))
    for name in MODULES:
        (keepsight.folder / f"{name}.py").write_text(THEIRS.format(trace=str(trace)))
    (keepsight.folder / ".env").write_text("KEEPSIGHT_STORE=/nowhere\nKEEPSIGHT_PORT=1\n")
    return trace


def test_up_runs_our_server_worker_and_job(keepsight: Any, trace: Path, colours: Path) -> None:
    _, note = keepsight.up()
    assert set(note["parts"]) == {"broker", "worker", "server"}
    for name in ("red", "green"):
        shutil.copytree(colours / name, keepsight.folder / "first" / name)
    few = ("--set", "epochs=1", "--set", "k_adv=1", "--set", "rank=4")
    taught = keepsight("teach", str(keepsight.folder / "first"), "--json", *few, url=note["url"])
    assert taught.code == 0, taught.err
    assert taught.json["state"] == "succeeded"
    assert not trace.exists(), trace.read_text()


def test_up_in_the_background_runs_our_command(keepsight: Any, trace: Path) -> None:
    _, note = keepsight.up("--detach", "--no-worker")
    assert set(note["parts"]) == {"broker", "server"}
    assert not trace.exists(), trace.read_text()


@pytest.mark.parametrize("where", ["here", "elsewhere"])
def test_up_runs_ours_where_theirs_are_on_the_path(keepsight: Any, trace: Path, where: str) -> None:
    """Theirs come first on the path; only their `keepsight` is not there, or it would be theirs that was typed."""
    shutil.rmtree(keepsight.folder / "keepsight")
    (keepsight.folder / "sitecustomize.py").unlink()  # Python itself runs the one on the path
    (keepsight.folder / "logging.py").unlink()
    theirs = keepsight.folder
    if where == "elsewhere":
        theirs = keepsight.folder / "project"
        theirs.mkdir()
        for name in NAMES:
            if name != "keepsight":
                (keepsight.folder / name).rename(theirs / name)
    ours = Path(__file__).parents[2]
    environment = {**keepsight.environment, "PYTHONPATH": f"{theirs}:{ours}"}
    _, note = dataclasses.replace(keepsight, environment=environment).up()
    assert set(note["parts"]) == {"broker", "worker", "server"}
    assert not trace.exists(), trace.read_text()


def test_bench_runs_our_benchmarks(keepsight: Any, trace: Path) -> None:
    shown = keepsight("bench", "--help")
    assert shown.code == 0, shown.err
    assert "sweep" in shown.out
    assert not trace.exists(), trace.read_text()


def test_without_the_precaution_theirs_would_be_run(keepsight: Any, trace: Path) -> None:
    """Or the tests above could not fail."""
    ran = subprocess.run(
        [sys.executable, "-m", "worker"],
        cwd=keepsight.folder,
        env=keepsight.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "the user's own program was run" in ran.stderr
    assert trace.exists()
