"""Models of the JSON that clients send and receive."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    WithJsonSchema,
    create_model,
    field_validator,
    model_validator,
)

from app.json_body import LongText, Text
from app.problems import problem
from exchange.contracts import (
    ContributionReport,
    InstantOutcome,
    JobRecord,
    LabelReport,
    PurgeReceipt,
    UpdateOutcome,
    ValidationReport,
)
from exchange.roster import SeenServer
from model_store.gate import GatePolicy
from model_store.reader import Pruning
from model_store.types import ClassRecord, Made, Manifest
from segp_cl.class_edits import ClassEdit
from segp_cl.config import LearnerConfig

DEFAULT_TOP_K = 5
MAX_TOP_K = 1000
DEFAULT_KNOWN_SHARE = 0.95
MAX_TIMEOUT_MS = 2**31 - 1
MAX_LABEL_LENGTH = 200
Serving = Literal["served_instantly", "trained", "merged", "edited", "corrected"]
PathName = Literal["fused", "text", "visual"]
Label = Annotated[
    str, WithJsonSchema({"type": "string", "minLength": 1, "maxLength": MAX_LABEL_LENGTH, "pattern": r"\S"})
]
Timeout = Annotated[
    int | None,
    Field(ge=1, le=MAX_TIMEOUT_MS, description="Milliseconds after which the request is given up."),
]


class Problem(BaseModel):
    """Problem details (RFC 9457). Some kinds of problem have further members."""

    model_config = ConfigDict(extra="allow")

    type: str = Field(examples=["urn:keepsight:problem:undecodable-image"])
    title: str
    status: int
    detail: str | None = None


class ClassifyOptions(BaseModel):
    """Options of a classify request, from the query, the form or the JSON body."""

    top_k: int = Field(DEFAULT_TOP_K, ge=1, le=MAX_TOP_K, description="Labels per image.")
    path: PathName = Field("fused", description="Which scores rank the labels.")
    labels: list[Label] | None = Field(
        None,
        description="Any words to rank instead of the learned classes. Those that name a class are answered as it is.",
        fail_fast=True,
        json_schema_extra={"minItems": 1, "uniqueItems": True},
    )
    template: str | None = Field(
        None, description="The prompt for a label, with {} in its place.", json_schema_extra={"pattern": r"\{\}"}
    )
    with_classes: bool = Field(False, description="Rank the learned classes too, beside the labels.")
    zero_shot: Literal["untouched", "adapted"] | None = Field(
        None,
        description="Who scores words that were never taught: the base model, `untouched` by teaching, or the "
        "version's `adapted` towers. If left out: the base model, unless that takes a second pass.",
    )
    set_coverage: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="Add the smallest set of labels that has the right one with this probability (`label_set`).",
    )
    version: str | None = Field(
        None,
        max_length=100,
        description="A stored version that answers instead of the served one. The first request waits until it is "
        "loaded.",
    )
    known_share: float = Field(
        DEFAULT_KNOWN_SHARE,
        gt=0,
        lt=1,
        description="The share of images of learned classes that are not to be called unknown.",
    )
    timeout_ms: Timeout = None


class ClassifyBody(ClassifyOptions):
    """A classify request as JSON."""

    model_config = ConfigDict(extra="forbid")

    images: list[Text] = Field(
        description="Images in base64, 1 to 64.", fail_fast=True, json_schema_extra={"minItems": 1, "maxItems": 64}
    )


def _text_or_list(schema: dict[str, Any]) -> None:
    """Say that a list may also be its only entry."""
    as_list = {name: schema.pop(name) for name in ("type", "items")}
    schema["anyOf"] = [as_list["items"], {**as_list, "minItems": 1}]


class EmbeddingsBody(BaseModel):
    """An embeddings request in OpenAI's shape, with images as data URIs."""

    model_config = ConfigDict(extra="forbid")

    input: list[Text] = Field(
        description="A text, or texts and images as `data:image/...;base64,...` in any order.",
        fail_fast=True,
        json_schema_extra=_text_or_list,
    )
    model: str | None = Field(None, description="`keepsight`, the base model's name, or the served version.")
    encoding_format: Literal["float", "base64"] = "float"
    stored_version: str | None = Field(
        None, description="Version or `space` of your stored vectors; `matches_stored` says if they match these."
    )
    user: str | None = Field(None, description="Ignored.")
    timeout_ms: Timeout = None

    @field_validator("input", mode="before")
    @classmethod
    def _listed(cls, value: object) -> object:
        return [value] if isinstance(value, str | LongText) else value


