"""What server and worker tell each other about jobs, and the names under which Redis holds it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from enum import StrEnum
from hashlib import sha256
from typing import Literal, Self
from uuid import uuid4

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, JsonValue, model_validator

from segp_cl.class_edits import ClassEdit
from segp_cl.config import LearnerConfig

UPDATES_QUEUE = "updates"
"""The Celery queue that workers listen to."""
LEAST_PRIORITY = 9
"""Priority of messages that are taken when no others wait. Those of updates have 0."""
LATER_QUEUE = f"{UPDATES_QUEUE}\x06\x16{LEAST_PRIORITY}"
"""The list in which Celery's transport has these."""
INSTANT_KEY = "keepsight:instant"
"""List of the ids of jobs that wait for their instant version, the oldest first."""
UPDATE_TASK = "keepsight.update"
"""The Celery task, sent by name with one argument: the job's id. No image ever travels through the broker."""

CONTRIBUTIONS_KEY = "contributions"
"""Where a manifest's report has its `ContributionReport`."""
TEST_SETS_KEY = "test_sets"
"""Where a manifest's report has its `OnTestSets`."""

CORRECTIONS_KEY = "corrections"
"""Where a manifest's report has its `CorrectionReport`."""

JOBS_KEY = "keepsight:jobs"
"""Sorted set of job ids, scored by the time they were created (Unix seconds)."""
CURRENT_CHANNEL = "keepsight:current"
"""Wakes every server, so that it looks at CURRENT and at the move that is under way.

Published when a move begins, when CURRENT has moved, and when a move is over; see `exchange.roster.Roster`. The message
is the id of a move or of a version, and nobody reads it.
"""


def new_job_id() -> str:
    """Return a new job id: 32 lower-case hexadecimal digits, safe as a file name."""
    return uuid4().hex


def job_key(job_id: str) -> str:
    """Return the key of a job's Redis hash, which `record_from_hash` reads."""
    return f"keepsight:job:{job_id}"


def events_channel(job_id: str) -> str:
    """The channel of one job. Its messages are `state` (a new state, or a cancel was asked for) and `progress`."""
    return f"keepsight:job:{job_id}:events"


def idempotency_key(key: str) -> str:
    """Return the Redis key of a client's `Idempotency-Key`, hashed because it may have any length and content."""
    return f"keepsight:idempotency:{sha256(key.encode()).hexdigest()}"


def utc_now() -> datetime:
    """Return the current time in UTC, with its time zone."""
    return datetime.now(UTC)


class JobState(StrEnum):
    """The state of a job. The last three are final: a job in one of them never changes again."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def terminal(self) -> bool:
        """Whether the job is over."""
        return self in (JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED)


class _Contract(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class JobClass(_Contract):
    """A class to be learned: its name, the sentence that the text tower reads, and the number of spooled images."""

    name: str = Field(min_length=1)
    prompt: str = Field(min_length=1)
    images: int = Field(ge=1)


class RejectedImage(_Contract):
    """A file of the upload that was rejected, and why."""

    path: str
    reason: str


class PassedOver(_Contract):
    """A file or folder of the upload that is no data, and why; `entries` counts all that lies in it."""

    path: str
    reason: str
    entries: int = Field(1, ge=1)


class RepeatedImage(_Contract):
    """A picture that the upload has twice, in two classes or on both sides of a split. Each is used where it lies."""

    path: str
    label: str
    first_path: str
    first_label: str


class RenamedClass(_Contract):
    """A class that is taught under another spelling than the upload's, because that has something invisible in it."""

    typed: str
    taught: str


class ValidationReport(_Contract):
    """The result of validating an upload. Lists may be shortened; the count beside each counts all.

    `classes` counts the accepted images of each class, and `held_out` those of them that came in a val split.
    `test_set` counts those of a test split, or of a val split, that were kept as a test set. `notes` say how the
    folders were read.
    """

    classes: dict[str, int]
    accepted: int = Field(ge=0)
    held_out: dict[str, int] = Field(default_factory=dict)
    rejected: tuple[RejectedImage, ...] = ()
    rejected_count: int = Field(0, ge=0)
    passed_over: tuple[PassedOver, ...] = ()
    passed_over_count: int = Field(0, ge=0)
    repeated: tuple[RepeatedImage, ...] = ()
    repeated_count: int = Field(0, ge=0)
    test_set: dict[str, int] = Field(default_factory=dict)
    renamed: tuple[RenamedClass, ...] = ()
    notes: tuple[str, ...] = ()


