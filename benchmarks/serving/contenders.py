"""The other servers: where they are installed, which settings each is tried with, how each wants its images."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from benchmarks.serving.servers import Launch
from benchmarks.serving.wire import Shape

FOLDER: Final = Path(__file__).with_name("peers")
_STAMP: Final = "requirements.sha256"
MODEL: Final = "ViT-B-32"
CHECKPOINT: Final = "vit_b_32.safetensors"
LABELS: Final = "labels.json"
HF_FOLDERS: Final = {"CLIPImageProcessor": "hf-slow", "CLIPImageProcessorFast": "hf-fast"}
"""By image processor."""
CLASSIFY: Final = Shape(path="/v1/classify", style="multipart")
EMBED: Final = Shape(path="/v1/embeddings", style="openai", extra={"encoding_format": "base64"})
Settings = dict[str, Any]
Asked = Literal["classify", "embed"]


class PeerError(RuntimeError):
    """Another server could not be installed. The message names it."""


@dataclass(frozen=True)
class Peer:
    """Another server.

    Attributes:
        name: For people.
        asked: Which of our routes it is compared with.
        shape: How it wants its images: the form that costs it least.
        tries: The settings that the calibration chooses among; the first are those tried in a quick run.
        launch: From its environment's folder, settings, the weights' folder and the number of threads.
        shares: The name of its requirements file and virtual environment, where others have the same; None: its own.
    """

    name: str
    asked: Asked
    shape: Shape
    tries: tuple[Settings, ...]
    launch: Callable[[Path, Settings, Path, int], Launch]
    shares: str | None = None

    @property
    def environment(self) -> str:
        """The name of its requirements file and its virtual environment."""
        return self.shares or self.name


def install(peer: str, folder: Path) -> None:
    """Make the peer's virtual environment in `folder`, or bring it up to date with its requirements file.

    Raises:
        PeerError: it cannot be installed.
    """
    requirements = FOLDER / f"{peer}.txt"
    digest = hashlib.sha256(requirements.read_bytes()).hexdigest()
    target = folder / peer
    if (target / _STAMP).is_file() and (target / _STAMP).read_text() == digest:
        return
    python = target / "bin" / "python"
    commands = [] if python.exists() else [[sys.executable, "-m", "venv", str(target)]]
    commands.append([str(python), "-m", "pip", "install", "--quiet", "--requirement", str(requirements)])
    for command in commands:
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise PeerError(f"{peer} cannot be installed: {(done.stderr or done.stdout).strip()[-800:]}")
    (target / _STAMP).write_text(digest)


def versions(peer: str, folder: Path) -> dict[str, str]:
    """What counts of the packages in the peer's environment."""
    command = [str(folder / peer / "bin" / "python"), "-m", "pip", "list", "--format", "json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    others = (
        "torch",
        "torchvision",
        "transformers",
        "open-clip-torch",
        "pillow",
        "openvino",
        "onnxruntime",
        "uvicorn",
    )
    found = {entry["name"].lower().replace("_", "-"): entry["version"] for entry in json.loads(done.stdout)}
    return {name: version for name, version in found.items() if name in others or name.startswith(peer)}


def _common(weights: Path, threads: int) -> Settings:
    return {
        "threads": threads,
        "model": MODEL,
        "checkpoint": str(weights / CHECKPOINT),
        "labels": str(weights / LABELS),
    }


def _threads(threads: int, settings: Settings) -> dict[str, str]:
    """As many threads for all; whether they sleep or spin while they wait for each other is a setting like others."""
    environment = {"OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1"}
    return environment | ({"OMP_WAIT_POLICY": "PASSIVE"} if settings["sleeping_threads"] else {})


def _with_port(settings: Settings) -> str:
    """Settings as JSON with a place for the port, which is put in by name: braces of JSON stay as they are."""
    return json.dumps({**settings, "port": "{port}"}).replace('"{port}"', "{port}")


def _fastapi(venv: Path, settings: Settings, weights: Path, threads: int) -> Launch:
    text = _with_port({**_common(weights, threads), **settings})
    command = [str(venv / "bin" / "python"), str(FOLDER / "fastapi_server.py"), text]
    return Launch(f"fastapi-{settings['engine']}", command, "/health", _threads(threads, settings), weights)


def _litserve(venv: Path, settings: Settings, weights: Path, threads: int) -> Launch:
    text = _with_port({**_common(weights, threads), **settings})
    command = [str(venv / "bin" / "python"), str(FOLDER / "litserve_server.py"), text]
    return Launch("litserve", command, "/health", _threads(threads, settings), weights)


