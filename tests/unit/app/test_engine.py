from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from app.errors import BusyError
from app.metrics import Metrics
from app.serving.answers import predictions
from app.serving.engine import Engine, Scored
from app.serving.live_model import Served


@dataclass
class Texts:
    """A classifier whose text tower counts what it encodes."""

    encoded: list[str] = field(default_factory=list)

    def encode_prompts(self, prompts: Sequence[str]) -> Tensor:
        self.encoded.extend(prompts)
        return torch.tensor([[float(len(prompt)), 1.0] for prompt in prompts])

    def label_scores(self, pixels: Tensor, features: Tensor) -> Tensor:
        return features[:, 0].expand(len(pixels), -1)

    def probabilities(self, scores: Tensor) -> Tensor:
        return torch.softmax(scores, -1)


def ask(engine: Engine, texts: Texts, *words: str, version: str = "v") -> Scored:
    served = Served(version, cast(Any, texts), cast(Any, None))
    return asyncio.run(engine.label_scores(served, torch.zeros(1, 3, 2, 2), words, words))


@pytest.fixture
def engine() -> Engine:
    return Engine(queue_size=2, label_cache_size=3, metrics=Metrics())


def test_a_label_is_encoded_once_per_version(engine: Engine) -> None:
    texts = Texts()
    ask(engine, texts, "a", "bb")
    ask(engine, texts, "bb", "a")
    assert texts.encoded == ["a", "bb"]
    ask(engine, texts, "a", version="w")
    assert texts.encoded == ["a", "bb", "a"]


def test_the_label_least_recently_used_is_forgotten_first(engine: Engine) -> None:
    texts = Texts()
    ask(engine, texts, "a", "b", "c")
    ask(engine, texts, "a")
    ask(engine, texts, "d")
    texts.encoded.clear()
    ask(engine, texts, "a", "c", "d")
    assert texts.encoded == []
    ask(engine, texts, "b")
    assert texts.encoded == ["b"]


def test_more_labels_than_the_cache_holds_are_still_answered(engine: Engine) -> None:
    assert ask(engine, Texts(), "a", "bb", "ccc", "dddd").text.tolist() == [[1, 2, 3, 4]]


def test_places_are_given_back_even_after_an_error(engine: Engine) -> None:
    with engine.admit(), engine.admit(), pytest.raises(BusyError), engine.admit():
        pass
    with pytest.raises(ZeroDivisionError), engine.admit():
        raise ZeroDivisionError
    with engine.admit(), engine.admit():
        pass


def test_equal_scores_keep_the_labels_order() -> None:
    text = torch.tensor([[0.5, 0.7, 0.5, 0.7]])
    scored = Scored(("a", "b", "c", "d"), "text", text, None, None, torch.full((1, 4), 0.25))
    assert [p.label for p in predictions(scored, 0, 3)] == ["b", "d", "a"]
