from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from app.errors import InferenceError, InvalidRequestError
from app.metrics import Metrics
from app.serving.engine import Engine, Scored
from app.serving.live_model import Served
from app.serving.question import Question, ZeroShot
from segp_cl.runtime.classifier import Features
from segp_cl.scores import probabilities
from segp_cl.types import Path, Scores


@dataclass
class Means:
    """A classifier whose features are an image's mean and one, and which counts the prompts that it encodes."""

    encoded: list[str] = field(default_factory=list)
    passes: list[int] = field(default_factory=list)
    names: tuple[str, ...] = ("dark", "bright")
    moved: bool = False
    untouched_passes: list[int] = field(default_factory=list)

    @property
    def state(self) -> Any:
        classes = tuple(SimpleNamespace(name=name, prompt=f"taught {name}") for name in self.names)
        return SimpleNamespace(class_names=self.names, classes=classes, moves_image_tower=self.moved)

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

    def encode_untouched(self, prompts: Sequence[str]) -> Tensor:
        return self.encode_prompts(prompts)

    def untouched_image_features(self, pixels: Tensor, features: Features) -> Tensor:
        self.untouched_passes.append(len(pixels))
        return features.image

    def open_probabilities(self, taught: Tensor, visual: Tensor, text: Tensor) -> Tensor:
        """Taught classes have three quarters, and all words the same."""
        assert visual.shape == taught.shape
        words = text.shape[1] - taught.shape[1]
        return torch.cat([0.75 * taught, torch.full((len(text), words), 0.25 / words)], dim=1)

    def probabilities(self, scores: Tensor) -> Tensor:
        return probabilities(scores, logit_scale=1.0)

    def weighted_mean(self, fused: Tensor) -> Tensor:
        return fused / 11

    def unknown_scores(self, scores: Scores) -> list[float]:
        return scores.text[:, 1].tolist()

    def class_probabilities(self, scores: Tensor, path: str) -> Tensor:
        return self.answer_probabilities(scores / 11 if path == "fused" else scores, path)

    def answer_probabilities(self, scores: Tensor, path: str) -> Tensor:
        return probabilities(scores, logit_scale=1.0)


def serve(classifier: Means, version: str = "v") -> Served:
    return Served(version, cast(Any, classifier), cast(Any, SimpleNamespace(size=2)))


def image(value: float) -> Tensor:
    return torch.full((3, 2, 2), value)


def ask(engine: Engine, classifier: Means, *words: str, version: str = "v") -> Scored:
    served = serve(classifier, version)
    (scored,) = asyncio.run(engine.label_scores(served, [image(0.5)], question(served, *words)))
    assert isinstance(scored, Scored)
    return scored


def question(
    served: Served,
    *words: str,
    path: Path = "text",
    zero_shot: ZeroShot | None = "untouched",
    with_classes: bool = False,
) -> Question:
    prompts = {word: word for word in words}
    return Question.of(served, prompts, path=path, zero_shot=zero_shot, with_classes=with_classes)


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


def test_a_label_is_encoded_once_by_the_base_model_and_once_per_version_by_its_own_tower(engine: Engine) -> None:
    texts = Means()
    ask(engine, texts, "a", "bb")
    ask(engine, texts, "bb", "a", version="w")
    assert texts.encoded == ["a", "bb"]
    for version in ("v", "w", "v"):
        served = serve(texts, version)
        asyncio.run(engine.label_scores(served, [image(0.5)], question(served, "a", zero_shot="adapted")))
    assert texts.encoded == ["a", "bb", "a", "a"]


def test_classes_beside_words_are_scored_by_their_path_and_ranked_by_probability(engine: Engine) -> None:
    served = serve(Means())
    asked = question(served, "word", "bright", "words", path="fused", with_classes=True)
    assert (asked.labels, asked.rows) == (("word", "bright", "words", "dark"), (None, 1, None, 0))
    assert asked.prompts == ("word", "taught bright", "words", "taught dark")

    (scored,) = asyncio.run(engine.label_scores(served, [image(0.5)], asked))

    assert isinstance(scored, Scored)
    assert scored.text.tolist() == pytest.approx([4, 0.5, 5, -0.5])
    assert scored.visual is not None
    assert scored.visual[[1, 3]].tolist() == pytest.approx([5, -5])
    assert scored.visual[[0, 2]].isnan().all()
    bright = 1 / (1 + math.exp(-1))
    assert scored.probabilities.tolist() == pytest.approx([0.125, 0.75 * bright, 0.125, 0.75 * (1 - bright)])
    assert torch.equal(scored.ranking, scored.probabilities)


def test_classes_alone_are_answered_as_without_labels_and_encode_nothing(engine: Engine) -> None:
    texts = Means()
    served = serve(texts)
    (alone,) = asyncio.run(engine.label_scores(served, [image(0.5)], question(served, "bright", path="visual")))
    assert isinstance(alone, Scored)
    assert (alone.labels, alone.path) == (("bright",), "visual")
    assert alone.ranking.tolist() == pytest.approx([5])
    assert alone.probabilities.tolist() == [1]
    assert texts.encoded == []
    assert texts.untouched_passes == []


def test_the_version_s_own_text_path_takes_classes_for_words(engine: Engine) -> None:
    texts = Means(moved=True)
    served = serve(texts)
    asked = question(served, "bright", "word", zero_shot=None)
    assert (asked.rows, asked.prompts, asked.answered_by) == ((None, None), ("bright", "word"), "text")
    (scored,) = asyncio.run(engine.label_scores(served, [image(0.5)], asked))
    assert isinstance(scored, Scored)
    assert scored.text.tolist() == [6, 4]
    assert texts.untouched_passes == []


def test_only_images_that_are_asked_about_words_pass_the_base_model(engine: Engine) -> None:
    texts = Means(moved=True)
    served = serve(texts)
    asked = question(served, "word", zero_shot="untouched")

    async def scene() -> None:
        images = [image(0.25), image(0.5)]
        await asyncio.gather(engine.scores(served, images, "text"), engine.label_scores(served, images, asked))

    asyncio.run(scene())
    assert sum(texts.passes) == 4
    assert sum(texts.untouched_passes) == 2


def test_words_have_no_visual_path() -> None:
    with pytest.raises(InvalidRequestError, match="no visual prototypes"):
        question(serve(Means()), "bright", "word", path="visual")


def test_words_with_the_same_vector_are_named(engine: Engine) -> None:
    served = serve(Means())
    asked = question(served, "a", "bb", "b", "dark", "cc", "eeee")
    assert asyncio.run(engine.alike(served, asked)) == [["a", "b"], ["bb", "cc"]]
    assert asyncio.run(engine.alike(served, question(served, "dark", "bright"))) == []


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
