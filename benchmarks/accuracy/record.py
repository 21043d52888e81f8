"""What a benchmark writes down: one record per row and seed, and what follows from them. JSON on disk, nothing else."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict

from segp_cl.metrics import AccuracyMatrix, Summary, summarise


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Drift(_Frozen):
    """Jensen-Shannon divergence (nats) of the cross-modal distribution over C_<t before and after each update.

    Images of old classes are split at the median margin between their own text and the nearest other one, both before
    the update: `near` is the half next to the boundary. `near` and `far` are counts over `edges` (len(edges) - 1 bins).
    """

    near_mean: float
    far_mean: float
    edges: tuple[float, ...]
    near: tuple[int, ...]
    far: tuple[int, ...]


class Retention(_Frozen):
    """Zero-shot accuracy on another data set by the text path: the untouched model's, and after the last task."""

    dataset: str
    images: int
    before: float
    after: float


class RowRecord(_Frozen):
    """One row of the table for one seed.

    `accuracies[i][j]` is R_ij: accuracy on task j's test images after task i. A class that was not yet taught is asked
    for as a label, by the text path. `global_accuracies[i]`: after task i, text path, all classes, all test images.
    `fusion_weights[i]`: beta of the version after task i, where the row's path is fused.
    """

    row: str
    seed: int
    accuracies: tuple[tuple[float, ...], ...]
    test_images: tuple[int, ...]
    global_accuracies: tuple[float, ...]
    seconds: tuple[float, ...]
    settings: dict[str, object]
    fusion_weights: tuple[float, ...] = ()
    drift: Drift | None = None
    retention: Retention | None = None

    @property
    def matrix(self) -> AccuracyMatrix:
        return AccuracyMatrix.of(self.accuracies, self.test_images)

    @property
    def summary(self) -> Summary:
        return summarise(self.matrix)


class Protocol(_Frozen):
    """What all rows have in common."""

    dataset: str
    tasks: int
    classes: tuple[str, ...]
    class_order: tuple[int, ...]
    class_order_seed: int
    train_images: int
    test_images: int
    train_per_class: int | None
    test_per_class: int | None
    template: str
    model: str
    pretrained: str | None
    weights_digest: str
    data_digest: str
    evaluated_on: str
    """`test`, or `validation`: a slice of the training images that was kept back."""


class BenchmarkRecord(_Frozen):
    """A whole benchmark: `docs/results/<dataset>/record.json`."""

    protocol: Protocol
    rows: tuple[RowRecord, ...]
    """By row, then by seed, in the order of the table."""
    versions: dict[str, str]
    """Of Python, torch, open_clip, Keepsight and the machine's processor."""

    def row_names(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(record.row for record in self.rows))

    def of(self, row: str) -> Sequence[RowRecord]:
        return [record for record in self.rows if record.row == row]