class UpdateJob(_Contract):
    """One task to be learned, two versions to be merged, an edit of the classes, or versions to be evaluated.

    A task's images lie in the spool's folder `<job_id>/`, whose index labels each with a class. With `parent` it is
    learned on that version, beside CURRENT, which does not move. With `merges` there are no classes and no images,
    and with an `edit` only if it is one that replaces a class. With `evaluates` there are none either, and nothing is
    published; `test_set` names the only set, None: all.

    `config` holds overrides of `LearnerConfig`; an unknown name or a value out of range is a validation error.
    `submitted_on` was CURRENT when the upload was accepted (None: not known), so the store is not to be begun anew.
    With `instant`, a version without training is made and served first. `corrections` is how many of those that
    waited (see `exchange.corrections`) the images are; 0 for an uploaded task. With `dry_run`, what looks wrong in the
    labels is told, and nothing is learned.
    """

    job_id: str = Field(pattern=r"^[0-9a-f]{32}$")
    task_name: str
    classes: tuple[JobClass, ...] = ()
    extend: bool = False
    config: dict[str, JsonValue] = Field(default_factory=dict)
    dataset_digest: str = ""
    parent: str | None = None
    merges: tuple[str, str] | None = None
    edit: ClassEdit | None = None
    evaluates: tuple[str, ...] | None = None
    test_set: str | None = None
    seed: int = Field(0, ge=0, lt=2**63)
    submitted_at: AwareDatetime
    submitted_by: str = "anonymous"
    submitted_on: str | None = None
    instant: bool = False
    corrections: int = Field(0, ge=0)
    dry_run: bool = False

    @model_validator(mode="after")
    def _has_work(self) -> Self:
        replaced = self.edit.classes if self.edit is not None and self.edit.kind == "replace" else None
        if replaced is not None and replaced != tuple(known.name for known in self.classes):
            raise ValueError("expected images of the class that is replaced, and of no other")
        learns, edits = bool(self.classes) and replaced is None, self.edit is not None
        if sum((learns, edits, self.merges is not None, bool(self.evaluates))) != 1:
            raise ValueError("expected classes to learn, two versions to merge, an edit, or versions to evaluate")
        if self.instant and (self.parent or not learns):
            raise ValueError("an instant version is put on top of CURRENT alone")
        if self.dry_run and (self.instant or not learns):
            raise ValueError("only a task of new classes can be checked, and a check makes no instant version")
        return self

    @model_validator(mode="after")
    def _config_is_valid(self) -> Self:
        LearnerConfig.model_validate(self.config)
        return self

    @property
    def is_quick(self) -> bool:
        """Whether it trains nothing and publishes no training: it is done where instant versions are made."""
        return self.edit is not None or self.dry_run

    @property
    def can_wait(self) -> bool:
        """Whether it is taken when no update waits."""
        return self.evaluates is not None

    @property
    def learner_config(self) -> LearnerConfig:
        """The hyper-parameters of this update: the defaults, overridden by `config`."""
        return LearnerConfig.model_validate(self.config)


class JobProgress(_Contract):
    """The progress of a running job.

    `phase` is `waiting` (for the lineage), `loading`, `labels` (which are looked at), one of the learner's phases
    (`stem`, `anchors`, `train`, `drift`, `prototypes`, `align`), `merging`, `evaluating` or `publishing`. `step` counts
    up to `steps` within the phase; both are 0 where the phase has no steps. `eta_s` estimates the seconds left in this
    phase from its pace so far, and is None until there is one. `elapsed_s` counts from the start of this attempt.
    `loss_history` has the losses of this attempt by name, as pairs of step and value, evenly thinned out.
    """

    phase: str
    step: int = Field(ge=0)
    steps: int = Field(ge=0)
    losses: dict[str, float] = Field(default_factory=dict)
    loss_history: dict[str, tuple[tuple[int, float], ...]] = Field(default_factory=dict)
    eta_s: float | None = None
    elapsed_s: float = Field(0.0, ge=0)
    updated_at: AwareDatetime


How = Literal["held_out", "left_one_out"]
"""How a class was measured: on held-out images, or on its own, each left out of the statistics in turn."""


class PathAccuracy(_Contract):
    """Top-1 accuracy among all seen classes, in [0, 1], by text path, visual path and their fusion."""

    images: int = Field(ge=1)
    text: float = Field(ge=0, le=1)
    visual: float = Field(ge=0, le=1)
    fused: float = Field(ge=0, le=1)