class Embedding(BaseModel):
    """One vector of unit norm, as numbers or as little-endian float32 in base64."""

    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str
    kind: Literal["text", "image"] = Field("text", description="What the input was taken for.")


class Usage(BaseModel):
    """Always 0: tokens are not counted."""

    prompt_tokens: int = 0
    total_tokens: int = 0


class Embeddings(BaseModel):
    """Vectors in the order of the input. Only vectors of the same `space` may be compared."""

    object: Literal["list"] = "list"
    data: list[Embedding]
    model: str
    model_version: str
    space: str = Field(description="Identifies the base weights and adapters that made the vectors.")
    matches_stored: bool | None = Field(description="Whether `stored_version` has this space; null if none was named.")
    usage: Usage = Usage()


class Prediction(BaseModel):
    """One label for one image. `score` is that of the ranking path; a path that cannot score the label is null."""

    label: str
    score: float = Field(
        description="Score by the requested path; the probability where learned classes and other words are ranked."
    )
    text_score: float = Field(description="Cosine between image and class text.")
    visual_score: float | None = Field(description="Cosine between image and class prototype.")
    fused_score: float | None = Field(
        description="Weighted mean of both: (text_score + beta * visual_score) / (1 + beta)."
    )
    probability: float = Field(description="Softmax of the score times the path's multiplier, over all labels.")


class ClassifyResult(BaseModel):
    """The answer for one image: predictions, best first, or the error of this image alone."""

    index: int
    id: str | None = Field(
        None, description="Says which version answered what, for `answer_id` of a correction; null beside an error."
    )
    filename: str | None
    predictions: list[Prediction]
    label_set: list[str] | None = Field(
        None,
        description="Labels that have the right one with probability `set_coverage`, best first. Null: not asked for, "
        "or the version has no held-out images to tell by.",
    )
    unknown: bool | None = Field(
        None,
        description="Whether the image looks like none of the classes: `unknown_score` is above `known_share`. "
        "Null for labels that were sent, and where the version cannot tell.",
    )
    unknown_score: float | None = Field(
        None, description="Share of images of learned classes that look less strange, 0 to 1."
    )
    error: Problem | None = None


class ClassifyAnswer(BaseModel):
    """Answers in the order of the images. All come from one version."""

    model_config = ConfigDict(protected_namespaces=())

    model_version: str = Field(examples=["000002-9f86d081884c"])
    path: PathName = Field(description="The path that ranked the labels; `text` if none of them is a learned class.")
    alike: list[list[str]] = Field(
        default_factory=list,
        description="Groups of labels that the text tower cannot tell apart: their probabilities say nothing.",
    )
    results: list[ClassifyResult]


class TaskAccepted(BaseModel):
    """An accepted task and the job that will learn it."""

    job_id: str
    location: str = Field(examples=["/v1/jobs/5f0c1b1f6e1e4c2b9d0b8f0f6a3c2d10"])
    validation: ValidationReport


class MergeBody(BaseModel):
    """Merge two versions that were taught different tasks from one."""

    model_config = ConfigDict(extra="forbid", strict=True)

    versions: Annotated[list[str], Field(min_length=2, max_length=2)] = Field(
        description="The parent of the merged version, whose classes come first, and the version to merge into it."
    )
    reason: str = Field("", max_length=1000, description="Kept in the journal.")
    config: dict[str, JsonValue] = Field(default_factory=dict, description="Hyper-parameters to override.")
    seed: int = Field(0, ge=0, lt=2**63, description="Seed of all random choices.")

    @field_validator("config")
    @classmethod
    def _known(cls, config: dict[str, JsonValue]) -> dict[str, JsonValue]:
        LearnerConfig.model_validate(config)
        return config


class MergeAccepted(BaseModel):
    """The job that will merge the versions."""

    job_id: str
    location: str = Field(examples=["/v1/jobs/5f0c1b1f6e1e4c2b9d0b8f0f6a3c2d10"])


