"""What the scores forecast, and what followed: correlations with forgetting, and the order that they suggest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from statistics import fmean, stdev

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import pearsonr, permutation_test, rankdata

from benchmarks.accuracy.contributions.tables import Frozen, Table
from segp_cl.contributions import Modality, forgetting_pairs, suggested_order

RANDOM_ORDERS = 1000
RELABELLINGS = 9999

Matrix = Sequence[Sequence[float]]
_Numbers = NDArray[np.float64]


class Correlation(Frozen):
    """Of a score and of how much accuracy on the old task fell, over pairs of an old task and the one learned.

    A p-value is two-sided, over relabellings of the tasks (Mantel, 1967): pairs that share a task are not independent,
    so that the usual p-value would be too small.
    """

    pairs: int
    pearson: float
    pearson_p: float
    spearman: float
    spearman_p: float


class Orders(Frozen):
    """Summed image-to-text score of consecutive tasks: in the suggested order, in the data set's own, in random ones.

    `suggested` are positions in the data set's order. `below`: the share of random orders whose sum is less.
    """

    suggested: tuple[int, ...]
    score: float
    own: float
    random_orders: int
    random_mean: float
    random_std: float
    random_least: float
    below: float


class Learned(Frozen):
    """A training in one order of tasks. `accuracies[i][j]` is R_ij of that order, a mean over seeds."""

    order: tuple[int, ...]
    suggested: bool
    score: float
    last: float
    forgetting: float
    accuracies: Table


class OverOrders(Frozen):
    """Pearson's r of the summed score and Forgetting over orders, with its p-value and 95 % interval (Fisher's z)."""

    pearson: float
    p: float
    low: float
    high: float


def correlate(scores: Matrix, runs: Sequence[tuple[Sequence[int], Matrix]]) -> Correlation | None:
    """Correlate a score with forgetting, over the pairs of all runs.

    Args:
        scores: of the ordered pair (row, column).
        runs: each an order of tasks and R_ij in that order.

    Returns:
        None where one of the two is the same for all pairs, or there are fewer than three pairs.
    """
    pairs, fallen = _forgotten(runs)
    table = np.array(scores)
    values = table[pairs[:, 0], pairs[:, 1]]
    if len(pairs) < 3 or np.ptp(fallen) == 0 or np.ptp(values) == 0:
        return None
    found: dict[str, float] = {}
    for name, ranked in (("pearson", False), ("spearman", True)):
        after = rankdata(fallen) if ranked else fallen

        def statistic(
            labels: NDArray[np.int64], axis: int = -1, ranked: bool = ranked, after: _Numbers = after
        ) -> _Numbers:
            moved = table[labels[..., pairs[:, 0]], labels[..., pairs[:, 1]]]
            return _pearson(rankdata(moved, axis=-1) if ranked else moved, after)

        tested = permutation_test(
            (np.arange(len(table)),),
            statistic,
            permutation_type="pairings",
            vectorized=True,
            n_resamples=RELABELLINGS,
            rng=np.random.default_rng(0),
        )
        found |= {name: float(tested.statistic), f"{name}_p": float(tested.pvalue)}
    return Correlation.model_validate({"pairs": len(pairs), **found})


def correlate_orders(runs: Sequence[Learned]) -> OverOrders | None:
    """Correlate the summed score with Forgetting over orders; None for fewer than four, or where one is constant."""
    scores, forgetting = [run.score for run in runs], [run.forgetting for run in runs]
    if len(runs) < 4 or len(set(scores)) == 1 or len(set(forgetting)) == 1:
        return None
    found = pearsonr(scores, forgetting)
    interval = found.confidence_interval()
    return OverOrders(
        pearson=float(found.statistic), p=float(found.pvalue), low=float(interval.low), high=float(interval.high)
    )


def correlate_all(
    tables: Mapping[Modality, Table], runs: Sequence[tuple[Sequence[int], Matrix]]
) -> dict[Modality, Correlation | None]:
    """Return the correlation of each score."""
    return {name: correlate(table, runs) for name, table in tables.items()}


def forgotten(scores: Matrix, runs: Sequence[tuple[Sequence[int], Matrix]]) -> tuple[list[float], list[float]]:
    """Return the score and the fall of accuracy of every pair of all runs."""
    pairs, fallen = _forgotten(runs)
    return np.array(scores)[pairs[:, 0], pairs[:, 1]].tolist(), fallen.tolist()


def mean_matrix(matrices: Sequence[Matrix]) -> Table:
    """Return the mean over seeds of R, each entry by itself."""
    return tuple(tuple(line) for line in np.mean(matrices, axis=0).tolist())


def order_score(scores: Matrix, order: Sequence[int]) -> float:
    """Return the summed score of consecutive tasks."""
    return sum(scores[one][other] for one, other in pairwise(order))


def random_orders(tasks: int, count: int) -> list[tuple[int, ...]]:
    """Return `count` random orders, the same ones every time."""
    random = np.random.default_rng(0)
    return [tuple(random.permutation(tasks).tolist()) for _ in range(count)]


def compare_orders(scores: Matrix) -> Orders:
    """Return how the suggested order's summed score compares with that of random orders."""
    tasks = len(scores)
    suggested = suggested_order(torch.tensor(scores))
    best = order_score(scores, suggested)
    sums = [order_score(scores, order) for order in random_orders(tasks, RANDOM_ORDERS)]
    return Orders(
        suggested=suggested,
        score=best,
        own=order_score(scores, range(tasks)),
        random_orders=len(sums),
        random_mean=fmean(sums),
        random_std=stdev(sums),
        random_least=min(sums),
        # sums of the same pairs differ in the last bits
        below=fmean(found < best and not np.isclose(found, best) for found in sums),
    )


def _forgotten(runs: Sequence[tuple[Sequence[int], Matrix]]) -> tuple[NDArray[np.int64], _Numbers]:
    """The pairs as positions in the scores' order, and how much was forgotten of each."""
    pairs, fallen = [], []
    for order, accuracies in runs:
        at, fell = forgetting_pairs(torch.tensor(accuracies))
        pairs.append(np.array(order)[at.numpy()])
        fallen.append(fell.numpy())
    return np.concatenate(pairs), np.concatenate(fallen)


def _pearson(values: _Numbers, after: _Numbers) -> _Numbers:
    values = values - values.mean(axis=-1, keepdims=True)
    after = after - after.mean()
    scale = np.sqrt((values**2).sum(axis=-1) * (after**2).sum())
    found: _Numbers = np.divide(values @ after, scale, out=np.zeros_like(scale), where=scale > 0)
    return found
