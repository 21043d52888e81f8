"""`python -m benchmarks.serving.gpu_bare JSON`: images a second of a model's bare forward pass, as JSON.

The weights are in the arithmetic of the pass and the pixels on the device: nothing is decoded, moved or answered.
"""

from __future__ import annotations

import json
import sys
import time
from statistics import median

import torch

from segp_cl.models.backbone import Backbone
from segp_cl.models.load import load_backbone
from segp_cl.types import ModelSpec


def images_per_second(model: Backbone, batch: int, *, dtype: torch.dtype, passes: int, rounds: int) -> float:
    """The median of `rounds` rounds of `passes` passes each, after one that is not counted."""
    size = model.preprocessing.size
    pixels = torch.rand(batch, 3, size, size, device=model.device).to(dtype)
    taken = []
    with torch.inference_mode():
        for _ in range(rounds + 1):
            _wait(model)
            begun = time.perf_counter()
            for _ in range(passes):
                model.raw_features(pixels)
            _wait(model)
            taken.append(time.perf_counter() - begun)
    return batch * passes / median(taken[1:])


def _wait(model: Backbone) -> None:
    if model.device.type == "cuda":
        torch.cuda.synchronize(model.device)


def main() -> None:
    """Print {batch size: images a second}."""
    asked = json.loads(sys.argv[1])
    dtype = getattr(torch, asked["dtype"])
    model = load_backbone(ModelSpec(asked["model"], asked["pretrained"]), device=asked["device"]).to(dtype)
    rates = {
        batch: images_per_second(model, batch, dtype=dtype, passes=asked["passes"], rounds=asked["rounds"])
        for batch in asked["batches"]
    }
    print(json.dumps(rates))


if __name__ == "__main__":
    main()
