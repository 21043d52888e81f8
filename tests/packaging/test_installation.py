"""Both distributions are installed as a user installs them, and used from a folder without the sources."""

from __future__ import annotations

import json
import subprocess
import sys
import sysconfig
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.packaging.built import ROOT, Distributions, clean_environment

ANSWER = {
    "model_version": "000001-aaaaaaaaaaaa",
    "path": "text",
    "results": [
        {"index": 0, "filename": "a.png", "predictions": [{"label": "cat", "probability": 0.75}], "error": None}
    ],
}
CALL = """
import asyncio, importlib.util, json, sys
import keepsight
from keepsight.client import AsyncClient, Client

async def again(url):
    async with AsyncClient(url) as client:
        return await client.classify([("a.png", b"image")], labels=["cat", "dog"])

with Client(sys.argv[1]) as client:
    answer = client.classify([("a.png", b"image")], labels=["cat", "dog"])
assert asyncio.run(again(sys.argv[1])) == answer
others = ["torch", "pydantic", "typer", "keepsight.local", "app"]
print(json.dumps({
    "answer": answer,
    "importable": [name for name in others if importlib.util.find_spec(name) is not None],
    "parent": keepsight.__file__,
    "path": sys.path,
}))
"""
CLASSIFY = """
import json, pathlib, sys
import app, benchmarks.accuracy, exchange, keepsight.client, keepsight.local.up, model_store, segp_cl, worker
with keepsight.Client(sys.argv[1]) as client:
    answer = client.classify([pathlib.Path(sys.argv[2])], labels=["red", "blue"])
modules = [app, benchmarks, exchange, keepsight, keepsight.client, model_store, segp_cl, worker]
print(json.dumps({"answer": answer, "files": [module.__file__ for module in modules], "path": sys.path}))
"""


class Stub(BaseHTTPRequestHandler):
    """A service that answers every classification alike."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        body = json.dumps(ANSWER).encode()
        self.send_response(200 if self.path == "/v1/classify" else 404)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing is printed."""


@pytest.fixture
def stub() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Stub) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


class Venv:
    """An empty environment; programs run in it from an empty folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.workplace = folder.with_name("workplace")
        self.workplace.mkdir()
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
        (self.packages,) = folder.glob("lib/python3*/site-packages")

    def run(self, program: str, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        command = [str(self.folder / "bin" / program), *arguments]
        ran = subprocess.run(
            command, cwd=self.workplace, env=clean_environment(), capture_output=True, text=True, check=False
        )
        assert not check or ran.returncode == 0, f"{command}: {ran.stdout}{ran.stderr}"
        return ran

    def install(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "pip", "--python", str(self.folder / "bin" / "python"), "install", "--quiet"]
        return subprocess.run(
            [*command, *arguments],
            cwd=self.workplace,
            env=clean_environment(),
            capture_output=True,
            text=True,
            check=False,
        )

    def size(self) -> int:
        return sum(path.stat().st_size for path in self.packages.rglob("*") if path.is_file())


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Callable[[str], None]:
    """Print past pytest, so that a figure is seen where the test passed too."""

    def say(sentence: str) -> None:
        with capsys.disabled():
            print(f"\n{sentence}")

    return say


def test_the_client_alone(distributions: Distributions, tmp_path: Path, stub: str, say: Callable[[str], None]) -> None:
    venv = Venv(tmp_path / "venv")
    began = time.monotonic()
    installed = venv.install(str(distributions.wheel("keepsight-client")))
    if installed.returncode != 0:
        pytest.fail(f"pip could not install the client; it needs an index that has httpx:\n{installed.stderr}")
    seconds = time.monotonic() - began
    said: dict[str, Any] = json.loads(venv.run("python", "-P", "-c", CALL, stub).stdout)
    assert said["answer"] == ANSWER
    assert said["importable"] == []
    assert said["parent"] is None  # `keepsight/__init__.py` comes with the service
    assert not [entry for entry in said["path"] if entry.startswith(str(ROOT))]
    size = venv.size()
    say(f"keepsight-client and its dependencies: {size / 1e6:.1f} MB, installed in {seconds:.1f} s")
    assert size < 20e6


def test_the_whole_service(distributions: Distributions, tmp_path: Path, say: Callable[[str], None]) -> None:
    venv = Venv(tmp_path / "venv")
    wheels = [str(distributions.wheel(name)) for name in ("keepsight-client", "keepsight")]
    installed = venv.install("--no-deps", "--no-index", *wheels)
    assert installed.returncode == 0, installed.stderr
    size = venv.size()
    # the dependencies are gigabytes: those of this environment are used, behind what was installed; a .pth file in a
    # folder that is added by one is not read, so an editable installation of Keepsight there is not found
    shared = dict.fromkeys(sysconfig.get_path(kind) for kind in ("purelib", "platlib"))
    (venv.packages / "shared.pth").write_text("\n".join(shared) + "\n")

    image = tmp_path / "red.png"
    Image.new("RGB", (64, 64), (220, 30, 30)).save(image)
    began = time.monotonic()
    try:
        note = json.loads(venv.run("keepsight", "up", "--detach", "--port", "0", "--json").stdout)
        seconds = time.monotonic() - began
        said: dict[str, Any] = json.loads(venv.run("python", "-P", "-c", CLASSIFY, note["url"], str(image)).stdout)
    finally:
        down = venv.run("keepsight", "down", check=False)
    (result,) = said["answer"]["results"]
    assert result["error"] is None
    assert {prediction["label"] for prediction in result["predictions"]} == {"red", "blue"}
    assert [file for file in said["files"] if not file.startswith(str(venv.packages))] == []
    assert str(ROOT) not in said["path"]
    version = distributions.wheel("keepsight").name.split("-")[1]
    assert venv.run("keepsight", "--version").stdout == f"keepsight {version}\n"
    assert down.stdout == "Stopped.\n", down.stderr
    say(f"keepsight and keepsight-client: {size / 1e6:.1f} MB without dependencies; ready in {seconds:.1f} s")