class JobProgressView(BaseModel):
    """The progress of a running job."""

    phase: str
    step: int
    steps: int
    losses: dict[str, float]
    loss_history: dict[str, list[tuple[int, float]]] = Field(
        default_factory=dict,
        description="The losses so far by name, as pairs of step and value, thinned out. Empty in a list of jobs.",
    )
    eta_s: float | None
    elapsed_s: float


class JobView(BaseModel):
    """A job as clients see it."""

    job_id: str
    name: str
    parent: str | None = Field(
        None, description="The version that it learns on, beside the current one; null: the current one."
    )
    merges: list[str] | None = Field(None, description="The two versions that it merges; null: it merges none.")
    evaluates: list[str] | None = Field(None, description="The versions that it measures; null: it measures none.")
    edit: ClassEdit | None = Field(None, description="What it does to the classes; null: it edits none.")
    corrections: int = Field(0, description="How many corrections it learns; 0: it learns none.")
    dry_run: bool = Field(False, description="Whether it only looks at the labels of its images, and learns nothing.")
    state: Literal["queued", "running", "succeeded", "failed", "cancelled"]
    cancel_requested: bool
    progress: JobProgressView | None
    serving: Serving | None = Field(
        description="What of the task was put into service so far: its instant version, or the trained one."
    )
    instant: InstantOutcome | None = Field(description="What became of the version without training; null: none yet.")
    contributions: ContributionReport | None = Field(
        None, description="What its new classes have in common with the old ones, told before they are learned."
    )
    labels: LabelReport | None = Field(
        None, description="What looks wrong in the labels of its images, told before they are learned."
    )
    receipt: PurgeReceipt | None = Field(
        None, description="Of corrections: that their images were removed when the job ended."
    )
    result: UpdateOutcome | None
    error: Problem | None
    validation: ValidationReport | None
    submitted_by: str
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    attempts: int

    @classmethod
    def of(cls, record: JobRecord, *, listed: bool = False) -> JobView:
        """Return the public part of a record, without the history of its losses if it is one of a list."""
        error = None
        if record.error is not None:
            document = problem(500, "job-failed", "The job failed", record.error.message, kind=record.error.kind)
            error = Problem.model_validate(document)
        progress = None
        if record.progress is not None:
            hidden = {"updated_at", "loss_history"} if listed else {"updated_at"}
            progress = JobProgressView.model_validate(record.progress.model_dump(exclude=hidden))
        return cls(
            job_id=record.job_id,
            name=record.job.task_name,
            parent=record.job.parent,
            merges=None if record.job.merges is None else list(record.job.merges),
            edit=record.job.edit,
            evaluates=None if record.job.evaluates is None else list(record.job.evaluates),
            corrections=record.job.corrections,
            dry_run=record.job.dry_run,
            state=record.state.value,
            cancel_requested=record.cancel_requested,
            progress=progress,
            serving=_serving(record),
            instant=record.instant,
            contributions=record.contributions,
            labels=record.labels,
            receipt=record.receipt,
            result=record.outcome,
            error=error,
            validation=record.validation,
            submitted_by=record.job.submitted_by,
            created_at=record.created_at,
            started_at=record.started_at,
            finished_at=record.finished_at,
            attempts=record.attempts,
        )


def _serving(record: JobRecord) -> Serving | None:
    instant, outcome = record.instant, record.outcome
    if record.job.corrections:
        promoted = (instant is not None and instant.promoted) or (outcome is not None and outcome.promoted)
        return "corrected" if promoted else None
    if record.job.merges is not None or record.job.edit is not None:
        done = outcome is not None and outcome.promoted
        return None if not done else "edited" if record.job.merges is None else "merged"
    if outcome is not None and outcome.promoted and (instant is None or instant.version_id != outcome.version_id):
        return "trained"
    return "served_instantly" if instant is not None and instant.promoted else None


class JobList(BaseModel):
    """Stored jobs, newest first."""

    jobs: list[JobView]
    next: str | None = Field(None, description="Send as `before` to get the jobs that follow; null: there are none.")


