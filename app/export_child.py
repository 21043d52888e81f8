"""The process that makes one ONNX model: `python -P -m app.export_child DESCRIPTOR ORDER`.

An export loads the base model anew and traces it in Python for seconds, which would hold up every answer of the server.
The process has low priority and a limit of memory, and is the first that the system ends when memory runs out. It
writes the model to the descriptor and one line of JSON to its standard output. It ends itself when its standard input
is closed.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import resource
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.exports import ERRORS
from segp_cl.errors import KeepsightError
from segp_cl.runtime.process import yield_to_others

logger = logging.getLogger("app.export_child")

ORPHANED = 70
"""Exit status of a process whose server is gone."""


@dataclass(frozen=True)
class Order:
    """What to export: a version of a store on a base model. `memory_bytes` is what the process may allocate."""

    store: str
    version_id: str
    model: str
    pretrained: str | None
    memory_bytes: int


def main(descriptor: int, order: Order) -> None:
    """Carry out the order."""
    yield_to_others()
    threading.Thread(target=_watch, daemon=True).start()
    # only the answer goes to the real standard output: a library that prints must not garble it
    outgoing = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    logging.basicConfig(level=logging.ERROR, format="%(levelname)s %(name)s: %(message)s")
    with contextlib.suppress(OSError, ValueError):
        Path("/proc/self/oom_score_adj").write_text("1000")
        resource.setrlimit(resource.RLIMIT_DATA, (order.memory_bytes, order.memory_bytes))
    json.dump(_answer(descriptor, order), outgoing)
    outgoing.flush()
    os._exit(0)  # the watching thread is still reading


def _watch() -> None:
    while sys.stdin.buffer.read(1):
        pass
    os._exit(ORPHANED)


def _answer(descriptor: int, order: Order) -> dict[str, Any]:
    try:
        return _export(descriptor, order)
    except KeepsightError as error:
        names = [kind.__name__ for kind in type(error).__mro__]
        return {"error": next((name for name in names if name in ERRORS), "ExportError"), "message": str(error)}
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return {"error": "SpoolFullError", "message": "the spool's disk is full; nothing was exported"}
        raise
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and "allocate" not in str(error):
            raise
        limit = order.memory_bytes // 1024**2
        return {
            "error": "ExportError",
            "message": f"the export needs more than the {limit} MiB of memory that KEEPSIGHT_MAX_EXPORT_BYTES allows",
        }


def _export(descriptor: int, order: Order) -> dict[str, Any]:
    import torch

    from model_store.reader import StoreReader
    from segp_cl.models.load import load_backbone
    from segp_cl.runtime.classifier import Classifier
    from segp_cl.runtime.export import export_onnx
    from segp_cl.runtime.golden import replay
    from segp_cl.types import ModelSpec

    torch.set_num_threads(1)
    store = StoreReader(Path(order.store))
    content, manifest = store.read(order.version_id), store.manifest(order.version_id)
    base = load_backbone(ModelSpec(order.model, order.pretrained))
    classifier = Classifier(base, content.state)
    if content.golden is not None:
        replay(classifier, content.golden, base.preprocessing.size)
    about = {
        "version_id": manifest.version_id,
        "content_digest": manifest.content_digest,
        "created_at": manifest.created_at.isoformat(),
        "model": " ".join(filter(None, (manifest.model.name, manifest.model.pretrained))),
        "weights_digest": manifest.weights_digest,
    }
    made = export_onnx(classifier, base.preprocessing, about=about)
    with os.fdopen(descriptor, "wb", closefd=False) as file:
        file.write(made.data)
    return {"size": len(made.data), "difference": made.difference}


if __name__ == "__main__":
    main(int(sys.argv[1]), Order(**json.loads(sys.argv[2])))
