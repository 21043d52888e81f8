"""From scores to what a person reads: the best labels of every image, errors in their own slots."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from app.errors import problem_of
from app.schemas import ClassifyResult, Prediction, Problem
from app.serving.engine import Scored
from segp_cl.errors import KeepsightError


def predictions(scored: Scored, row: int, top_k: int) -> list[Prediction]:
    """The `top_k` best labels of image `row` by the path that was asked for; equal scores keep the labels' order."""
    order = torch.sort(scored.ranking[row], descending=True, stable=True).indices[:top_k]
    return [
        Prediction(
            label=scored.labels[i],
            score=float(scored.ranking[row, i]),
            text_score=float(scored.text[row, i]),
            visual_score=None if scored.visual is None else float(scored.visual[row, i]),
            fused_score=None if scored.fused is None else float(scored.fused[row, i]),
            probability=float(scored.probabilities[row, i]),
        )
        for i in order.tolist()
    ]


def results(
    filenames: Sequence[str | None], slots: Sequence[Tensor | KeepsightError], scored: Scored | None, top_k: int
) -> list[ClassifyResult]:
    """One result per image sent, in the order sent. `scored` has a row for every slot that is no error."""
    answered = []
    row = 0
    for index, (filename, slot) in enumerate(zip(filenames, slots, strict=True)):
        if isinstance(slot, KeepsightError):
            error = Problem.model_validate(problem_of(slot))
            answered.append(ClassifyResult(index=index, filename=filename, predictions=[], error=error))
        else:
            assert scored is not None
            best = predictions(scored, row, top_k)
            answered.append(ClassifyResult(index=index, filename=filename, predictions=best, error=None))
            row += 1
    return answered
