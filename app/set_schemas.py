"""Models of the JSON about test sets, and about what versions answer to them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from app.schemas import PathName
from exchange.contracts import ValidationReport
from model_store.test_sets import NAME_PATTERN, StoredTestSet

SET_NAME = f"^{NAME_PATTERN}$"
"""What the name of a test set is."""


class SetInfo(BaseModel):
    """A test set, without its images."""

    name: str
    digest: str = Field(description="SHA-256 over its classes and the labels and checksums of its images.")
    images: int
    bytes: int
    images_per_class: dict[str, int]
    unknown: list[str] = Field(description="Its labels that the current version does not know.")
    who: str
    reason: str
    added_at: datetime
    expires_at: datetime = Field(description="Then it is removed with its images.")

    @classmethod
    def of(cls, record: StoredTestSet, unknown: Sequence[str]) -> SetInfo:
        """Return what is told of a set; `unknown` are its labels that the current version does not know."""
        return cls.model_validate({**record.model_dump(exclude={"folder"}), "unknown": list(unknown)})


class SetList(BaseModel):
    """The test sets whose time is not over, by name, and how much more may be stored."""

    test_sets: list[SetInfo]
    sets_left: int
    bytes_left: int


class SetDetails(SetInfo):
    """A test set with the checksum and the label of each image, by its number."""

    labels: list[str] = Field(description="The label of each image, by its number.")
    checksums: list[str] = Field(description="The SHA-256 of each image's file, by its number.")


class SetStored(BaseModel):
    """A test set that was stored, and what became of every file of its archive."""

    test_set: SetInfo
    validation: ValidationReport


class EvaluateBody(BaseModel):
    """Measure versions on test sets."""

    model_config = ConfigDict(extra="forbid", strict=True)

    versions: Annotated[list[str], Field(min_length=1, max_length=100)] = Field(
        description="The versions. One that was measured already is not measured again."
    )
    test_set: str | None = Field(None, pattern=SET_NAME, description="The only set to measure on. Default: all.")


class EvaluateAccepted(BaseModel):
    """The job that will measure the versions."""

    job_id: str
    location: str = Field(examples=["/v1/jobs/5f0c1b1f6e1e4c2b9d0b8f0f6a3c2d10"])


class ReportTask(BaseModel):
    """A task of the lineage: a column of the report."""

    task: int
    classes: list[str]
    test_images: int = Field(description="Images of its classes in the test sets.")


class ReportRow(BaseModel):
    """What a version of the lineage has right, of each task: the last one that was made of a task."""

    version_id: str
    tasks: int
    accuracies: list[float | None] = Field(description="On each task; null: not known yet, or not measured.")
    seen: float | None = Field(description="On all images whose class it knows; null: not measured.")
    by_test_set: dict[str, float | None]
    in_part: bool = Field(description="Whether some figures rest on a part of a set, as an instant version's do.")


class Cell(BaseModel):
    """A version that was not measured on a test set."""

    version_id: str
    test_set: str


class Report(BaseModel):
    """How a version came to know what it knows, measured on the test sets: R_ij of the lineage's tasks.

    `last`, `average`, `backward_transfer` and `forgetting` are of the tasks that have test images; null where a cell
    that they need was not measured. `measure` is the command that measures what is missing.
    """

    version_id: str
    path: PathName
    test_sets: list[str]
    tasks: list[ReportTask]
    rows: list[ReportRow]
    last: float | None
    average: float | None
    backward_transfer: float | None
    forgetting: float | None
    not_measured: list[Cell]
    measure: str | None


class Counts(BaseModel):
    """Two versions on the same images, by the fused path."""

    images: int
    wins: int = Field(description="Images that `a` has right and `b` wrong.")
    losses: int = Field(description="Images that `a` has wrong and `b` right.")
    ties: int
    right_a: int
    right_b: int


class SetComparison(Counts):
    """Two versions on one test set, or on all. Images whose label one of them does not know are counted apart."""

    test_set: str | None = Field(description="null: all that are compared.")
    p_value: float = Field(description="Of the exact sign test, two-sided: how likely it is by luck alone.")
    only_a_knows: int
    only_b_knows: int
    in_part: bool = Field(description="Whether one of them was measured on a part of the set.")


class ClassComparison(Counts):
    """Two versions on the images of one class."""

    label: str


class ChangedImage(BaseModel):
    """An image that two versions answer differently. `a` and `b` are their answers; null: none.

    Classes have the names that the newer of the two versions gives them.
    """

    test_set: str
    image: int = Field(description="Its number in the set.")
    sha256: str = Field(description="Of its file.")
    label: str
    a: str | None
    b: str | None


class Cost(BaseModel):
    """What a version cost. Null: not known."""

    bytes: int | None = Field(description="Of its files.")
    update_s: float | None = Field(description="Seconds of the worker that made it.")


class Comparison(BaseModel):
    """Two versions on the same test images. One that lies in several sets under the same label counts once overall.

    `per_class` has the classes with the largest difference first. Lists are cut; the count beside each counts all.
    """

    a: str
    b: str
    overall: SetComparison
    test_sets: list[SetComparison]
    per_class: list[ClassComparison]
    classes: int
    changed: list[ChangedImage]
    changed_count: int
    cost: dict[Literal["a", "b"], Cost]
    not_measured: list[Cell]
    measure: str | None
