"""`python -m benchmarks.serving.bare`: the model without a server, as fast as a good loop over files makes it.

The same decoding, preparation, forward pass and scores as the server's, with each engine; no HTTP. JSON lines tell it
what to do.
"""

from __future__ import annotations

import json
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import cycle
from pathlib import Path
from statistics import median
from typing import Any, Final

import torch
from torch import Tensor

from benchmarks.serving.child import say
from model_store.store import Store
from segp_cl.data.decoding import decode_image
from segp_cl.data.preprocessing import to_pixels
from segp_cl.models.load import load_backbone
from segp_cl.runtime.classifier import Classifier
from segp_cl.runtime.engines.choose import choose_engine
from segp_cl.runtime.engines.interface import EngineName
from segp_cl.runtime.passes import CPU_CHUNK, PassSettings
from segp_cl.types import ModelSpec

ENGINES: Final[tuple[EngineName, ...]] = ("openvino", "torch")
TOP_K = 5
BATCHES_AHEAD = 2


class Bare:
    """A store's live version on its base model, and the images in memory."""

    def __init__(self, spec: ModelSpec, store: Path, photos: Path, *, threads: int, cache: Path | None = None) -> None:
        torch.set_num_threads(threads)
        base = load_backbone(spec)
        opened = Store(store)
        current = opened.current()
        assert current is not None, f"{store} has a version"
        passes = PassSettings.of(base.device, max_batch_size=CPU_CHUNK, threads=threads)  # the server's own
        state = opened.open(current)
        self._classifiers = {
            wanted: Classifier(
                base, state, engine=choose_engine(base, wanted=wanted, passes=passes, threads=threads, cache=cache)
            )
            for wanted in ENGINES
        }
        ran = {wanted: each.engine for wanted, each in self._classifiers.items()}
        assert all(wanted == name for wanted, name in ran.items()), f"an engine cannot run this model: {ran}"
        self._preprocessing = base.preprocessing
        self._photos = [path.read_bytes() for path in sorted(photos.glob("*.jpg"))]

    def single(self, *, seconds: float, engine: EngineName) -> dict[str, Any]:
        """One image after another, alone: decoded, prepared, run, scored."""
        latencies: list[float] = []
        deadline = time.monotonic() + seconds
        for photo in cycle(self._photos):
            begun = time.perf_counter()
            self._answer([self._pixels(photo)], engine)
            latencies.append(1000 * (time.perf_counter() - begun))
            if time.monotonic() > deadline:
                break
        return {
            "answered": len(latencies),
            "p50_ms": median(latencies),
            "latencies_ms": [round(x, 2) for x in latencies],
        }

    def loop(self, *, seconds: float, batch: int, decoders: int, engine: EngineName) -> dict[str, Any]:
        """Whole batches, decoded by a pool of threads while the batch before runs, until `seconds` have passed.

        The clock starts when the first batch is done, so that filling the pool is not counted.
        """
        with ThreadPoolExecutor(decoders) as pool:
            ahead: deque[Future[Tensor]] = deque()
            order: Iterator[bytes] = cycle(self._photos)

            def next_batch() -> list[Tensor]:
                while len(ahead) < (BATCHES_AHEAD + 1) * batch:
                    ahead.append(pool.submit(self._pixels, next(order)))
                return [ahead.popleft().result() for _ in range(batch)]

            self._answer(next_batch(), engine)
            begun, cpu = time.monotonic(), time.process_time()
            answered = 0
            while not answered or time.monotonic() < begun + seconds:
                self._answer(next_batch(), engine)
                answered += batch
            wall, cpu_s = time.monotonic() - begun, time.process_time() - cpu
            for waiting in ahead:
                waiting.cancel()
        return {"seconds": wall, "answered": answered, "per_s": answered / wall, "cpu_ms": 1000 * cpu_s / answered}

    def _pixels(self, photo: bytes) -> Tensor:
        return to_pixels(decode_image(photo), self._preprocessing)

    def _answer(self, pixels: Sequence[Tensor], engine: EngineName) -> list[list[tuple[str, float]]]:
        """The best labels of every image, with probabilities."""
        classifier = self._classifiers[engine]
        scores = classifier.scores(torch.stack(list(pixels)))
        likely = classifier.class_probabilities(scores.fused, "fused")
        order = torch.sort(scores.fused, descending=True, stable=True).indices[:, :TOP_K]
        names = classifier.state.class_names
        return [
            [(names[i], value) for i, value in zip(best, row[best].tolist(), strict=True)]
            for best, row in zip(order.tolist(), likely, strict=True)
        ]


def main() -> None:
    """Read commands from stdin until it ends."""
    settings = json.loads(sys.argv[1])
    spec = ModelSpec(settings["model"], settings["pretrained"])
    bare = Bare(
        spec,
        Path(settings["store"]),
        Path(settings["photos"]),
        threads=settings["threads"],
        cache=Path(settings["cache"]),
    )
    say(done={})
    for line in sys.stdin:
        command = json.loads(line)
        kind = command.pop("op")
        try:
            say(done=bare.single(**command) if kind == "single" else bare.loop(**command))
        except Exception as error:  # the loop's edge: whoever gave the command is told
            say(error=f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    main()
