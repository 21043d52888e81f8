"""`python -m benchmarks.serving.prepare JSON`: prepare a store's versions one after another, as a server does."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch

from app.serving.live_model import Loader
from model_store.store import Store
from segp_cl.models.load import load_backbone
from segp_cl.runtime.engines.choose import choose_engine
from segp_cl.runtime.passes import PassSettings
from segp_cl.runtime.process import resident_bytes, set_up_server
from segp_cl.types import ModelSpec

MIB = 1 << 20


def measure(order: dict[str, Any]) -> dict[str, Any]:
    """Seconds and memory of every version, all of which stay in memory; what they weigh on disk; and the base's part.

    `convert_s` opens the engine without a cache, `open_engine_s` with one.
    """
    torch.set_num_threads(order["threads"])
    base = load_backbone(ModelSpec(order["model"], order["pretrained"]))
    passes = PassSettings.of(base.device, max_batch_size=32, threads=order["threads"])

    def opened(cache: Path | None) -> tuple[Any, float]:
        begun = time.perf_counter()
        engine = choose_engine(base, wanted="openvino", passes=passes, threads=order["threads"], cache=cache)
        return engine, time.perf_counter() - begun

    _, convert_s = opened(None)
    opened(Path(order["cache"]))
    engine, open_engine_s = opened(Path(order["cache"]))
    store = Store(Path(order["store"]))
    load = Loader(store, base, warm=1000, engine=engine)
    versions = []
    for version in [entry.version_id for entry in store.list()]:
        before, begun = resident_bytes(), time.perf_counter()
        served = load(version)
        seconds = time.perf_counter() - begun
        assert served.classifier.engine == "openvino", "PyTorch had to take over"
        state = served.classifier.state
        moved = [] if state.lora is None else [target for target in state.lora.factors if target.startswith("image.")]
        grown = (resident_bytes() - before) / MIB
        versions.append({"seconds": seconds, "mib": grown, "image_adapters": len(moved)})
    return {"convert_s": convert_s, "open_engine_s": open_engine_s, "versions": versions}


def main() -> None:
    """Carry out the order in the first argument, and print what was measured as JSON."""
    set_up_server()
    print(json.dumps(measure(json.loads(sys.argv[1]))))


if __name__ == "__main__":
    main()
