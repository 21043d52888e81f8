"""Computes Last, Avg, BWT, FWT, Forgetting of a matrix of accuracies, which are fractions; compares two versions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from segp_cl.errors import KeepsightError


class MetricsError(KeepsightError):
    """A metric that is not defined for these accuracies: the matrix is malformed, or there is only one task."""


@dataclass(frozen=True)
class AccuracyMatrix:
    """R_ij, the accuracy on task j's test images after task i (both from 0), and the number of those images.

    Every prediction is over all classes seen so far. Row i needs entries for j > i only for `forward_transfer`.

    Raises:
        MetricsError: not square, empty, a count below one, or an accuracy outside [0, 1].
    """

    accuracies: tuple[tuple[float, ...], ...]
    test_images: tuple[int, ...]

    def __post_init__(self) -> None:
        tasks = len(self.test_images)
        rows = [len(row) for row in self.accuracies]
        if tasks == 0 or rows != [tasks] * tasks:
            raise MetricsError(f"expected at least one task and {tasks} x {tasks} accuracies; got rows of {rows}")
        if min(self.test_images) < 1:
            raise MetricsError(f"expected at least one test image for every task; got {list(self.test_images)}")
        for after, row in enumerate(self.accuracies):
            for task, accuracy in enumerate(row):
                if not 0 <= accuracy <= 1:
                    raise MetricsError(f"accuracy on task {task} after task {after} must be in [0, 1]; got {accuracy}")

    @classmethod
    def of(cls, accuracies: Sequence[Sequence[float]], test_images: Sequence[int]) -> AccuracyMatrix:
        """Build the matrix from any nested sequence."""
        return cls(tuple(tuple(float(value) for value in row) for row in accuracies), tuple(test_images))

    @property
    def tasks(self) -> int:
        """The number of tasks."""
        return len(self.test_images)


@dataclass(frozen=True)
class Summary:
    """The five metrics of a run; the last three are None after a single task, where they are not defined."""

    last: float
    average: float
    backward_transfer: float | None
    forward_transfer: float | None
    forgetting: float | None


def seen_accuracy(matrix: AccuracyMatrix, *, after: int) -> float:
    """Compute the accuracy over all classes seen after task `after`; each task counts by its number of images."""
    images = matrix.test_images[: after + 1]
    right = sum(count * accuracy for count, accuracy in zip(images, matrix.accuracies[after], strict=False))
    return right / sum(images)


def last_accuracy(matrix: AccuracyMatrix) -> float:
    """Last: accuracy over all seen classes after the final task."""
    return seen_accuracy(matrix, after=matrix.tasks - 1)


def average_accuracy(matrix: AccuracyMatrix) -> float:
    """Avg: mean over steps of the accuracy over all classes seen so far."""
    return _mean([seen_accuracy(matrix, after=task) for task in range(matrix.tasks)])


def backward_transfer(matrix: AccuracyMatrix) -> float:
    """BWT = mean_{j<t}(R_tj - R_jj). Negative where tasks are forgotten.

    Raises:
        MetricsError: there is only one task.
    """
    r, earlier = matrix.accuracies, _earlier_tasks(matrix, "backward transfer")
    return _mean([r[-1][j] - r[j][j] for j in earlier])


def forward_transfer(matrix: AccuracyMatrix) -> float:
    """FWT = mean_{j>=2} R_{j-1,j} (eq. 33): accuracy on each task just before it is learned.

    Raises:
        MetricsError: there is only one task.
    """
    r, tasks = matrix.accuracies, range(len(_earlier_tasks(matrix, "forward transfer")) + 1)
    return _mean([r[before][task] for before, task in pairwise(tasks)])


def forgetting(matrix: AccuracyMatrix) -> float:
    """Forgetting = mean_{j<t}(max_i R_ij - R_tj) (eq. 34), the maximum over all steps i, so it is never negative.

    Raises:
        MetricsError: there is only one task.
    """
    r, earlier = matrix.accuracies, _earlier_tasks(matrix, "forgetting")
    return _mean([max(row[j] for row in r) - r[-1][j] for j in earlier])


def summarise(matrix: AccuracyMatrix) -> Summary:
    """Compute all five metrics."""
    several = matrix.tasks > 1
    return Summary(
        last=last_accuracy(matrix),
        average=average_accuracy(matrix),
        backward_transfer=backward_transfer(matrix) if several else None,
        forward_transfer=forward_transfer(matrix) if several else None,
        forgetting=forgetting(matrix) if several else None,
    )


def sign_test(wins: int, losses: int) -> float:
    """Return the two-sided p-value of the exact sign test: how likely wins and losses are so unequal by luck alone.

    Images on which two versions are equally right or wrong say nothing and do not count (McNemar's exact test).
    """
    from scipy.stats import binomtest  # here, because it takes as long to import as all the rest of this package

    return float(binomtest(wins, wins + losses).pvalue) if wins + losses else 1.0


def _earlier_tasks(matrix: AccuracyMatrix, metric: str) -> range:
    if matrix.tasks < 2:
        raise MetricsError(f"{metric} compares tasks with each other: it needs at least two, got {matrix.tasks}")
    return range(matrix.tasks - 1)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
