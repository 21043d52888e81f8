"""`python -m benchmarks.passes.measure ORDER`: one model's passes, timed in a process of their own."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence

import torch

from segp_cl.models.backbone import Backbone
from segp_cl.models.load import load_backbone
from segp_cl.runtime.engines.choose import choose_engine
from segp_cl.runtime.engines.interface import Engine
from segp_cl.runtime.engines.torch_engine import TorchEngine
from segp_cl.runtime.passes import PassSettings
from segp_cl.runtime.process import set_up_process
from segp_cl.types import ModelSpec

PLAIN, SHARED, OPENVINO = "plain", "shared out", "openvino"


def ways(base: Backbone, threads: int) -> dict[str, Engine]:
    """How passes are run, by name.

    Raises:
        EngineError: OpenVINO is not installed, or cannot run this model.
    """
    return {
        PLAIN: TorchEngine(),
        SHARED: TorchEngine(PassSettings(threads=threads)),
        OPENVINO: choose_engine(base, wanted="openvino", precision="float32", threads=threads),
    }


def measure(spec: ModelSpec, *, threads: int, sizes: Sequence[int], rounds: int) -> dict[str, dict[str, list[float]]]:
    """Milliseconds an image by batch size and way, of every round. The ways take turns, in changing order."""
    torch.set_num_threads(threads)
    base = load_backbone(spec)
    passes = {name: engine.image_pass(base, None) for name, engine in ways(base, threads).items()}
    side = base.preprocessing.size
    found: dict[str, dict[str, list[float]]] = {}
    for size in sizes:
        pixels = torch.randint(0, 256, (size, 3, side, side), dtype=torch.uint8)
        times: dict[str, list[float]] = {name: [] for name in passes}
        for number in range(-1, rounds):  # the first is not counted
            order = list(passes) if number % 2 else list(reversed(passes))
            for name in order:
                with torch.inference_mode():
                    begun = time.perf_counter()
                    passes[name](pixels)
                    spent = 1000 * (time.perf_counter() - begun) / size
                if number >= 0:
                    times[name].append(round(spent, 3))
        found[str(size)] = times
    return found


def main() -> None:
    """Carry out the order in the first argument, and print what was measured as JSON."""
    order = json.loads(sys.argv[1])
    if order["kept"]:
        set_up_process()
    found = measure(ModelSpec(*order["spec"]), threads=order["threads"], sizes=order["sizes"], rounds=order["rounds"])
    print(json.dumps(found))


if __name__ == "__main__":
    main()