class VersionSummary(BaseModel):
    """One version in the list."""

    version_id: str
    number: int
    parent: str | None
    other_parent: str | None = Field(None, description="Of a merged version: what was merged into `parent`.")
    created_at: datetime
    classes: int
    tasks: int
    made: Made | None = Field(
        description="`instant`: in closed form; `trained`; `merged` of two; `edited`: its classes; `corrected`; "
        "null: unknown."
    )
    edited: str | None = Field(None, description="What was done to the classes of an edited version, in words.")
    strategy: str | None
    dataset: str | None
    evaluation: dict[str, JsonValue] | None = Field(
        description="Accuracy over all classes, on held-out images and on those left out in turn."
    )
    pinned: bool
    held_because: list[str] = Field(
        default_factory=list, description="Why the gate holds it: it is served only if promoted with `anyway`."
    )

    @classmethod
    def of(cls, manifest: Manifest, *, pinned: bool, held_because: Sequence[str] = ()) -> VersionSummary:
        """Return the summary of a manifest."""
        evaluation = manifest.evaluation
        overall: Any = evaluation.get("overall", evaluation) if evaluation else None
        return cls(
            version_id=manifest.version_id,
            number=manifest.number,
            parent=manifest.parent,
            other_parent=manifest.other_parent,
            created_at=manifest.created_at,
            classes=len(manifest.classes),
            tasks=manifest.tasks,
            made=manifest.made,
            edited=None if manifest.edit is None else manifest.edit.words,
            strategy=manifest.strategy,
            dataset=manifest.dataset.name if manifest.dataset else None,
            evaluation=overall if isinstance(overall, dict) else None,
            pinned=pinned,
            held_because=list(held_because),
        )


class DamagedVersion(BaseModel):
    """A version whose files are missing or altered."""

    version_id: str
    reason: str


class VersionList(BaseModel):
    """All versions, oldest first, with CURRENT and the version that this server serves."""

    current: str | None
    serving: str | None
    versions: list[VersionSummary]
    damaged: list[DamagedVersion] = Field(default_factory=list)


class ClassList(BaseModel):
    """The classes of the version that is served."""

    model_config = ConfigDict(protected_namespaces=())

    model_version: str
    classes: list[ClassRecord]


class PromoteBody(BaseModel):
    """Move CURRENT to a version. With `anyway`, also to one that the gate holds; then `reason` may not be empty."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "if": {"properties": {"anyway": {"const": True}}, "required": ["anyway"]},
            "then": {"properties": {"reason": {"pattern": r"\S"}}, "required": ["reason"]},
        },
    )

    version_id: str
    reason: str = Field("", max_length=1000, description="Kept in the journal.")
    expected: str | None = Field(None, description="What CURRENT must name; default: what it names now.")
    anyway: bool = Field(False, description="Serve a version that is held. Needs a reason.")

    @model_validator(mode="after")
    def _anyway_has_a_reason(self) -> Self:
        if self.anyway and not self.reason.strip():
            raise ValueError("anyway needs a reason, which is kept in the journal")
        return self


class RollbackBody(BaseModel):
    """Move CURRENT back."""

    model_config = ConfigDict(extra="forbid")

    version_id: str | None = Field(None, description="The version to go back to; default: the parent of CURRENT.")
    reason: str = Field("", max_length=1000, description="Kept in the journal.")
    expected: str | None = Field(None, description="What CURRENT must name; default: what it names now.")


class PruneBody(BaseModel):
    """Remove old versions."""

    model_config = ConfigDict(extra="forbid", strict=True)

    keep: int = Field(ge=1, le=1_000_000, description="How many steps back stay possible.")
    dry_run: bool = Field(False, description="Remove nothing; say what would be removed.")
    reason: str = Field("", max_length=1000, description="Kept in the journal.")


class PrunedVersion(BaseModel):
    """A version that was removed, or would be."""

    version_id: str
    bytes: int


class KeptVersion(BaseModel):
    """A version that stays, and why."""

    version_id: str
    because: str = Field(examples=["pinned"])


class Pruned(BaseModel):
    """What was removed, or would be, and what stays. Both oldest first."""

    dry_run: bool
    removed: list[PrunedVersion]
    bytes: int = Field(description="Of all removed versions.")
    kept: list[KeptVersion]

    @classmethod
    def of(cls, pruning: Pruning, *, dry_run: bool) -> Pruned:
        """Return what the store has done, or would do."""
        return cls(
            dry_run=dry_run,
            removed=[PrunedVersion(version_id=version, bytes=size) for version, size in pruning.removed.items()],
            bytes=sum(pruning.removed.values()),
            kept=[KeptVersion(version_id=version, because=why) for version, why in sorted(pruning.kept.items())],
        )


class PinBody(BaseModel):
    """Pin a version."""

    model_config = ConfigDict(extra="forbid", strict=True)

    reason: str = Field("", max_length=1000, description="Kept in the journal.")


class Pinned(BaseModel):
    """Whether a version is pinned now."""

    version_id: str
    pinned: bool


class VersionVerified(BaseModel):
    """What was found of one version."""

    version_id: str
    ok: bool = Field(description="Nothing is wrong with it.")
    files: Literal["intact", "damaged"] = Field(description="Whether every byte is what was published.")
    answers: Literal["same", "different", "unknown"] = Field(
        description="Whether it gives its golden answers; `unknown` where it has none, or is damaged, or belongs to "
        "another base model."
    )
    problem: str | None = Field(description="What is wrong, or why the answers are not known.")


def _optional(policy: type[GatePolicy]) -> dict[str, Any]:
    """Return the policy's fields, each of which may be left out, or be null for its default."""
    fields: dict[str, Any] = {}
    for name, info in policy.model_fields.items():
        kind: Any = Annotated[(info.annotation, *info.metadata)] if info.metadata else info.annotation
        fields[name] = (kind | None, Field(None, description=info.description))
    return fields


