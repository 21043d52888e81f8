"""Contributions of a data set's tasks, and of features as given, from their images to their records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from benchmarks.accuracy.benchmark import Listener, Options, run_benchmark
from benchmarks.accuracy.contributions.forecast import (
    Correlation,
    Learned,
    Matrix,
    Orders,
    OverOrders,
    compare_orders,
    correlate_all,
    correlate_orders,
    mean_matrix,
    order_score,
    random_orders,
)
from benchmarks.accuracy.contributions.tables import (
    Compared,
    Frozen,
    Table,
    compare,
    sides_of_bench,
    sides_of_rows,
)
from benchmarks.accuracy.datasets import Dataset, DatasetError
from benchmarks.accuracy.datasets.types import peer_order, usual_tasks
from benchmarks.accuracy.features.file import FeatureSet
from benchmarks.accuracy.features.run import FeatureRecord
from benchmarks.accuracy.protocol import make_bench
from benchmarks.accuracy.record import BenchmarkRecord
from benchmarks.accuracy.rows import Row, training_of
from benchmarks.common.machine import library_versions
from benchmarks.common.record import last_components
from segp_cl.contributions import Modality
from segp_cl.models.backbone import Backbone

Correlations = dict[str, dict[Modality, Correlation | None]]
"""By row and by score."""


class Trained(Frozen):
    """One row learned in the suggested order, in the data set's own and in random ones; fractions, means over seeds.

    `settings` are hyper-parameters laid over the defaults.
    """

    row: str
    seeds: int
    train_per_class: int | None
    test_per_class: int | None
    settings: dict[str, Any]
    runs: tuple[Learned, ...]
    correlation: dict[Modality, Correlation | None]
    """Over the pairs of all orders."""
    score_and_forgetting: OverOrders | None


class SetRecord(Frozen):
    """`contributions.json` of a data set. `tasks` are the classes of each; correlations are of the exact scores."""

    dataset: str
    model: str
    train_per_class: int | None
    tasks: tuple[tuple[str, ...], ...]
    scores: Compared
    orders: Orders
    correlation: Correlations
    correlation_exemplar_free: Correlations
    trained: Trained | None
    versions: dict[str, str]


class FeatureSetRecord(Frozen):
    """One set of given features, cut into the tasks of the benchmark of heads."""

    tasks: int
    scores: Compared
    correlation: Correlations
    halves: Compared | None
    """The first and the second half of the classes, in the file's order, where the set has texts."""


class FeaturesRecord(Frozen):
    """`contributions.json` of features as given. `between`: every set as one task."""

    file: str
    digest: str
    sets: dict[str, FeatureSetRecord]
    between: Compared | None
    versions: dict[str, str]


def run_set(
    dataset: Dataset,
    backbone: Backbone,
    work: Path,
    options: Options,
    *,
    measured: BenchmarkRecord | None = None,
    row: tuple[str, Row] | None = None,
    others: int = 2,
    listener: Listener | None = None,
) -> SetRecord:
    """Score all ordered pairs of a data set's tasks, and hold the scores against forgetting.

    Args:
        dataset: cut into tasks as the accuracy benchmark cuts it.
        backbone: the untouched base model.
        work: where finished tasks are kept.
        options: their first seed draws the images that are scored; all seeds are trained with.
        measured: what the accuracy benchmark found on the same tasks.
        row: learned in the suggested order, the data set's own and random ones; None: nothing is learned.
        others: how many random orders.
        listener: is told what happens.

    Raises:
        DatasetError: `measured` is of other tasks; there is one task; tasks of unequal size are to be put in order.
        InvalidSettingError: the options name a hyper-parameter that there is not, or a value that cannot be.
    """
    listener = listener or Listener()
    if dataset.tasks < 2:
        raise DatasetError(f"contributions need two tasks or more, got {dataset.tasks}")
    bench = make_bench(
        dataset,
        backbone.preprocessing,
        seed=options.seeds[0],
        train_per_class=options.train_per_class,
        template=options.template,
    )
    names = tuple(tuple(c.name for c in task.classes) for task in bench.tasks)
    if measured is not None and (measured.protocol.tasks, measured.protocol.classes) != (
        dataset.tasks,
        tuple(name for task in names for name in task),
    ):
        raise DatasetError(f"the record of {measured.protocol.dataset} is of other tasks than those of {dataset.name}")
    listener.plan(dataset.tasks)
    listener.begin("features")
    scores = compare(sides_of_bench(backbone, bench, listener.task_done))
    matrices = matrices_of(measured) if measured else {}
    orders = compare_orders(scores.exact["image_to_text"])
    return SetRecord(
        dataset=dataset.name,
        model=last_components(backbone.spec.name),
        train_per_class=options.train_per_class,
        tasks=names,
        scores=scores,
        orders=orders,
        correlation=_correlations(scores.exact, matrices),
        correlation_exemplar_free=_correlations(scores.exemplar_free, matrices),
        trained=_learn(dataset, backbone, work, options, row, scores, orders, others, listener) if row else None,
        versions=library_versions(backbone.device),
    )


