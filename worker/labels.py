"""What looks wrong in the labels of a task, told before it is learned: by its own images, each left out in turn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import torch
from torch import Tensor

from exchange.contracts import LabelReport, LikelyWrong, NearlySame
from exchange.spool import SpoolIndex
from segp_cl.data.held_out import Split
from segp_cl.labels import confident_classes, nearly_same
from segp_cl.runtime.classifier import Classifier
from segp_cl.types import Scores
from worker.evaluation import answered
from worker.evidence import evenly
from worker.left_out import leave_one_out
from worker.seen import Seen

OnLabels = Callable[[LabelReport], None]

MOST_LOOKED_AT: Final = 2000
"""Most images of a task whose labels are looked at, evenly from all classes."""
MOST_TOLD: Final = 100
"""Most images, and most pairs, that a report lists."""
NEARLY_SAME: Final = 0.9
"""Least cosine of raw features, around their middle, of what is nearly the same picture; see docs/adr/0041."""


def labels_of(
    classifier: Classifier,
    seen: Seen,
    index: SpoolIndex,
    split: Split,
    *,
    batch_size: int,
    on_batch: Callable[[int, int], None],
    most_told: int = MOST_TOLD,
) -> LabelReport:
    """Return which labels of a task are likely wrong, and which pictures are nearly the same in two classes.

    Probabilities are those of confident learning (arXiv 1911.00068): of a version that did not learn from the image.
    Where it did, the image is left out of the version's statistics in turn.

    Args:
        classifier: of a version that has learned the task in closed form.
        seen: all images of the task, in the order of `index`.
        index: their labels and paths.
        split: which of them the version has learned from.
        batch_size: images per pass.
        on_batch: called with (batches done, batches in all) after each.
        most_told: most images, and most pairs, that are listed.
    """
    looked_at = evenly(index.labels, range(len(index.labels)), MOST_LOOKED_AT)
    held_out = set(split.held_out)
    parts = {
        leave_one_out: tuple(at for at in looked_at if at not in held_out),
        answered: tuple(at for at in looked_at if at in held_out),
    }
    probabilities: list[Tensor] = []
    labels: list[Tensor] = []

    def collect(scores: Scores, truth: Tensor) -> None:
        probabilities.append(classifier.class_probabilities(scores.fused, "fused").cpu().double())
        labels.append(truth)

    for measure, positions in parts.items():
        if positions:
            measure(
                classifier,
                seen.part(positions),
                classes=index.classes,
                batch_size=batch_size,
                on_batch=on_batch,
                on_scores=collect,
            )
    in_turn = [at for part in parts.values() for at in part]
    found, rows = torch.cat(probabilities), torch.cat(labels)
    confident = confident_classes(found, rows)
    names = classifier.state.class_names
    wrong = [
        LikelyWrong(
            path=_path(index, in_turn[at]),
            label=names[rows[at]],
            likely=names[confident.rows[at]],
            label_probability=round(float(found[at, rows[at]]), 4),
            likely_probability=round(float(found[at, confident.rows[at]]), 4),
        )
        for at in confident.wrong.nonzero().flatten().tolist()
    ]
    wrong.sort(key=lambda each: each.label_probability - each.likely_probability)
    same = _nearly_same(classifier, seen, index, looked_at, batch_size)
    return LabelReport(
        images=len(looked_at),
        likely_wrong=tuple(wrong[:most_told]),
        likely_wrong_count=len(wrong),
        nearly_same=tuple(same[:most_told]),
        nearly_same_count=len(same),
    )


def _nearly_same(
    classifier: Classifier, seen: Seen, index: SpoolIndex, positions: Sequence[int], batch_size: int
) -> list[NearlySame]:
    """Return the pairs, but for files that are the same byte for byte, which the upload's own report has."""
    raw = torch.cat(
        [
            seen.by(classifier, positions[start : start + batch_size]).raw.cpu()
            for start in range(0, len(positions), batch_size)
        ]
    )
    labels = torch.tensor([index.labels[at] for at in positions])
    found = []
    for first, second, cosine in nearly_same(raw, labels, least_cosine=NEARLY_SAME):
        one, other = positions[first], positions[second]
        if index.checksums[one] != index.checksums[other]:
            found.append(
                NearlySame(
                    path=_path(index, one),
                    label=index.classes[index.labels[one]],
                    other_path=_path(index, other),
                    other_label=index.classes[index.labels[other]],
                    cosine=round(cosine, 4),
                )
            )
    return found


def _path(index: SpoolIndex, position: int) -> str:
    return index.paths[position] if index.paths else ""