class _GateChange(BaseModel):
    """Change the gate's policy: the fields to change, and why. Null sets a field back to its default."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    reason: str = Field("", max_length=1000, description="Kept in the journal.")

    @field_validator("*", mode="before")
    @classmethod
    def _whole(cls, value: object) -> object:
        """In JSON, 3.0 is an integer."""
        return int(value) if isinstance(value, float) and value.is_integer() else value

    @property
    def changes(self) -> dict[str, object]:
        """The fields that were sent, without the reason."""
        return self.model_dump(exclude_unset=True, exclude={"reason"})


GateChange: type[_GateChange] = create_model(
    "GateChange", __base__=_GateChange, __doc__=_GateChange.__doc__, **_optional(GatePolicy)
)


class Gate(BaseModel):
    """The gate's policy, and where it is from."""

    policy: GatePolicy
    source: Literal["file", "defaults", "damaged"] = Field(
        description="`defaults` where nothing was ever set; `damaged`: the file cannot be used, the defaults are."
    )
    problem: str | None = Field(description="What is wrong with a damaged file.")


class Moved(BaseModel):
    """Where CURRENT was and is, and what all servers serve."""

    model_config = ConfigDict(populate_by_name=True)

    from_: str | None = Field(alias="from")
    to: str
    serving: str
    prepare_s: float = Field(description="Seconds until every server had the version ready.")
    commit_s: float = Field(description="Seconds from there until every server served it.")


class ServerProcess(BaseModel):
    """A server, as of its last report."""

    id: str
    host: str
    pid: int
    device: str
    serving: str | None
    prepared: str | None = Field(description="The version that is ready to be swapped in.")
    state: Literal["starting", "serving", "loading", "ready", "refused", "behind", "dead"]
    reason: str | None = Field(description="Why it refused a version, or cannot serve CURRENT.")
    seen_s: float = Field(description="Seconds since its last report.")

    @classmethod
    def of(cls, server: SeenServer, *, lost_after_s: float) -> ServerProcess:
        """Return a server as the roster lists it."""
        report = server.report
        return cls(
            **report.model_dump(include={"id", "host", "pid", "device", "serving", "prepared", "reason"}),
            state="dead" if server.seen_s > lost_after_s else report.state,
            seen_s=server.seen_s,
        )


class Rollout(BaseModel):
    """The rollout's state on all servers of the store."""

    current: str | None = Field(description="The version that CURRENT names.")
    target: str | None = Field(description="The version that is being prepared.")
    processes: list[ServerProcess]


class Alive(BaseModel):
    """The process answers."""

    status: Literal["alive"] = "alive"


class Ready(BaseModel):
    """This server answers classify requests. If it does not serve CURRENT, `behind` says why."""

    status: Literal["ready"] = "ready"
    serving: str
    classes: int
    engine: Literal["torch", "openvino"] = Field(description="What runs the version's image tower.")
    behind: str | None = None
    broker: Literal["reachable", "unreachable"]