class ClassAccuracy(PathAccuracy):
    """That of one class, and how it was measured."""

    how: How = "held_out"


class OverallAccuracy(PathAccuracy):
    """That of all measured classes.

    `left_one_out` of the `images` were left out in turn, the others were held out. `only_images` of the former are the
    only one of their class: without it only the text path knows the class, so that the fused answer is that of the text
    path, and the visual one is wrong. `classes_not_measured` of the task's classes have no image here.
    """

    left_one_out: int = Field(0, ge=0)
    only_images: int = Field(0, ge=0)
    classes_not_measured: int = Field(0, ge=0)


class Evaluation(_Contract):
    """Accuracy of the new version on images of its task, among all `seen_classes`.

    Images that are left out in turn are missing in the visual path's statistics alone: where texts or the image tower
    were trained, they were trained on these images too. Figures of an earlier release are on held-out images alone.
    """

    seen_classes: int = Field(ge=1)
    overall: OverallAccuracy
    per_class: dict[str, ClassAccuracy]

    def fused(self, how: How) -> tuple[dict[str, tuple[int, int]], float | None]:
        """Return (images, right answers by the fused path) of each class that was measured so, and their accuracy."""
        chosen = {name: found for name, found in self.per_class.items() if found.how == how}
        counts = {name: (found.images, round(found.images * found.fused)) for name, found in chosen.items()}
        images = sum(count for count, _ in counts.values())
        return counts, sum(right for _, right in counts.values()) / images if images else None


class GateCheck(_Contract):
    """One check of the gate. `passed` is None where nothing was judged; `reason` says why it was not, or not passed.

    `value` is compared with `bound`. Where it is an accuracy, `upper` is the upper end of its interval, which is what
    is compared. `images` is the number of images (or sampled features) that the value rests on. `about` names the
    class or the test sets that the check is about, where it is about some and not about all.
    """

    name: str
    passed: bool | None
    value: float | None = None
    upper: float | None = None
    bound: float | None = None
    images: int = Field(0, ge=0)
    reason: str = ""
    about: tuple[str, ...] = ()


class GateResult(_Contract):
    """What the gate found. A version with reasons in `held_because` is held: published, and not promoted."""

    enabled: bool = True
    checks: tuple[GateCheck, ...] = ()
    held_because: tuple[str, ...] = ()


class Confusion(_Contract):
    """How many images of a class got the answer of another one, by the fused path."""

    label: str
    answer: str
    images: int = Field(ge=1)


class AgainstParent(_Contract):
    """A version beside its parent, by the fused path, on images whose labels both know."""

    version_id: str
    images: int = Field(ge=0)
    right_before: int = Field(ge=0)
    right: int = Field(ge=0)
    right_to_wrong: int = Field(ge=0)
    wrong_to_right: int = Field(ge=0)


class SetEvaluation(_Contract):
    """What a version answers to a test set, among all its classes.

    `images` of the set's `images_in_all` were measured. `unknown_labels` of them have a label that the version does not
    know: they count in none of the figures, except that `strangers_told` is the share of them that is told to look like
    no class. `known_told` is the same share of the others, where it is wrong. `calibration_error` (ECE) is of the fused
    path. `coverage` is the share of images whose prediction set for 90 % has the right label, and `set_size` the mean
    number of labels in it. Figures are None where nothing was measured or the version cannot tell.

    `per_class` has the classes with the lowest fused accuracy first, and `confusions` the most frequent ones. Where
    they are cut, `classes` and `confusion_count` count all.
    """

    version_id: str | None = None
    test_set: str
    digest: str
    images: int = Field(ge=0)
    images_in_all: int = Field(ge=1)
    unknown_labels: int = Field(0, ge=0)
    overall: PathAccuracy | None = None
    classes: int = Field(0, ge=0)
    per_class: dict[str, PathAccuracy] = Field(default_factory=dict)
    confusions: tuple[Confusion, ...] = ()
    confusion_count: int = Field(0, ge=0)
    calibration_error: float | None = None
    coverage: float | None = None
    set_size: float | None = None
    known_told: float | None = None
    strangers_told: float | None = None
    against: AgainstParent | None = None
    seconds: float = Field(0.0, ge=0)

    def cut(self, most: int) -> Self:
        """Return this with at most so many classes and confusions."""
        kept = dict(list(self.per_class.items())[:most])
        return self.model_copy(update={"per_class": kept, "confusions": self.confusions[:most]})


