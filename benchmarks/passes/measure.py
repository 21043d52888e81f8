"""`python -m benchmarks.passes.measure ORDER`: one model's passes, timed in a process of their own."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence

import torch

from segp_cl.models.load import load_backbone
from segp_cl.runtime.packed import pack_model
from segp_cl.runtime.passes import ImagePass, PassSettings
from segp_cl.runtime.process import set_up_process
from segp_cl.types import ModelSpec


def ways(threads: int) -> dict[str, PassSettings]:
    """How passes are run, by name; `both` is the server's way."""
    return {
        "plain": PassSettings(),
        "packed": PassSettings(packed=True),
        "shared out": PassSettings(threads=threads),
        "both": PassSettings(threads=threads, packed=True),
    }


def measure(spec: ModelSpec, *, threads: int, sizes: Sequence[int], rounds: int) -> dict[str, dict[str, list[float]]]:
    """Milliseconds an image by batch size and way, of every round. The ways take turns, in changing order."""
    torch.set_num_threads(threads)
    base = load_backbone(spec)
    plain, packed = base.with_lora(None), base.with_lora(None)
    pack_model(packed, base)
    passes = {
        name: ImagePass(packed if settings.packed else plain, settings) for name, settings in ways(threads).items()
    }
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
