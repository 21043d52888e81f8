"""Converts the model's output to a client's answer: the best labels, sets of labels, errors per image, vectors."""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from app.problems import problem_of
from app.schemas import DEFAULT_KNOWN_SHARE, ClassifyResult, Prediction, Problem
from app.serving.answer_ids import answer_id
from app.serving.engine import Scored
from model_store.types import VersionId
from segp_cl.errors import KeepsightError

DECIMALS: Final = 6
"""Of scores and probabilities in JSON, which are float32 and have about seven digits."""
Vector = Tensor
"""An embedding of unit norm, float32 [d]."""


def encoded(vector: Vector, encoding: Literal["float", "base64"]) -> list[float] | str:
    """Return a vector as numbers, or as little-endian float32 in base64."""
    values = vector.to(torch.float32)
    return values.tolist() if encoding == "float" else base64.b64encode(values.numpy().astype("<f4").tobytes()).decode()


@dataclass(frozen=True)
class Wanted:
    """What a client wants to know of each image.

    `least_probability` is that of a label in the prediction set; None: no set, either because none is wanted or because
    the version cannot tell.
    """

    top_k: int
    known_share: float = DEFAULT_KNOWN_SHARE
    least_probability: float | None = None


def predictions(scored: Scored, top_k: int) -> list[Prediction]:
    """Return an image's `top_k` best labels by the requested path; equal scores keep the labels' order.

    Numbers are rounded after they are ranked, so rounding cannot reorder labels.
    """
    best = _ranked(scored)[:top_k]
    columns = (scored.ranking, scored.text, scored.visual, scored.fused, scored.probabilities)
    numbers = [[None] * len(best) if scores is None else _rounded(scores.numpy()[best]) for scores in columns]
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


def label_set(scored: Scored, least_probability: float) -> list[str]:
    """Return the labels whose probability is not less, best first; the best one always."""
    best = _ranked(scored)
    likely = scored.probabilities.numpy()[best] >= least_probability
    return [scored.labels[place] for place in best[: max(1, int(likely.sum()))].tolist()]


def results(
    version_id: VersionId,
    filenames: Sequence[str | None],
    images: Sequence[bytes | KeepsightError],
    slots: Sequence[Scored | Exception],
    wanted: Wanted,
) -> list[ClassifyResult]:
    """Return one result per image, in the order sent."""
    found = [_result(*each, wanted) for each in zip(range(len(slots)), filenames, slots, strict=True)]
    for result, image in zip(found, images, strict=True):
        if result.predictions and isinstance(image, bytes):
            best = result.predictions[0]
            result.id = answer_id(version_id, image, best.label, best.probability)
    return found


def _ranked(scored: Scored) -> npt.NDArray[np.int64]:
    # numpy, because every operator of PyTorch would release the GIL, which another thread then takes
    return np.argsort(-scored.ranking.numpy(), kind="stable")


def _rounded(numbers: npt.NDArray[np.float32]) -> list[float | None]:
    """Return numbers with a few decimals, and None in place of NaN."""
    return [None if math.isnan(number) else round(number, DECIMALS) for number in numbers.tolist()]


def _result(index: int, filename: str | None, slot: Scored | Exception, wanted: Wanted) -> ClassifyResult:
    if isinstance(slot, Exception):
        error = Problem.model_validate(problem_of(slot))
        return ClassifyResult(index=index, filename=filename, predictions=[], error=error)
    strange, least = slot.unknown_score, wanted.least_probability
    return ClassifyResult(
        index=index,
        filename=filename,
        predictions=predictions(slot, wanted.top_k),
        label_set=None if least is None else label_set(slot, least),
        unknown=None if strange is None else strange > wanted.known_share,
        unknown_score=None if strange is None else round(strange, DECIMALS),
        error=None,
    )