class OnTestSets(_Contract):
    """What a version answers to every test set, and by name why some could not be measured."""

    results: tuple[SetEvaluation, ...] = ()
    not_measured: dict[str, str] = Field(default_factory=dict)


class TaskContributions(_Contract):
    """The four scores of an earlier task and a new one, in [-1, 1]: expected cosines of images and texts of both."""

    task: int = Field(ge=1)
    classes: int = Field(ge=1)
    image_to_text: float
    text_to_image: float
    image_to_image: float
    text_to_text: float


class NearClasses(_Contract):
    """An old class and the new one that is nearest to it through one modality."""

    old: str
    new: str
    cosine: float


class ClassAtRisk(_Contract):
    """An old class whose images are nearer to a new class's text than to its own, by -`margin`."""

    old: str
    new: str
    margin: float


class Forecast(_Contract):
    """Which earlier tasks are forecast to lose most, the first most, by the image-to-text score.

    `correlation` is how that score and what was forgotten correlated on benchmarks, by data set.
    """

    most_affected: tuple[int, ...]
    correlation: dict[str, float] = Field(default_factory=dict)


class ContributionReport(_Contract):
    """What the new classes of a task have in common with the old ones, before they are learned.

    `images` of the task were looked at. `nearest` has the nearest classes through each of the four modalities. Lists
    are cut, and `at_risk_count` counts all. `sigma_image` is the standard deviation of the cosines of old and new
    images, which decides whether a forecast is given.
    """

    new_classes: int = Field(ge=1)
    old_classes: int = Field(ge=1)
    images: int = Field(ge=1)
    tasks: tuple[TaskContributions, ...]
    nearest: dict[str, tuple[NearClasses, ...]]
    at_risk: tuple[ClassAtRisk, ...] = ()
    at_risk_count: int = Field(0, ge=0)
    sigma_image: float
    forecast: Forecast | None = None
    no_forecast_because: str | None = None


class LikelyWrong(_Contract):
    """A file of the upload whose label is likely wrong: `likely` is what its image looks like, without its own help.

    Probabilities are those of an image that is left out of its class.
    """

    path: str
    label: str
    likely: str
    label_probability: float = Field(ge=0, le=1)
    likely_probability: float = Field(ge=0, le=1)


class NearlySame(_Contract):
    """Two files of the upload that are nearly the same picture, in two classes; `cosine` is that of their features."""

    path: str
    label: str
    other_path: str
    other_label: str
    cosine: float


class LabelReport(_Contract):
    """What looks wrong in the labels of a task, told before they are learned. Lists are cut; counts count all."""

    images: int = Field(ge=1)
    likely_wrong: tuple[LikelyWrong, ...] = ()
    likely_wrong_count: int = Field(0, ge=0)
    nearly_same: tuple[NearlySame, ...] = ()
    nearly_same_count: int = Field(0, ge=0)


class CorrectionEffect(_Contract):
    """What a correction did. `before` and `now` are the answers to its image by the version before and by this one."""

    number: int
    label: str
    taught_as: str | None = None
    answered: str | None = None
    before: str
    now: str
    right_before: bool
    right_now: bool


class CorrectionReport(_Contract):
    """What corrections did to the answers, told with the version that learned them.

    `left_out` were not learned, because their classes are no longer known. `mended` were wrong and are
    right now, `spoiled` the other way round. Besides the corrections, `sampled` features of all classes were asked
    about, of which `sampled_flipped` got another answer, `sampled_right_before` were right and `sampled_right_now`
    are. `effects` has the corrections by number, cut at a limit; the counts count all.
    """

    corrections: int = Field(ge=1)
    left_out: int = Field(0, ge=0)
    mended: int = Field(ge=0)
    spoiled: int = Field(ge=0)
    right_before: int = Field(ge=0)
    right_now: int = Field(ge=0)
    sampled: int = Field(0, ge=0)
    sampled_flipped: int = Field(0, ge=0)
    sampled_right_before: int = Field(0, ge=0)
    sampled_right_now: int = Field(0, ge=0)
    effects: tuple[CorrectionEffect, ...] = ()


class PurgeReceipt(_Contract):
    """That the images of corrections were removed when their job ended, however it ended. None of them waits again.

    `learned` says whether a version has learned them, be it promoted or held.
    """

    corrections: int = Field(ge=1)
    removed_at: AwareDatetime
    learned: bool


