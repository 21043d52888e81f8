"""The store's records, as frozen data, and its errors. Needs no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final, Literal, get_args

from pydantic import AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field, JsonValue

from segp_cl.class_edits import ClassEdit
from segp_cl.errors import KeepsightError

Format = Literal["keepsight-version/1", "keepsight-version/2", "keepsight-version/3"]
FORMATS: Final = get_args(Format)
"""The formats that are read. Release 0.1.0 writes the first and reads no other; in the second, a version may hold a
covariance, adapters of the head, and golden answers; in the third, sums in place of the covariance, and a
calibration."""
FORMAT: Final = "keepsight-version/3"
"""The format that is written."""
MANIFEST_FILE = "manifest.json"
TENSORS_FILE = "tensors.safetensors"

VersionId = str
"""`000007-0123456789ab`: the number of the version, and the first 12 hex digits of its content digest."""

Made = Literal["instant", "trained", "merged", "edited", "corrected"]
"""How a version was made: of its parent and a task in closed form, or by training; of two versions, its parents; of its
parent by an edit of its classes; or of its parent and corrections of its answers."""
INSTANT: Final[tuple[Made, ...]] = ("instant", "corrected")
"""How those are made that are put on top of CURRENT at once while their images are spooled."""
PUT_AGAIN: Final[tuple[Made, ...]] = (*INSTANT, "edited")
"""What is put on top of CURRENT, and again on top of a version that was trained meanwhile: one for each parent."""

Action = Literal[
    "publish",
    "hold",
    "promote",
    "rollback",
    "prune",
    "pin",
    "unpin",
    "recover",
    "gate",
    "put_test_set",
    "remove_test_set",
]
"""What a journal line records. `recover` explains what an interrupted process left; see `JournalEntry`."""


class StoreError(KeepsightError):
    """The store refuses an operation, or its folder cannot be read or written."""


class StoreFullError(StoreError):
    """No space (or quota) is left. Nothing was published or moved."""


class StoreBusyError(StoreError):
    """Another process held a lock of the store for longer than the caller waited."""


class DamagedPointerError(StoreError):
    """CURRENT is there and does not name a version. A rollback to a named version repairs it."""


class InvalidVersionIdError(StoreError):
    """A text that is not a version id. Raised before the disk is touched."""

    def __init__(self, text: str) -> None:
        super().__init__(f"{text[:80]!r} is not a version id; expected one like '000007-0123456789ab'")


class InvalidStateError(StoreError):
    """A learned state that must not be published: shapes that disagree, or values that are not finite."""


class VersionNotFoundError(StoreError):
    """There is no such version."""

    def __init__(self, version_id: VersionId) -> None:
        self.version_id = version_id
        super().__init__(f"there is no version {version_id} in the store")


class NoCommonAncestorError(StoreError):
    """Two versions cannot be merged, because it cannot be told what each has learned that the other has not."""


class NothingToRollBackToError(StoreError):
    """CURRENT is not set, or is a version without a parent."""


class CorruptVersionError(StoreError):
    """A version's bytes are not what was published. `file` is the file's name, `problem` what differs."""

    def __init__(self, version_id: VersionId, file: str, problem: str) -> None:
        self.version_id = version_id
        self.file = file
        self.problem = problem
        super().__init__(f"version {version_id} is corrupt: {file}: {problem}")


class ConflictError(StoreError):
    """Compare-and-swap failed: CURRENT is `actual`, the caller expected `expected`. Nothing moved."""

    def __init__(self, expected: VersionId | None, actual: VersionId | None) -> None:
        self.expected = expected
        self.actual = actual
        super().__init__(f"CURRENT is {actual or 'not set'}, expected {expected or 'it not to be set'}; nothing moved")


class HeldError(StoreError):
    """The gate held the version when it was published, and CURRENT was never moved to it. Nothing moved.

    `reasons` are those of the gate, and a member of the problem document.
    """

    def __init__(self, version_id: VersionId, reasons: Sequence[str]) -> None:
        self.version_id = version_id
        self.reasons = tuple(reasons)
        self.extensions: Mapping[str, Any] = {"held_because": list(reasons)}
        super().__init__(
            f"version {version_id} is held: {'; '.join(reasons)}; promote it with `anyway` and a reason to serve it"
        )


class NoSuchTestSetError(StoreError):
    """There is no test set of this name, or its time is over; None: there is none at all."""

    def __init__(self, name: str | None) -> None:
        super().__init__("there are no test sets" if name is None else f"there is no test set {name[:80]!r}")


class ExistingTestSetError(StoreError):
    """Another test set has this name, and it was not to be replaced."""

    def __init__(self, name: str) -> None:
        super().__init__(f"there is a test set {name!r} already; nothing was changed")


class NoRoomForTestSetError(StoreError):
    """The test set is larger than one may be, or there is no room beside the others. Nothing was stored."""


class InvalidTestSetNameError(StoreError):
    """A text that is not the name of a test set. Raised before the disk is touched."""

    def __init__(self, text: str) -> None:
        super().__init__(
            f"{text[:80]!r} is not the name of a test set; expected 1 to 64 of a-z, 0-9, '.', '_' and '-', "
            "beginning with a letter or digit"
        )


class CorruptTestSetError(StoreError):
    """A test set's bytes are not what was stored."""

    def __init__(self, name: str, file: str, problem: str) -> None:
        super().__init__(f"the test set {name} is corrupt: {file}: {problem}")


