"""Class-incremental learning of given features by every head, and the record of it."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from benchmarks.accuracy.benchmark import Listener
from benchmarks.accuracy.datasets.types import peer_order, usual_tasks
from benchmarks.accuracy.features.file import FeatureSet, Rows
from benchmarks.accuracy.heads.incremental import Incremental, Labelled
from benchmarks.accuracy.heads.kinds import HEADS
from benchmarks.accuracy.rows import UnknownRowError
from segp_cl.data.held_out import drawn_from, hold_out
from segp_cl.metrics import AccuracyMatrix, Summary, summarise

ZERO_SHOT = "zero-shot"
TASKS = 10
HELD_OUT = 0.1


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class FeatureRow(_Frozen):
    """One head on one data set. `accuracies[i][j]` is R_ij for j <= i, `chosen` the setting after the last task."""

    row: str
    accuracies: tuple[tuple[float, ...], ...]
    test_rows: tuple[int, ...]
    chosen: dict[str, float]
    seconds: float

    @property
    def summary(self) -> Summary:
        """Last, Avg, Forgetting and BWT. FWT is not defined: what was not taught is not asked for."""
        tasks = len(self.test_rows)
        square = [[*line, *[0.0] * (tasks - len(line))] for line in self.accuracies]
        return summarise(AccuracyMatrix.of(square, self.test_rows))


class FeatureResult(_Frozen):
    """All heads on one data set. `kept_rows`: rows that settings were chosen on; `held_out`: of the training rows."""

    dataset: str
    classes: int
    tasks: int
    dimensions: int
    train_rows: int
    test_rows: int
    kept_rows: int
    held_out: bool
    rows: tuple[FeatureRow, ...]


class FeatureRecord(_Frozen):
    """`record.json` of `keepsight bench features`."""

    file: str
    digest: str
    """SHA-256 of the file."""
    seed: int
    results: tuple[FeatureResult, ...]
    versions: dict[str, str]


def choose_heads(names: Sequence[str] | None) -> tuple[str, ...]:
    """The rows that were asked for, in the table's order; all if None.

    Raises:
        UnknownRowError: a name that is none of them.
    """
    rows = (ZERO_SHOT, *HEADS)
    unknown = [name for name in names or [] if name not in rows]
    if unknown:
        raise UnknownRowError(f"there is no row {unknown[0]!r}; there are {', '.join(rows)}")
    return tuple(row for row in rows if not names or row in names)


def run_features(
    sets: Sequence[FeatureSet],
    heads: Sequence[str],
    *,
    seed: int,
    tasks: int = TASKS,
    listener: Listener | None = None,
) -> tuple[FeatureResult, ...]:
    """Learn every data set with every head, in the order of classes of seed 1993, and measure after each task.

    Rows that need texts are left out where a data set has none. Where the file sets no rows apart for choosing, a tenth
    of each class's training rows is held out, at least one of two.
    """
    listener = listener or Listener()
    rows = {each.name: [head for head in heads if each.texts is not None or not _needs_texts(head)] for each in sets}
    listener.plan(sum(len(rows[each.name]) * usual_tasks(tasks, each.classes) for each in sets))
    return tuple(_run_set(each, rows[each.name], seed, tasks, listener) for each in sets)


def _needs_texts(head: str) -> bool:
    return head == ZERO_SHOT or HEADS[head].fused


def _run_set(data: FeatureSet, heads: Sequence[str], seed: int, tasks: int, listener: Listener) -> FeatureResult:
    order = torch.tensor(peer_order(data.classes))
    place = torch.empty_like(order)
    place[order] = torch.arange(len(order))
    groups = [len(group) for group in np.array_split(order.numpy(), usual_tasks(tasks, data.classes))]
    ends = np.cumsum(groups).tolist()
    train, test = (Rows(rows.features, place[rows.labels]) for rows in (data.train, data.test))
    if data.kept is None:
        split = hold_out(
            train.labels.tolist(),
            fraction=HELD_OUT,
            min_images=2,
            shuffle=drawn_from(torch.Generator().manual_seed(seed)),
        )
        kept, train = (train.at(_positions(part)) for part in (split.held_out, split.train))
    else:
        kept = Rows(data.kept.features, place[data.kept.labels])
    texts = None if data.texts is None else data.texts[order]
    results = []
    for name in heads:
        listener.begin(f"{data.name}: {name}")
        begun, accuracies, chosen = time.monotonic(), [], {}
        head = None
        if name != ZERO_SHOT:
            head = Incremental(HEADS[name], seed=seed, kept_are_learned=data.kept is None)
        for number, end in enumerate(ends):
            first = end - groups[number]
            seen = test.at((test.labels < end).nonzero()[:, 0])
            known = None if texts is None else texts[:end]
            scores = seen.features.new_zeros(len(seen.labels), end)
            if known is not None and _needs_texts(name):
                scores = seen.features @ known.T
            if head is not None:
                head.learn(_of(train, first, end), _of(kept, first, end), classes=end, texts=known)
                solved = head.solve()
                scores += (solved.fusion_weight if HEADS[name].fused else 1.0) * solved.scores(seen.features)
                chosen = dict(solved.chosen)
            right = (scores.argmax(dim=1) == seen.labels).double()
            starts = [0, *ends[:number]]
            accuracies.append(
                tuple(
                    float(right[(seen.labels >= low) & (seen.labels < high)].mean())
                    for low, high in zip(starts, ends, strict=False)
                )
            )
            listener.task_done()
        counts = torch.bincount(test.labels, minlength=data.classes)
        results.append(
            FeatureRow(
                row=name,
                accuracies=tuple(accuracies),
                test_rows=tuple(int(part.sum()) for part in torch.split(counts, groups)),
                chosen=chosen,
                seconds=time.monotonic() - begun,
            )
        )
    return FeatureResult(
        dataset=data.name,
        classes=data.classes,
        tasks=len(groups),
        dimensions=train.features.shape[1],
        train_rows=len(data.train.labels),
        test_rows=len(test.labels),
        kept_rows=len(kept.labels),
        held_out=data.kept is None,
        rows=tuple(results),
    )


def _of(rows: Rows, first: int, end: int) -> Labelled:
    chosen = rows.at(((rows.labels >= first) & (rows.labels < end)).nonzero()[:, 0])
    return Labelled(chosen.features, chosen.features, chosen.labels)


def _positions(positions: Sequence[int]) -> Tensor:
    return torch.tensor(positions, dtype=torch.int64)
