"""The real command line in processes of its own, over a CLIP small enough to learn within seconds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from segp_cl.types import ModelSpec

COLOURS = {
    "red": (220, 30, 30), "green": (30, 200, 40), "blue": (30, 60, 220), "yellow": (230, 220, 40),
}  # fmt: skip


@dataclass(frozen=True)
class Ran:
    """How a command ended and what it printed."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@dataclass(frozen=True)
class Keepsight:
    """The command line, its folder and its environment."""

    folder: Path
    environment: dict[str, str]
    started: list[subprocess.Popen[str]] = field(default_factory=list)

    @property
    def store(self) -> Path:
        return self.folder / "var" / "store"

    def popen(self, *arguments: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "keepsight", *arguments],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=self.folder, env=self.environment,
        )  # fmt: skip
        self.started.append(process)
        return process

    def __call__(self, *arguments: str, url: str | None = None) -> Ran:
        """Run a command to its end, against the service at `url`."""
        process = self.popen(*arguments, *(("--url", url) if url else ()))
        out, err = process.communicate(timeout=240)
        return Ran(process.returncode, out, err)

    def up(self, *arguments: str) -> tuple[subprocess.Popen[str], dict[str, Any]]:
        """Start the service on a free port; its process and its note, once it is ready."""
        process = self.popen("up", "--port", "0", "--json", *arguments)
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            lines.append(line)
            if line.rstrip() == "}":
                return process, json.loads("".join(lines))
        raise AssertionError(f"up ended: {process.communicate()[1]}")

    def left_running(self) -> list[str]:
        """Command lines of living processes that were given this folder's store."""
        mark = str(self.folder).encode()
        found = []
        for process in Path("/proc").iterdir():
            if not process.name.isdigit() or int(process.name) == os.getpid():
                continue
            try:
                if mark in (process / "environ").read_bytes() + (process / "cmdline").read_bytes():
                    found.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode())
            except OSError:  # it has ended, or is not ours to look at
                continue
        return found


def finish(process: subprocess.Popen[str], timeout_s: float = 60) -> Ran:
    """Wait for a process and collect what it printed."""
    out, err = process.communicate(timeout=timeout_s)
    return Ran(process.returncode, out, err)


@pytest.fixture(name="finish")
def finish_fixture() -> Callable[..., Ran]:
    return finish


@pytest.fixture
def keepsight(tmp_path: Path, tiny_spec: ModelSpec) -> Iterator[Keepsight]:
    """The command line in an empty folder; nothing that it started outlives the test."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("KEEPSIGHT_")}
    environment |= {"KEEPSIGHT_MODEL": tiny_spec.name, "KEEPSIGHT_THREADS": "1", "KEEPSIGHT_DEVICE": "cpu"}
    environment["COLUMNS"] = "120"
    made = Keepsight(tmp_path, environment)
    yield made
    for process in made.started:
        if process.poll() is None:
            process.terminate()
            process.communicate(timeout=60)
        for stream in (process.stdout, process.stderr):
            assert stream is not None
            stream.close()
    if made.left_running():
        made("down", "--store", str(made.store))
    assert made.left_running() == []


@pytest.fixture
def colours(tmp_path: Path) -> Path:
    """A folder per colour with noisy squares of it: real PNG files, easy to tell apart."""
    import numpy
    from PIL import Image

    random = numpy.random.default_rng(0)
    for name, rgb in COLOURS.items():
        (tmp_path / "colours" / name).mkdir(parents=True)
        for n in range(12):
            noise = random.normal(0, 25, (32, 32, 3))
            pixels = numpy.clip(numpy.array(rgb) + noise, 0, 255).astype(numpy.uint8)
            Image.fromarray(pixels).save(tmp_path / "colours" / name / f"{n}.png")
    return tmp_path / "colours"