class MovedMeanwhileError(ConflictError):
    """CURRENT is what was expected, but it was moved away and back since the caller looked. Nothing moved."""

    def __init__(self, actual: VersionId | None) -> None:
        super().__init__(actual, actual)
        self.args = (f"CURRENT was moved and is {actual or 'not set'} again since this move began; nothing moved",)


def _plain(value: Any) -> Any:
    """Convert to JSON's types: mappings to dicts, sequences to lists, NaN and infinities (which JSON lacks) to null."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str | bytes | bytearray):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


JsonObject = Annotated[dict[str, JsonValue], BeforeValidator(_plain)]
"""Any mapping of JSON values; tuples become lists, and numbers that are not finite become null."""


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", from_attributes=True)


class ModelRecord(_Record):
    """The base model as the user named it."""

    name: str
    pretrained: str | None = None


class PreprocessingRecord(_Record):
    """How images become pixels for the base model; built from any object with these attributes."""

    size: int = Field(ge=1, description="Pixels of the square's side.")
    mean: tuple[float, float, float] = Field(description="Per channel, of [0, 1] pixels.")
    std: tuple[float, float, float] = Field(description="Per channel, of [0, 1] pixels.")
    interpolation: str
    resize: str = Field("shortest", description="Which side becomes `size`: the shorter one, or both (squash).")


class ClassRecord(_Record):
    """One learned class. The order of the records is the order of the tensors' rows."""

    name: str
    prompt: str
    task: int = Field(description="1-based task that introduced it.")
    images: int = Field(description="All images it was taught with.")


class LoraRecord(_Record):
    """The adapters' shape. Every adapted weight has the tensors `lora.<target>.a` and `lora.<target>.b`."""

    rank: int = Field(description="Of the towers' adapters. The head's have one of their own.")
    scale: float
    adapted: tuple[str, ...] = Field(description="Targets in alphabetical order.")


class CalibrationRecord(_Record):
    """Multipliers of scores whose softmax is a calibrated probability, by path."""

    text: float = Field(gt=0)
    visual: float = Field(gt=0)
    fused: float = Field(gt=0, description="Of the fused score divided by 1 + beta.")
    images: int = Field(description="Held-out images of the last task that had any.")


class HeldOutRecord(_Record):
    """What the tensors `held_out.*` rest on: quantiles over held-out images of all tasks."""

    images: int = Field(ge=1)
    classes: int = Field(ge=1, description="Classes that the images are of.")
    nobody_spread: float | None = Field(
        None, gt=0, description="How many times as much as modelled images of no class were taken to vary; null: once."
    )


