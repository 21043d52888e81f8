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
from app.serving.question import Question
from model_store.types import VersionId
from segp_cl.runtime.classifier import Features
from segp_cl.scores import text_scores
from segp_cl.types import Path

SAME_WITHIN = 1e-5
"""Distance of unit vectors up to which they are taken to be the same; rounding gives about 1e-6."""


@dataclass(frozen=True)
class Scored:
    """One image's scores over `labels`, on the CPU. `probabilities` are those of the requested path.

    `fused` is the weighted mean of the two others. Words have no prototypes: `visual` and `fused` are None, or have NaN
    for them beside classes. `mixed`: the labels are of both kinds, whose scores cannot be compared, so that
    probabilities rank. `unknown_score` is the share of images of known classes that look less strange; None if that
    cannot be told.
    """

    labels: tuple[str, ...]
    path: Path
    text: Tensor
    visual: Tensor | None
    fused: Tensor | None
    probabilities: Tensor
    mixed: bool = False
    unknown_score: float | None = None

    @property
    def ranking(self) -> Tensor:
        """The scores that the path ranks by."""
        if self.mixed:
            return self.probabilities
        scores = {"text": self.text, "visual": self.visual, "fused": self.fused}[self.path]
        assert scores is not None
        return scores


@dataclass(frozen=True)
class _Item:
    """An image's pixels, and whether the base model's features of it are wanted too."""

    pixels: Tensor
    untouched: bool = False


@dataclass(frozen=True)
class _Answer:
    """A pass's output for one image: features [d] in the joint space; scores and probabilities [classes] by path.

    Both mappings are empty if the version has no classes. `untouched` are the base model's features.
    """

    image: Tensor
    untouched: Tensor | None
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
            text, visual, fused = (answer.scores[name] for name in ("text", "visual", "fused"))
            return Scored(names, path, text, visual, fused, probabilities=likely, unknown_score=answer.unknown_score)

        return [scored(answer) for answer in await self._run(served, pixels)]

    async def label_scores(
        self, served: Served, pixels: Sequence[Tensor], question: Question
    ) -> list[Scored | Exception]:
        """Return every image's scores over the labels of a question.

        Raises:
            StoppingError: the server is stopping.
        """
        answers, features = await asyncio.gather(
            self._run(served, pixels, untouched=bool(question.new) and question.untouched),
            self._features(served, question),
        )
        scored = iter(_over_labels(served, [a for a in answers if isinstance(a, _Answer)], question, features))
        return [next(scored) if isinstance(answer, _Answer) else answer for answer in answers]

    async def alike(self, served: Served, question: Question) -> list[list[str]]:
        """Return groups of words that the text tower gives one vector, so that no image can tell them apart.

        Raises:
            StoppingError: the server is stopping.
        """
        if len(question.new) < 2:
            return []
        features = await self._features(served, question)
        return _same([question.labels[place] for place in question.new], features[question.new])

    async def image_embeddings(self, served: Served, pixels: Sequence[Tensor]) -> list[Tensor | Exception]:
        """Return every image's unit vector [d] in the joint space, or its error.

        Raises:
            StoppingError: the server is stopping.
        """
        answers = await self._run(served, pixels)
        return [answer.image if isinstance(answer, _Answer) else answer for answer in answers]

    async def text_embeddings(self, served: Served, texts: Sequence[str]) -> list[Tensor | Exception]:
        """Return every text's unit vector [d] in the joint space. Texts are encoded without a template.

        Raises:
            StoppingError: the server is stopping.
        """
        return await self._prompts.run(_TextTower(served, untouched=False), texts)

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
            (answer,) = await self._run(served, [pixels])
        if isinstance(answer, Exception):
            raise answer

    def close(self) -> None:
        """Run the waiting items, then end the threads."""
        self._images.close()
        self._prompts.close()

    async def _run(
        self, served: Served, pixels: Sequence[Tensor], *, untouched: bool = False
    ) -> list[_Answer | Exception]:
        return await self._images.run(served, [_Item(each, untouched) for each in pixels])

    async def _features(self, served: Served, question: Question) -> Tensor:
        """Return the text features [labels, d] of all labels; classes among themselves need none."""
        if not question.new:
            return torch.empty(0)
        prompts = question.prompts
        # the base model's are the same for all versions
        of = None if question.untouched else served.version_id
        known = self._labels.get(of, prompts)
        missing = [prompt for prompt in dict.fromkeys(prompts) if prompt not in known]
        tower = _TextTower(served, question.untouched)
        for prompt, row in zip(missing, await self._prompts.run(tower, missing), strict=True):
            if isinstance(row, Exception):
                raise row
            known[prompt] = row
        self._labels.put(of, known)
        return torch.stack([known[prompt] for prompt in prompts])

    def _pass(self, served: Served, items: Sequence[_Item]) -> Sequence[_Answer | Exception]:
        classifier = served.classifier
        pixels = torch.stack([item.pixels for item in items])
        features = classifier.features(pixels)
        untouched: list[Tensor | None] = [None] * len(items)
        wanted = [place for place, item in enumerate(items) if item.untouched]
        if wanted:
            some = Features(raw=features.raw[wanted], image=features.image[wanted])
            for place, row in zip(wanted, classifier.untouched_image_features(pixels[wanted], some).cpu(), strict=True):
                untouched[place] = row
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
            _Answer(
                vector,
                untouched[row],
                _row(scores, row),
                _row(probabilities, row),
                None if strange is None else strange[row],
            )
            if finite[row]
            else InferenceError("the model's features of this image are not finite")
            for row, vector in enumerate(image.unbind())
        ]

    def _observe(self, size: int, seconds: float) -> None:
        self._metrics.inference_seconds.observe(seconds)
        self._metrics.batch_size.observe(size)