def run_features(
    sets: Sequence[FeatureSet], *, file: str, digest: str, measured: FeatureRecord | None, versions: dict[str, str]
) -> FeaturesRecord:
    """Score the tasks of every set, the halves of those with texts, and the sets against each other.

    Args:
        sets: training rows are scored.
        file: the file's name.
        digest: SHA-256 of the file.
        measured: what heads achieved on the file; None: nothing is held against forgetting.
        versions: of the libraries.

    Raises:
        DatasetError: `measured` is of another file.
    """
    if measured is not None and measured.digest != digest:
        raise DatasetError(f"the record of {measured.file} is of other features than those in {file}")
    found = {}
    for each in sets:
        rows = {result.dataset: result for result in measured.results}.get(each.name) if measured else None
        tasks = rows.tasks if rows else usual_tasks(10, each.classes)
        if tasks < 2:
            continue
        groups = [group.tolist() for group in np.array_split(peer_order(each.classes), tasks)]
        scores = compare(sides_of_rows(each.train, groups, each.texts))
        matrices = {row.row: _square(row.accuracies) for row in rows.rows} if rows else {}
        middle = each.classes // 2
        halves = (range(middle), range(middle, each.classes))
        found[each.name] = FeatureSetRecord(
            tasks=tasks,
            scores=scores,
            correlation=_correlations(scores.exact, matrices),
            halves=None if each.texts is None else compare(sides_of_rows(each.train, halves, each.texts)),
        )
    whole = [sides_of_rows(each.train, [range(each.classes)], None)[0] for each in sets]
    return FeaturesRecord(
        file=file, digest=digest, sets=found, between=compare(whole) if len(whole) > 1 else None, versions=versions
    )


def matrices_of(measured: BenchmarkRecord) -> dict[str, Table]:
    """Return R of every row that learned task by task, its mean over seeds."""
    rows = {row: [record.accuracies for record in measured.of(row)] for row in measured.row_names()}
    return {row: mean_matrix(found) for row, found in rows.items() if len(found[0]) == measured.protocol.tasks}


def _correlations(scores: Mapping[Modality, Table], matrices: Mapping[str, Matrix]) -> Correlations:
    own = range(len(next(iter(scores.values()))))
    return {row: correlate_all(scores, [(own, matrix)]) for row, matrix in matrices.items()}


def _learn(
    dataset: Dataset,
    backbone: Backbone,
    work: Path,
    options: Options,
    named: tuple[str, Row],
    scores: Compared,
    orders: Orders,
    others: int,
    listener: Listener,
) -> Trained:
    name, row = named
    if training_of(row.training).together:
        raise DatasetError(f"{name} learns all tasks at once, so that there is no order to choose")
    if len(dataset.classes) % dataset.tasks:
        raise DatasetError(f"the tasks of {dataset.name} have unequal numbers of classes and cannot change places")
    groups = np.array(dataset.class_order).reshape(dataset.tasks, -1)
    own = tuple(range(dataset.tasks))
    runs = []
    for order in dict.fromkeys([orders.suggested, own, *random_orders(dataset.tasks, others)]):
        cut = replace(dataset, class_order=tuple(groups[list(order)].flatten().tolist()))
        records = run_benchmark(cut, backbone, {name: row}, work, options, listener=listener).rows
        runs.append(
            Learned(
                order=order,
                suggested=order == orders.suggested,
                score=order_score(scores.exact["image_to_text"], order),
                last=fmean(record.summary.last for record in records),
                forgetting=fmean(record.summary.forgetting or 0.0 for record in records),
                accuracies=mean_matrix([record.accuracies for record in records]),
            )
        )
    return Trained(
        row=name,
        seeds=len(options.seeds),
        train_per_class=options.train_per_class,
        test_per_class=options.test_per_class,
        settings=dict(options.settings),
        runs=tuple(runs),
        correlation=correlate_all(scores.exact, [(run.order, run.accuracies) for run in runs]),
        score_and_forgetting=correlate_orders(runs),
    )


def _square(accuracies: Matrix) -> Table:
    """R with zeros for tasks that were not learned yet, which no pair looks at."""
    return tuple((*line, *[0.0] * (len(accuracies) - len(line))) for line in accuracies)