class FamiliarityRecord(_Record):
    """Weights of the evidence that an image shows a taught class and not a word that was never taught."""

    visual: float
    text: float
    offset: float
    images: int = Field(description="Held-out images of the last task that they rest on.")


class DatasetRecord(_Record):
    """The data set of an update: its name, digest and counts, without its images."""

    name: str
    digest: str
    images_per_class: dict[str, int] = Field(description="Images learned from.")
    holdout_per_class: dict[str, int] = Field(default_factory=dict, description="Images held out for the evaluation.")


class Provenance(_Record):
    """How a state was made: the manifest's fields that the state itself does not hold.

    `libraries` is None except in tests: the store then records the installed versions itself.
    """

    who: str = "keepsight"
    reason: str = ""
    made: Made | None = None
    preprocessing: PreprocessingRecord | None = None
    strategy: str | None = None
    settings: JsonObject = Field(default_factory=dict)
    seed: int | None = None
    job_id: str | None = None
    other_parent: VersionId | None = None
    edit: ClassEdit | None = None
    dataset: DatasetRecord | None = None
    evaluation: JsonObject | None = None
    report: JsonObject | None = None
    libraries: dict[str, str] | None = None


class Manifest(_Record):
    """Everything about a version except its tensors.

    `content_digest` covers what was learned and from what; it leaves out `number`, `version_id`, `created_at`,
    `job_id`, `evaluation`, `report`, the ids of the parents and the dataset's name. `manifest_sha256` covers the file's
    every byte, with its own 64 digits replaced by zeros.
    """

    @property
    def parents(self) -> tuple[VersionId, ...]:
        """All parents: none of the first version, two of a merged one."""
        return tuple(parent for parent in (self.parent, self.other_parent) if parent is not None)

    @property
    def is_instant(self) -> bool:
        """Whether it is put on top of others at once, and again on what was trained meanwhile."""
        return self.made in INSTANT

    format: Format = FORMAT
    version_id: VersionId
    number: int
    parent: VersionId | None
    parent_content_digest: str | None
    other_parent: VersionId | None = Field(None, description="Of a merged version: what was merged into `parent`.")
    other_parent_content_digest: str | None = None
    created_at: AwareDatetime
    model: ModelRecord
    weights_digest: str
    preprocessing: PreprocessingRecord | None
    classes: tuple[ClassRecord, ...]
    tasks: int
    fusion_weight: float
    lora: LoraRecord | None
    calibration: CalibrationRecord | None = None
    familiarity: FamiliarityRecord | None = None
    made: Made | None = Field(None, description="How a task was taught; null: no task, or a release before this field.")
    held_out: HeldOutRecord | None = None
    edit: ClassEdit | None = Field(None, description="Of an edited version: what was done to its parent's classes.")
    strategy: str | None
    settings: JsonObject
    seed: int | None
    job_id: str | None
    dataset: DatasetRecord | None
    evaluation: JsonObject | None
    report: JsonObject | None
    libraries: dict[str, str]
    tensors_sha256: str
    content_digest: str
    manifest_sha256: str


PROMOTED_ANYWAY: Final = "held, promoted anyway: "
"""What a reason in the journal begins with where a held version was promoted."""


class JournalEntry(BaseModel):
    """One line of `journal.jsonl`.

    | action | from | to |
    |---|---|---|
    | publish | the new version's parent | the new version |
    | hold | the new version's parent | the new version, which the gate keeps from being promoted |
    | promote, rollback | CURRENT before | CURRENT after |
    | recover | what the journal said CURRENT was | what CURRENT is |
    | pin | null | the version |
    | unpin, prune | the version | null |
    | gate | null | null; the gate's policy was changed |
    | put_test_set | the test set of that name before, or null | the test set, as `name@digest` |
    | remove_test_set | the test set | null |

    A line that the store writes about an interrupted process has `who: "store"`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    at: AwareDatetime
    who: str
    action: Action
    from_: VersionId | None = Field(default=None, alias="from")
    to: VersionId | None = None
    reason: str = ""
