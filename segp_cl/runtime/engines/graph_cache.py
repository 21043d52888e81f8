"""Converted image towers on disk, so that a server need not convert its base model at every start."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import openvino
import torch

from segp_cl.models.backbone import Backbone
from segp_cl.runtime.engines.compiled import CORE
from segp_cl.runtime.engines.graph import weights_of

logger = logging.getLogger(__name__)

FORMAT: Final = 1
"""Raised when the conversion changes: what an older release has stored is then converted anew."""
GRAPH, VALUES, RECORD = "graph.xml", "graph.bin", "record.json"


@dataclass(frozen=True)
class Converted:
    """A converted image tower.

    Attributes:
        graph: see `segp_cl.runtime.engines.graph.convert`.
        record: what was measured of it (`segp_cl.runtime.engines.probing`), as JSON.
    """

    graph: openvino.Model
    record: dict[str, Any]


Make = Callable[[], Converted]


def key_of(base: Backbone, *, bfloat16: bool) -> str:
    """Return the name of a base model's folder: what the graph and its measurements depend on, as a digest.

    `bfloat16`: whether that arithmetic is measured too.
    """
    shapes = {name: tuple(weight.shape) for name, weight in weights_of(base).items()}
    versions = (FORMAT, openvino.__version__, torch.__version__, bfloat16)
    parts = (*versions, base.weights_digest, base.preprocessing.size, sorted(shapes.items()))
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]


def load_or_make(folder: Path, key: str, make: Make) -> Converted:
    """Return what is stored under `key`, or make it and store it.

    What is damaged is made again. Processes that make the same at once do not disturb each other. Where the folder
    cannot be written, nothing is stored, and the next start makes it again.

    Raises:
        EngineError: it cannot be made.
    """
    place = folder / key
    with contextlib.suppress(FileNotFoundError):
        try:
            return _read(place)
        except FileNotFoundError:
            raise
        except Exception as error:  # whatever is wrong with it, it can be made again
            logger.warning("the converted model in %s is damaged and is made again: %s", place, error)
    converted = make()
    try:
        _write(place, converted)
    except OSError as error:
        logger.warning("the converted model is not kept in %s, and is made again at the next start: %s", place, error)
    return converted


def _read(place: Path) -> Converted:
    record = json.loads((place / RECORD).read_bytes())
    stored = {name: (place / name).read_bytes() for name in (GRAPH, VALUES)}
    for name, data in stored.items():
        if hashlib.sha256(data).hexdigest() != record["sha256"][name]:
            raise ValueError(f"{name} has another SHA-256 than when it was written")
    return Converted(CORE.read_model(place / GRAPH), record["measured"])


def _write(place: Path, converted: Converted) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=place.parent, prefix=f".{place.name[:8]}-") as name:
        folder = Path(name) / "new"
        folder.mkdir()
        try:
            openvino.serialize(converted.graph, folder / GRAPH, folder / VALUES)
        except RuntimeError as error:  # a full disk, among others
            raise OSError(str(error).strip().splitlines()[0]) from error
        sums = {each: hashlib.sha256((folder / each).read_bytes()).hexdigest() for each in (GRAPH, VALUES)}
        (folder / RECORD).write_text(json.dumps({"sha256": sums, "measured": converted.record}, indent=1))
        for path in folder.iterdir():
            _sync(path)
        if place.exists():  # damaged, or another process was faster
            os.rename(place, Path(name) / "old")
        # another process may have put its own there since: it is as good
        with contextlib.suppress(FileExistsError, NotADirectoryError):
            os.rename(folder, place)


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
