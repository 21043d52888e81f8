"""Converts the model's output to a client's answer: the best labels, errors per image, vectors."""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from app.problems import problem_of
from app.schemas import ClassifyResult, Prediction, Problem
from app.serving.engine import Scored

Vector = Tensor
"""An embedding of unit norm, float32 [d]."""


def encoded(vector: Vector, encoding: Literal["float", "base64"]) -> list[float] | str:
    """Return a vector as numbers, or as little-endian float32 in base64."""
    values = vector.to(torch.float32)
    return values.tolist() if encoding == "float" else base64.b64encode(values.numpy().astype("<f4").tobytes()).decode()


def predictions(scored: Scored, top_k: int) -> list[Prediction]:
    """Return an image's `top_k` best labels by the requested path; equal scores keep the labels' order."""
    # numpy, because every operator of PyTorch would release the GIL, which another thread then takes
    best = np.argsort(-scored.ranking.numpy(), kind="stable")[:top_k]
    columns = (scored.ranking, scored.text, scored.visual, scored.fused, scored.probabilities)
    numbers = [[None] * len(best) if scores is None else _known(scores.numpy()[best].tolist()) for scores in columns]
    return [
        Prediction(
            label=scored.labels[place],
            score=score,
            text_score=text,
            visual_score=visual,
            fused_score=fused,
            probability=probability,
        )
        for place, score, text, visual, fused, probability in zip(best.tolist(), *numbers, strict=True)
    ]


def _known(scores: list[float]) -> list[float | None]:
    """Return scores with None in place of NaN."""
    return [None if math.isnan(score) else score for score in scores]


def results(filenames: Sequence[str | None], slots: Sequence[Scored | Exception], top_k: int) -> list[ClassifyResult]:
    """Return one result per image, in the order sent."""
    return [_result(*each, top_k) for each in zip(range(len(slots)), filenames, slots, strict=True)]


def _result(index: int, filename: str | None, slot: Scored | Exception, top_k: int) -> ClassifyResult:
    if isinstance(slot, Exception):
        error = Problem.model_validate(problem_of(slot))
        return ClassifyResult(index=index, filename=filename, predictions=[], error=error)
    return ClassifyResult(index=index, filename=filename, predictions=predictions(slot, top_k), error=None)