def _row(by_path: Mapping[str, Sequence[Tensor]], row: int) -> dict[str, Tensor]:
    return {path: rows[row] for path, rows in by_path.items()}


@dataclass(frozen=True)
class _TextTower:
    """A version's text tower, or the base model's."""

    served: Served
    untouched: bool


def _encode(tower: _TextTower, prompts: Sequence[str]) -> Sequence[Tensor]:
    classifier = tower.served.classifier
    return list((classifier.encode_untouched if tower.untouched else classifier.encode_prompts)(prompts).cpu())


def _over_labels(served: Served, answers: Sequence[_Answer], question: Question, features: Tensor) -> list[Scored]:
    """Return the scores of images over a question's labels. `features` are those of its prompts, if it has words."""
    if not answers:
        return []
    classifier, path, rows = served.classifier, question.path, question.taught_rows
    if not question.new:
        of = {each: torch.stack([answer.scores[each] for answer in answers])[:, rows] for each in get_args(Path)}
        likely = classifier.answer_probabilities(of[path], path)
        return [
            Scored(question.labels, path, *each)
            for each in zip(of["text"], of["visual"], of["fused"], likely, strict=True)
        ]
    images = torch.stack([answer.image if answer.untouched is None else answer.untouched for answer in answers])
    text = text_scores(images, features)
    if not rows:
        likely = classifier.probabilities(text)
        return [
            Scored(question.labels, "text", of_text, None, None, of_all)
            for of_text, of_all in zip(text, likely, strict=True)
        ]
    of = {each: torch.stack([answer.scores[each] for answer in answers])[:, rows] for each in get_args(Path)}
    both = [*question.taught, *question.new]
    likely = torch.empty_like(text)
    likely[:, both] = classifier.open_probabilities(
        classifier.answer_probabilities(of[path], path), of["visual"], text[:, both]
    )
    without = torch.full_like(text, torch.nan)
    columns = {"text": text, "visual": without, "fused": without.clone()}
    for each, scores in of.items():
        columns[each][:, question.taught] = scores
    return [
        Scored(question.labels, path, *each, mixed=True)
        for each in zip(columns["text"], columns["visual"], columns["fused"], likely, strict=True)
    ]


def _same(labels: Sequence[str], features: Tensor) -> list[list[str]]:
    """Return groups of labels with the same features up to rounding."""
    # the same vectors become neighbours, where a product of all pairs would hold up the event loop
    order = (features @ torch.linspace(1, 2, features.shape[1])).argsort(stable=True)
    ordered = features[order]
    equal = ((ordered[1:] - ordered[:-1]).norm(dim=1) < SAME_WITHIN).tolist()
    groups: list[list[int]] = []
    for place, (position, like_the_last) in enumerate(zip(order.tolist(), [False, *equal], strict=True)):
        if like_the_last and place:
            groups[-1].append(position)
        else:
            groups.append([position])
    return sorted([labels[position] for position in sorted(group)] for group in groups if len(group) > 1)


class _LabelCache:
    """Text features by (version, prompt), those of the base model under None. Used by the event loop only."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._features: OrderedDict[tuple[VersionId | None, str], Tensor] = OrderedDict()

    def get(self, version_id: VersionId | None, prompts: Sequence[str]) -> dict[str, Tensor]:
        """Return those of `prompts` that are known."""
        found = {prompt: self._features.get((version_id, prompt)) for prompt in prompts}
        return {prompt: row for prompt, row in found.items() if row is not None}

    def put(self, version_id: VersionId | None, features: Mapping[str, Tensor]) -> None:
        """Remember features as most recently used."""
        for prompt, row in features.items():
            self._features[version_id, prompt] = row
            self._features.move_to_end((version_id, prompt))
        while len(self._features) > self._size:
            self._features.popitem(last=False)