def _bentoml(venv: Path, settings: Settings, weights: Path, threads: int) -> Launch:
    command = [str(venv / "bin" / "bentoml"), "serve", "bentoml_service:Clip"]
    command += ["--host", "127.0.0.1", "--port", "{port}", "--working-dir", str(FOLDER)]
    environment = {
        **_threads(threads, settings),
        "PEER_SETTINGS": json.dumps({**_common(weights, threads), **settings}),
        "BENTOML_HOME": str(weights / "bentoml-home"),
        "BENTOML_DO_NOT_TRACK": "True",
    }
    return Launch("bentoml", command, "/readyz", environment, FOLDER)


def _infinity(venv: Path, settings: Settings, weights: Path, threads: int) -> Launch:
    command = [
        str(venv / "bin" / "infinity_emb"),
        "v2",
        *("--model-id", str(weights / HF_FOLDERS[settings["processor"]])),
        *("--served-model-name", "clip", "--host", "127.0.0.1", "--port", "{port}"),
        *("--engine", "torch", "--device", "cpu", "--dtype", "float32", "--no-bettertransformer", "--no-model-warmup"),
        *("--batch-size", str(settings["batch_size"]), "--log-level", "warning"),
        "--compile" if settings["compile"] else "--no-compile",
    ]
    return Launch("infinity", command, "/health", _threads(threads, settings), weights)


def _tries(usual: Settings, *changes: Settings) -> tuple[Settings, ...]:
    return tuple({**usual, **change} for change in changes)


PEERS: Final = (
    Peer(
        "infinity",
        "embed",
        Shape(
            path="/embeddings",
            style="openai",
            extra={"model": "clip", "encoding_format": "base64", "modality": "image"},
        ),
        _tries(
            {"batch_size": 16, "processor": "CLIPImageProcessorFast", "compile": False, "sleeping_threads": True},
            {},
            {"processor": "CLIPImageProcessor"},
            {"batch_size": 32},
            {"batch_size": 8},
            {"sleeping_threads": False},
            {"processor": "CLIPImageProcessor", "sleeping_threads": False},
        ),
        _infinity,
    ),
    Peer(
        "litserve",
        "classify",
        Shape(path="/predict", style="raw"),
        _tries(
            {
                "max_batch_size": 16,
                "batch_timeout": 0.005,
                "workers": 1,
                "decode": "pool",
                "api_servers": 1,
                "fast_queue": False,
                "sleeping_threads": True,
            },
            {},
            {"max_batch_size": 1, "batch_timeout": 0.0, "decode": "inline"},
            {"batch_timeout": 0.0},
            {"batch_timeout": 0.01},
            {"max_batch_size": 32},
            {"decode": "inline"},
            {"workers": 2, "decode": "inline"},
            {"api_servers": 2},
            {"fast_queue": True},
            {"sleeping_threads": False},
        ),
        _litserve,
    ),
    Peer(
        "bentoml",
        "classify",
        Shape(path="/classify", style="multipart", field="images"),
        _tries(
            {
                "max_batch_size": 16,
                "max_latency_ms": 30_000,
                "workers": 1,
                "decode": "pool",
                "metrics": False,
                "sleeping_threads": True,
            },
            {},
            {"decode": "inline"},
            {"max_batch_size": 32},
            {"max_latency_ms": 1_000},
            {"workers": 2, "decode": "inline"},
            {"sleeping_threads": False},
        ),
        _bentoml,
    ),
    Peer(
        "fastapi-openvino",
        "classify",
        Shape(path="/predict", style="raw"),
        _tries(
            {
                "engine": "openvino",
                "hint": "LATENCY",
                "precision": "f32",
                "max_batch_size": 16,
                "max_wait_ms": 5,
                "sleeping_threads": True,
            },
            {},
            {"max_batch_size": 8},
            {"max_wait_ms": 0},
            {"max_wait_ms": 10},
            {"max_batch_size": 32},
            {"hint": "THROUGHPUT"},
        ),
        _fastapi,
        shares="fastapi",
    ),
    Peer(
        "fastapi-onnxruntime",
        "classify",
        Shape(path="/predict", style="raw"),
        _tries(
            {"engine": "onnxruntime", "max_batch_size": 16, "max_wait_ms": 5, "sleeping_threads": True},
            {},
            {"max_batch_size": 8},
            {"max_wait_ms": 0},
            {"max_wait_ms": 10},
            {"max_batch_size": 32},
            {"sleeping_threads": False},
        ),
        _fastapi,
        shares="fastapi",
    ),
)
