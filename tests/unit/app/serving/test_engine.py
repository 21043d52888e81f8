from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from app.errors import InferenceError
from app.metrics import Metrics
from app.serving.engine import Engine, Scored
from app.serving.live_model import Served
from segp_cl.runtime.classifier import Features
from segp_cl.scores import probabilities
from segp_cl.types import Path, Scores


@dataclass
class Means:
    """A classifier whose features are an image's mean and one, and which counts the prompts that it encodes."""

    encoded: list[str] = field(default_factory=list)
    passes: list[int] = field(default_factory=list)
    names: tuple[str, ...] = ("dark", "bright")

    @property
    def state(self) -> Any:
        return SimpleNamespace(class_names=self.names, classes=self.names)

    def features(self, pixels: Tensor) -> Features:
        self.passes.append(len(pixels))
        means = pixels.float().mean(dim=(1, 2, 3))
        features = torch.stack([means, torch.ones_like(means)], dim=1)
        return Features(raw=features, image=features)

    def scores_of(self, features: Features) -> Scores:
        text = features.image @ torch.tensor([[-1.0, 0.0], [1.0, 0.0]]).T
        return Scores(text=text, visual=10 * text, fused=11 * text)

    def encode_prompts(self, prompts: Sequence[str]) -> Tensor:
        self.encoded.extend(prompts)
        return torch.tensor([[0.0, float(len(prompt))] for prompt in prompts])

    def probabilities(self, scores: Tensor) -> Tensor:
        return probabilities(scores, logit_scale=1.0)

    def weighted_mean(self, fused: Tensor) -> Tensor:
        return fused / 11

    def unknown_scores(self, scores: Scores) -> list[float]:
        return scores.text[:, 1].tolist()

    def class_probabilities(self, scores: Tensor, path: str) -> Tensor:
        return probabilities(scores / 11 if path == "fused" else scores, logit_scale=1.0)


def serve(classifier: Means, version: str = "v") -> Served:
    return Served(version, cast(Any, classifier), cast(Any, SimpleNamespace(size=2)))


def image(value: float) -> Tensor:
    return torch.full((3, 2, 2), value)


def ask(engine: Engine, classifier: Means, *words: str, version: str = "v") -> Scored:
    (scored,) = asyncio.run(engine.label_scores(serve(classifier, version), [image(0.5)], words, words))
    assert isinstance(scored, Scored)
    return scored


@pytest.fixture
def engine() -> Iterator[Engine]:
    engine = Engine(max_images=4, max_labels=4, max_wait_s=0, label_cache_size=3, metrics=Metrics())
    yield engine
    engine.close()


@pytest.mark.parametrize(("path", "factor"), [("text", 1), ("visual", 10), ("fused", 1)])
def test_every_image_gets_its_own_row_of_every_path(engine: Engine, path: Path, factor: int) -> None:
    values = [0.1 * n for n in range(6)]
    answers = asyncio.run(engine.scores(serve(Means()), [image(value) for value in values], path))
    for value, scored in zip(values, answers, strict=True):
        assert isinstance(scored, Scored)
        assert scored.visual is not None
        assert scored.fused is not None
        assert (scored.labels, scored.path) == (("dark", "bright"), path)
        assert scored.text.tolist() == pytest.approx([-value, value])
        assert scored.visual.tolist() == pytest.approx([-10 * value, 10 * value])
        assert scored.fused.tolist() == pytest.approx([-value, value])
        assert scored.unknown_score == pytest.approx(value)
        assert scored.ranking.tolist() == pytest.approx([-factor * value, factor * value])
        sharpness = 10 if path == "visual" else 1
        expected = torch.softmax(torch.tensor([-value, value]) * sharpness, 0)
        assert torch.allclose(scored.probabilities, expected)


def test_images_of_several_requests_share_a_pass(engine: Engine) -> None:
    classifier = Means()
    served = serve(classifier)

    async def scene() -> list[Any]:
        asking = (engine.scores(served, [image(n / 8)], "text") for n in range(8))
        return await asyncio.gather(*asking)

    answers = asyncio.run(scene())
    assert [round(float(scored.text[1]) * 8) for (scored,) in answers] == list(range(8))
    assert sum(classifier.passes) == 8
    assert len(classifier.passes) < 8


def test_a_poisoned_image_fails_alone(engine: Engine) -> None:
    images = [image(0.5), torch.zeros(3, 5, 5), image(float("nan")), image(0.25)]
    answers = asyncio.run(engine.scores(serve(Means()), images, "text"))
    assert [round(float(a.text[1]), 2) if isinstance(a, Scored) else type(a) for a in answers] == [
        0.5,
        0.0,
        InferenceError,
        0.25,
    ]


def test_a_version_without_classes_answers_about_any_words(engine: Engine) -> None:
    assert ask(engine, Means(names=()), "a", "bb").text.tolist() == [1, 2]


def test_a_label_is_encoded_once_per_version(engine: Engine) -> None:
    texts = Means()
    ask(engine, texts, "a", "bb")
    ask(engine, texts, "bb", "a")
    assert texts.encoded == ["a", "bb"]
    ask(engine, texts, "a", version="w")
    assert texts.encoded == ["a", "bb", "a"]


def test_the_label_least_recently_used_is_forgotten_first(engine: Engine) -> None:
    texts = Means()
    ask(engine, texts, "a", "b", "c")
    ask(engine, texts, "a")
    ask(engine, texts, "d")
    texts.encoded.clear()
    ask(engine, texts, "a", "c", "d")
    assert texts.encoded == []
    ask(engine, texts, "b")
    assert texts.encoded == ["b"]


def test_more_labels_than_the_cache_holds_are_still_answered(engine: Engine) -> None:
    assert ask(engine, Means(), "a", "bb", "ccc", "dddd").text.tolist() == [1, 2, 3, 4]
