"""Runs the model for requests. Images of all requests share batches; ad-hoc labels have their own queue."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import get_args

import torch
from torch import Tensor

from app.errors import InferenceError
from app.metrics import Metrics
from app.serving.batcher import Batcher
from app.serving.live_model import Served
from model_store.types import VersionId
from segp_cl.scores import text_scores
from segp_cl.types import Path


@dataclass(frozen=True)
class Scored:
    """One image's scores over `labels`, on the CPU. `probabilities` are those of the requested path.

    `fused` is the weighted mean of the two others. Ad-hoc labels have no prototypes, so `visual` and `fused` are None.
    `unknown_score` is the share of images of known classes that look less strange; None if that cannot be told.
    """

    labels: tuple[str, ...]
    path: Path
    text: Tensor
    visual: Tensor | None
    fused: Tensor | None
    probabilities: Tensor
    unknown_score: float | None = None

    @property
    def ranking(self) -> Tensor:
        """The scores that the path ranks by."""
        scores = {"text": self.text, "visual": self.visual, "fused": self.fused}[self.path]
        assert scores is not None
        return scores


@dataclass(frozen=True)
class _Answer:
    """A pass's output for one image: features [d] in the joint space; scores and probabilities [classes] by path.

    Both mappings are empty if the version has no classes.
    """

    image: Tensor
    scores: Mapping[str, Tensor]
    probabilities: Mapping[str, Tensor]
    unknown_score: float | None


class Engine:
    """Runs the model for requests.

    Args:
        max_images: most images of one forward pass.
        passes_ahead: full passes that may start while another runs, so that no thread idles at its end.
        max_labels: most ad-hoc labels of one forward pass.
        max_wait_s: how long a batch that is not full waits for more.
        label_cache_size: most ad-hoc prompts whose text features are kept; the least recently used go first.
        metrics: records passes and the length of the queue.
    """

    def __init__(
        self,
        *,
        max_images: int,
        max_labels: int,
        max_wait_s: float,
        label_cache_size: int,
        metrics: Metrics,
        passes_ahead: int = 0,
    ) -> None:
        self._answered_at = float("-inf")
        self._metrics = metrics
        self._images = Batcher(
            self._pass,
            name="inference",
            max_batch_size=max_images,
            max_wait_s=max_wait_s,
            ahead=passes_ahead,
            observe=self._observe,
        )
        self._prompts = Batcher(_encode, name="labels", max_batch_size=max_labels)
        self._labels = _LabelCache(label_cache_size)
        metrics.queue_depth.set_function(lambda: self._images.waiting)

    async def scores(self, served: Served, pixels: Sequence[Tensor], path: Path) -> list[Scored | Exception]:
        """Return every image's scores over the version's classes (one at least), or its error.

        Raises:
            StoppingError: the server is stopping.
        """
        names = served.classifier.state.class_names

        def scored(answer: _Answer | Exception) -> Scored | Exception:
            if isinstance(answer, Exception):
                return answer
            likely = answer.probabilities[path]
            return Scored(names, path, **answer.scores, probabilities=likely, unknown_score=answer.unknown_score)

        return [scored(answer) for answer in await self._images.run(served, pixels)]

    async def label_scores(
        self, served: Served, pixels: Sequence[Tensor], labels: Sequence[str], prompts: Sequence[str]
    ) -> list[Scored | Exception]:
        """Return every image's text scores over any words; `prompts` are what the text tower reads for `labels`.

        Raises:
            StoppingError: the server is stopping.
        """
        answers, features = await asyncio.gather(self._images.run(served, pixels), self._features(served, prompts))
        images = [answer.image for answer in answers if isinstance(answer, _Answer)]
        text = text_scores(torch.stack(images) if images else features[:0], features)
        rows = iter(zip(text, served.classifier.probabilities(text), strict=True))

        def scored(answer: _Answer | Exception) -> Scored | Exception:
            if isinstance(answer, Exception):
                return answer
            scores, likely = next(rows)
            return Scored(tuple(labels), "text", scores, None, None, likely)

        return [scored(answer) for answer in answers]

    async def image_embeddings(self, served: Served, pixels: Sequence[Tensor]) -> list[Tensor | Exception]:
        """Return every image's unit vector [d] in the joint space, or its error.

        Raises:
            StoppingError: the server is stopping.
        """
        answers = await self._images.run(served, pixels)
        return [answer.image if isinstance(answer, _Answer) else answer for answer in answers]

    async def text_embeddings(self, served: Served, texts: Sequence[str]) -> list[Tensor | Exception]:
        """Return every text's unit vector [d] in the joint space. Texts are encoded without a template.

        Raises:
            StoppingError: the server is stopping.
        """
        return await self._prompts.run(served, texts)

    async def probe(self, served: Served, *, timeout_s: float, fresh_s: float = 5.0) -> None:
        """Return if an inference was answered within the last `fresh_s` seconds; otherwise run one.

        Raises:
            TimeoutError: it was not answered in time: the inference thread is stuck.
        """
        if time.monotonic() - self._answered_at < fresh_s:
            return
        size = served.preprocessing.size
        pixels = torch.zeros((3, size, size), dtype=torch.uint8)
        async with asyncio.timeout(timeout_s):
            (answer,) = await self._images.run(served, [pixels])
        if isinstance(answer, Exception):
            raise answer

    def close(self) -> None:
        """Run the waiting items, then end the threads."""
        self._images.close()
        self._prompts.close()

    async def _features(self, served: Served, prompts: Sequence[str]) -> Tensor:
        known = self._labels.get(served.version_id, prompts)
        missing = [prompt for prompt in prompts if prompt not in known]
        for prompt, row in zip(missing, await self._prompts.run(served, missing), strict=True):
            if isinstance(row, Exception):
                raise row
            known[prompt] = row
        self._labels.put(served.version_id, known)
        return torch.stack([known[prompt] for prompt in prompts])

    def _pass(self, served: Served, pixels: Sequence[Tensor]) -> Sequence[_Answer | Exception]:
        classifier = served.classifier
        features = classifier.features(torch.stack(list(pixels)))
        # one unbind per tensor: every operator of PyTorch releases the GIL, which another thread then takes
        scores: dict[str, Sequence[Tensor]] = {}
        probabilities: dict[str, Sequence[Tensor]] = {}
        strange: Sequence[float] | None = None
        if served.classes:
            of_path = classifier.scores_of(features)
            strange = classifier.unknown_scores(of_path)
            for path in get_args(Path):
                rows = getattr(of_path, path).cpu()
                scores[path] = (classifier.weighted_mean(rows) if path == "fused" else rows).unbind()
                probabilities[path] = classifier.class_probabilities(rows, path).unbind()
        image = features.image.cpu()
        finite = image.isfinite().all(dim=1).tolist()
        self._answered_at = time.monotonic()
        return [
            _Answer(vector, _row(scores, row), _row(probabilities, row), None if strange is None else strange[row])
            if finite[row]
            else InferenceError("the model's features of this image are not finite")
            for row, vector in enumerate(image.unbind())
        ]

    def _observe(self, size: int, seconds: float) -> None:
        self._metrics.inference_seconds.observe(seconds)
        self._metrics.batch_size.observe(size)


def _row(by_path: Mapping[str, Sequence[Tensor]], row: int) -> dict[str, Tensor]:
    return {path: rows[row] for path, rows in by_path.items()}


def _encode(served: Served, prompts: Sequence[str]) -> Sequence[Tensor]:
    return list(served.classifier.encode_prompts(prompts).cpu())


class _LabelCache:
    """Text features by (version, prompt), used by the event loop only."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._features: OrderedDict[tuple[VersionId, str], Tensor] = OrderedDict()

    def get(self, version_id: VersionId, prompts: Sequence[str]) -> dict[str, Tensor]:
        """Return those of `prompts` that are known."""
        found = {prompt: self._features.get((version_id, prompt)) for prompt in prompts}
        return {prompt: row for prompt, row in found.items() if row is not None}

    def put(self, version_id: VersionId, features: Mapping[str, Tensor]) -> None:
        """Remember features as most recently used."""
        for prompt, row in features.items():
            self._features[version_id, prompt] = row
            self._features.move_to_end((version_id, prompt))
        while len(self._features) > self._size:
            self._features.popitem(last=False)