def receipt_for(job: UpdateJob, state: JobState) -> PurgeReceipt | None:
    """Return the receipt of a job that ends now, if it learns corrections: their images are removed with its end."""
    if not job.corrections:
        return None
    return PurgeReceipt(corrections=job.corrections, removed_at=utc_now(), learned=state is JobState.SUCCEEDED)


class UpdateOutcome(_Contract):
    """The result of a finished update. A published version that was not promoted has the reason here.

    `test_sets` has what it answers to test sets. A job that only evaluates has a row there for each version and set;
    its `version_id` is the first version that it was asked about.

    `gate` has every check that was made. If it held the version, `held_because` has its reasons, and
    `not_promoted_because` begins with "held:". `gate` is None for a version of a release that had no gate.
    `evaluation` is None where `KEEPSIGHT_HOLDOUT_FRACTION` is 0 and no image came in a val split. `report` holds
    the learner's report (seconds by phase, losses by epoch, settings, adapted modules), the seconds of the worker's own
    phases and its peak memory.
    """

    version_id: str
    promoted: bool
    not_promoted_because: str | None = None
    held_because: tuple[str, ...] = ()
    gate: GateResult | None = None
    evaluation: Evaluation | None = None
    test_sets: OnTestSets | None = None
    report: dict[str, JsonValue] = Field(default_factory=dict)


class JobError(_Contract):
    """Why a job failed: the kind of error (an exception's name) and one sentence for the person who submitted it."""

    kind: str
    message: str


class InstantOutcome(_Contract):
    """The version that a job's images gave without training, or why there is none.

    `evaluation`, `gate` and what was not promoted are as in `UpdateOutcome`. `seconds` is the time from the worker's
    turn to it until all servers served the version.
    """

    version_id: str | None = None
    promoted: bool = False
    not_promoted_because: str | None = None
    held_because: tuple[str, ...] = ()
    gate: GateResult | None = None
    evaluation: Evaluation | None = None
    test_sets: OnTestSets | None = None
    error: JobError | None = None
    seconds: float = Field(0.0, ge=0)
    at: AwareDatetime


class JobRecord(_Contract):
    """Everything known about one job. `attempts` counts how often a worker has started it."""

    job: UpdateJob
    validation: ValidationReport | None = None
    state: JobState = JobState.QUEUED
    progress: JobProgress | None = None
    instant: InstantOutcome | None = None
    contributions: ContributionReport | None = None
    labels: LabelReport | None = None
    outcome: UpdateOutcome | None = None
    error: JobError | None = None
    receipt: PurgeReceipt | None = None
    attempts: int = 0
    cancel_requested: bool = False
    created_at: AwareDatetime
    started_at: AwareDatetime | None = None
    finished_at: AwareDatetime | None = None
    owner: str | None = None
    heartbeat: str | None = None

    @property
    def job_id(self) -> str:
        """The job's id."""
        return self.job.job_id


_JSON_FIELDS: dict[str, type[BaseModel]] = {
    "job": UpdateJob,
    "validation": ValidationReport,
    "progress": JobProgress,
    "instant": InstantOutcome,
    "contributions": ContributionReport,
    "labels": LabelReport,
    "outcome": UpdateOutcome,
    "error": JobError,
    "receipt": PurgeReceipt,
}
_TEXT_FIELDS = ("state", "attempts", "created_at", "started_at", "finished_at", "owner", "heartbeat")


def record_to_hash(record: JobRecord) -> dict[str, str]:
    """Return the fields of the Redis hash under `job_key`, without those that are None."""
    fields: dict[str, str] = {"cancel_requested": "1" if record.cancel_requested else "0"}
    for name in _JSON_FIELDS:
        value = getattr(record, name)
        if value is not None:
            fields[name] = value.model_dump_json()
    for name in _TEXT_FIELDS:
        value = getattr(record, name)
        if value is not None:
            fields[name] = value.isoformat() if isinstance(value, datetime) else str(value)
    return fields


def record_from_hash(fields: Mapping[str, str]) -> JobRecord:
    """Return the record in a Redis hash that was decoded to text: the inverse of `record_to_hash`.

    Raises:
        pydantic.ValidationError: the hash does not hold a job.
    """
    values: dict[str, object] = {name: fields[name] for name in _TEXT_FIELDS if name in fields}
    values["cancel_requested"] = fields.get("cancel_requested") == "1"
    for name, model in _JSON_FIELDS.items():
        if name in fields:
            values[name] = model.model_validate_json(fields[name])
    return JobRecord.model_validate(values)
