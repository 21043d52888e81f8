"""Forward passes off the event loop: one at a time, a bounded number in hand.

Batching under load belongs behind the same two methods: they get pixels and the version, and give scores back.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, TypeVar

import torch
from torch import Tensor

from app.errors import BusyError
from app.metrics import Metrics
from app.serving.live_model import Served
from model_store.types import VersionId

T = TypeVar("T")
Path = Literal["fused", "text", "visual"]


@dataclass(frozen=True)
class Scored:
    """Scores of a batch over `labels`, on the CPU. `probabilities` are those of the path that was asked for.

    Ad-hoc labels have no prototypes: then `visual` and `fused` are None.
    """

    labels: tuple[str, ...]
    path: Path
    text: Tensor
    visual: Tensor | None
    fused: Tensor | None
    probabilities: Tensor

    @property
    def ranking(self) -> Tensor:
        """The scores that the path ranks by."""
        scores = {"text": self.text, "visual": self.visual, "fused": self.fused}[self.path]
        assert scores is not None
        return scores


class Engine:
    """Runs the model for requests.

    Args:
        queue_size: requests in hand at once, the running one among them.
        label_cache_size: ad-hoc prompts whose text features are kept, the least recently used leaves first.
        metrics: where passes are timed and the queue is shown.
    """

    def __init__(self, *, queue_size: int, label_cache_size: int, metrics: Metrics) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="inference")
        self._queue_size = queue_size
        self._in_hand = 0
        self._metrics = metrics
        self._labels = _LabelCache(label_cache_size)
        self._answered_at = float("-inf")
        metrics.queue_depth.set_function(lambda: self._in_hand)

    @contextmanager
    def admit(self) -> Iterator[None]:
        """A place for one request, from decoding its images to its answer.

        Raises:
            BusyError: all places are taken.
        """
        if self._in_hand >= self._queue_size:
            raise BusyError(f"{self._in_hand} requests are in hand already, as many as are allowed")
        self._in_hand += 1
        try:
            yield
        finally:
            self._in_hand -= 1

    async def scores(self, served: Served, pixels: Tensor, path: Path) -> Scored:
        """Scores over the version's classes.

        Raises:
            NoClassesError: it has none.
        """
        return await self._run(lambda: _class_scores(served, pixels, path))

    async def label_scores(
        self, served: Served, pixels: Tensor, labels: Sequence[str], prompts: Sequence[str]
    ) -> Scored:
        """Text scores over any words; `prompts` are the sentences that the text tower reads for `labels`."""

        def work() -> Scored:
            features = self._labels.features(served, prompts)
            text = served.classifier.label_scores(pixels, features)
            probabilities = served.classifier.probabilities(text)
            return Scored(tuple(labels), "text", text.cpu(), None, None, probabilities.cpu())

        return await self._run(work)

    async def probe(self, served: Served, *, timeout_s: float, fresh_s: float = 5.0) -> None:
        """Return once an inference was answered within the last `fresh_s` seconds; make one if there was none.

        Raises:
            TimeoutError: it was not answered in time, so the thread that makes them is stuck.
        """
        if time.monotonic() - self._answered_at < fresh_s:
            return
        size = served.preprocessing.size
        pixels = torch.zeros((1, 3, size, size), dtype=torch.uint8)
        await asyncio.wait_for(self._run(lambda: served.classifier.features(pixels)), timeout_s)

    def close(self) -> None:
        """End the thread once it is done."""
        self._pool.shutdown()

    async def _run(self, work: Callable[[], T]) -> T:
        def timed() -> T:
            with self._metrics.inference_seconds.time():
                result = work()
            self._answered_at = time.monotonic()
            return result

        return await asyncio.get_running_loop().run_in_executor(self._pool, timed)


def _class_scores(served: Served, pixels: Tensor, path: Path) -> Scored:
    scores = served.classifier.scores(pixels)
    if path == "fused":
        probabilities = served.classifier.fused_probabilities(scores.fused)
    else:
        probabilities = served.classifier.probabilities(scores.text if path == "text" else scores.visual)
    names = served.classifier.state.class_names
    return Scored(names, path, scores.text.cpu(), scores.visual.cpu(), scores.fused.cpu(), probabilities.cpu())


class _LabelCache:
    """Text features by (version, prompt), used by the one inference thread only."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._features: OrderedDict[tuple[VersionId, str], Tensor] = OrderedDict()

    def features(self, served: Served, prompts: Sequence[str]) -> Tensor:
        rows = []
        for prompt in prompts:
            key = (served.version_id, prompt)
            row = self._features.get(key)
            if row is None:
                # one by one: the last bits of a row must not depend on which others were cached
                row = served.classifier.encode_prompts([prompt])[0]
            self._features[key] = row
            self._features.move_to_end(key)
            rows.append(row)
        while len(self._features) > self._size:
            self._features.popitem(last=False)
        return torch.stack(rows)
