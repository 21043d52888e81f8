"""The JSON of the REST API, as types: what the clients return and `--json` prints unchanged."""

from __future__ import annotations

from typing import Literal, NotRequired, TypedDict

PathName = Literal["fused", "text", "visual"]
ZeroShot = Literal["untouched", "adapted"]
EditKind = Literal["rename", "swap", "merge", "delete", "replace"]
JobState = Literal["queued", "running", "succeeded", "failed", "cancelled"]
TERMINAL_STATES: frozenset[str] = frozenset({"succeeded", "failed", "cancelled"})


class Problem(TypedDict):
    """RFC 9457 problem details."""

    type: NotRequired[str]
    title: NotRequired[str]
    status: NotRequired[int]
    detail: NotRequired[str]


class Prediction(TypedDict):
    """One label for one image, with the scores of every path, whichever was asked for.

    `text_score` and `visual_score` are cosines; the visual one is taken of whitened features where the version has a
    covariance. `fused_score` is their weighted mean, (text score + beta * visual score) / (1 + beta). `score` is that
    of the path that ranks, or the probability where classes and other words are ranked together. Words that were never
    taught have no prototypes, and their `visual_score` and `fused_score` are None. `probability` is over all labels,
    not only those returned. Numbers have six decimals.
    """

    label: str
    score: float
    text_score: float | None
    visual_score: float | None
    fused_score: float | None
    probability: float


class ImageResult(TypedDict):
    """The answer for one image: predictions, best first; or the problem of this image, and no predictions.

    `label_set` has the right label with the probability that was asked for, None if none was asked for. `unknown` says
    that the image looks like none of the classes, `unknown_score` which share of their images looks less strange. These
    are None where the version cannot tell, and a service older than this client sends none of the three. `id` is for
    the `answer_id` of a correction; None beside an error, and not sent by older services.
    """

    index: int
    id: NotRequired[str | None]
    filename: str | None
    predictions: list[Prediction]
    label_set: NotRequired[list[str] | None]
    unknown: NotRequired[bool | None]
    unknown_score: NotRequired[float | None]
    error: Problem | None


class Classification(TypedDict):
    """`POST /v1/classify`. All results come from `model_version`; `path` is the one that ranked.

    `alike` has groups of labels that the text tower cannot tell apart.
    """

    model_version: str
    path: PathName
    alike: NotRequired[list[list[str]]]
    results: list[ImageResult]


class Embedding(TypedDict):
    """One vector of unit norm. `kind` is what the input was taken for."""

    object: Literal["embedding"]
    index: int
    kind: Literal["text", "image"]
    embedding: list[float]


class Usage(TypedDict):
    """Tokens are not counted: these are 0."""

    prompt_tokens: int
    total_tokens: int


class Embeddings(TypedDict):
    """`POST /v1/embeddings`. `matches_stored` is None where no stored version was named."""

    object: Literal["list"]
    data: list[Embedding]
    model: str
    model_version: str
    space: str
    matches_stored: bool | None
    usage: Usage


class Reject(TypedDict):
    """A file of the upload that was rejected, and why."""

    path: str
    reason: str


class PassedOver(TypedDict):
    """A file or folder of the upload that is no data, and why; `entries` counts all that lies in it."""

    path: str
    reason: str
    entries: int


class Repeated(TypedDict):
    """A picture that the upload has twice, in two classes or on both sides of a split."""

    path: str
    label: str
    first_path: str
    first_label: str


class Renamed(TypedDict):
    """A class that is taught under another spelling than the upload's, which has something invisible in it."""

    typed: str
    taught: str


class Validation(TypedDict):
    """What an upload contains: accepted images per class, and what became of all other files.

    `held_out` counts the images of `classes` that came in a val split, `test_set` those of a test split, or of a
    val split, that were kept as a test set. `notes` say how the folders were read. Lists
    have up to 1,000 rows, and the count beside each counts all. A service older than this client sends only the first
    two and those of rejected files.
    """

    classes: dict[str, int]
    accepted: int
    held_out: NotRequired[dict[str, int]]
    rejected: list[Reject]
    rejected_count: int
    passed_over: NotRequired[list[PassedOver]]
    passed_over_count: NotRequired[int]
    repeated: NotRequired[list[Repeated]]
    repeated_count: NotRequired[int]
    test_set: NotRequired[dict[str, int]]
    renamed: NotRequired[list[Renamed]]
    notes: NotRequired[list[str]]


class Accepted(TypedDict):
    """`POST /v1/tasks`: where the job is."""

    job_id: str
    location: str
    validation: Validation


class ClassEdit(TypedDict):
    """What an edit does to the classes: `rename`, `swap`, `merge`, `delete` or `replace`."""

    kind: EditKind
    classes: list[str]
    name: str | None
    prompt: str | None


class EditAccepted(TypedDict):
    """The answer to an edit of the classes: where the job is."""

    job_id: str
    location: str
    edit: ClassEdit


class Neighbour(TypedDict):
    """Another class, and the cosine between the two."""

    label: str
    cosine: float


class TakenFor(TypedDict):
    """Another class that images of this one were answered with."""

    label: str
    images: int


class ClassFacts(TypedDict):
    """What is known of one class: `accuracy` of the fused path, None where nothing was measured.

    `accuracy_on` says what it was measured on: `test_sets`, `held_out` or `left_one_out`.
    """

    name: str
    prompt: str
    task: int
    images: int
    accuracy: float | None
    accuracy_on: str | None
    accuracy_images: int
    nearest: Neighbour | None
    nearest_text: Neighbour | None
    taken_for: list[TakenFor]


class VersionClasses(TypedDict):
    """`GET /v1/versions/{id}/classes`."""

    version_id: str
    classes: list[ClassFacts]


class ConcernedSet(TypedDict):
    """A test set with images of the classes that an edit is about."""

    test_set: str
    images: int


class EditPreview(TypedDict):
    """`POST /v1/classes/preview`: what an edit would change."""

    edit: ClassEdit
    words: str
    version_id: str
    classes_before: int
    classes_after: int
    affected: list[ClassFacts]
    statistics: Literal["exact", "approximate"]
    removed: list[str]
    remains: list[str]
    test_sets: list[ConcernedSet]


class MergeAccepted(TypedDict):
    """`POST /v1/versions/merge`: where the job is."""

    job_id: str
    location: str


class Correction(TypedDict):
    """`POST /v1/corrections`: a correction that waits to be learned. Its image is not sent back."""

    number: int
    label: str
    new_class: bool
    taught_as: str | None
    answered: str | None
    probability: float | None
    answered_by: str | None
    reason: str
    corrected_by: str
    at: str
    expires_at: str
    bytes: int


class Corrections(TypedDict):
    """`GET /v1/corrections`: those that wait, the oldest first, and when they are learned by themselves."""

    corrections: list[Correction]
    bytes: int
    learned_at_count: int | None
    learned_after_s: float | None


class CorrectionsRemoved(TypedDict):
    """`DELETE /v1/corrections`: how many were removed."""

    removed: int


class CorrectionsAccepted(TypedDict):
    """`POST /v1/corrections/learn`: where the job is, and how many it learns."""

    job_id: str
    location: str
    corrections: int


class CorrectionReport(TypedDict):
    """`corrections` in the report of a job's result: what they did to the answers. `effects` tells one by one."""

    corrections: int
    left_out: int
    mended: int
    spoiled: int
    right_before: int
    right_now: int
    sampled: int
    sampled_flipped: int
    sampled_right_before: int
    sampled_right_now: int
    effects: list[dict[str, object]]


class LikelyWrong(TypedDict):
    """A file of an upload whose label is likely wrong, and what it looks like."""

    path: str
    label: str
    likely: str
    label_probability: float
    likely_probability: float


class NearlySame(TypedDict):
    """Two files of an upload that are nearly the same picture, in two classes."""

    path: str
    label: str
    other_path: str
    other_label: str
    cosine: float


class LabelReport(TypedDict):
    """What looks wrong in the labels of an upload. Lists are cut; counts count all."""

    images: int
    likely_wrong: list[LikelyWrong]
    likely_wrong_count: int
    nearly_same: list[NearlySame]
    nearly_same_count: int


class PurgeReceipt(TypedDict):
    """That the images of corrections were removed when their job ended."""

    corrections: int
    removed_at: str
    learned: bool


class JobProgress(TypedDict):
    """How far a running job is. Times in seconds.

    `loss_history` has the losses so far by name, as pairs of step and value; a list of jobs has none.
    """

    phase: str
    step: int
    steps: int
    losses: dict[str, float]
    loss_history: NotRequired[dict[str, list[tuple[int, float]]]]
    eta_s: float | None
    elapsed_s: float | None


class GateCheck(TypedDict):
    """One check of the gate. `passed` is None where nothing was judged; `reason` says why it was not, or not passed.

    `about` names the class or the test sets that the check is about, where it is not about all.
    """

    name: str
    passed: bool | None
    value: float | None
    upper: float | None
    bound: float | None
    images: int
    reason: str
    about: NotRequired[list[str]]


class GateResult(TypedDict):
    """What the gate found. A version with reasons in `held_because` is held: published, and not promoted."""

    enabled: bool
    checks: list[GateCheck]
    held_because: list[str]


class PathAccuracy(TypedDict):
    """Top-1 accuracy among all classes of a version, in [0, 1], by each path."""

    images: int
    text: float
    visual: float
    fused: float


class Confusion(TypedDict):
    """How many images of a class got the answer of another one."""

    label: str
    answer: str
    images: int


class AgainstParent(TypedDict):
    """A version beside its parent, on test images whose labels both know."""

    version_id: str
    images: int
    right_before: int
    right: int
    right_to_wrong: int
    wrong_to_right: int


class SetEvaluation(TypedDict):
    """What a version answers to a test set. `unknown_labels` images have a label that it does not know."""

    version_id: str | None
    test_set: str
    digest: str
    images: int
    images_in_all: int
    unknown_labels: int
    overall: PathAccuracy | None
    classes: int
    per_class: dict[str, PathAccuracy]
    confusions: list[Confusion]
    confusion_count: int
    calibration_error: float | None
    coverage: float | None
    set_size: float | None
    known_told: float | None
    strangers_told: float | None
    against: AgainstParent | None
    seconds: float


class OnTestSets(TypedDict):
    """What a version answers to every test set, and by name why some could not be measured."""

    results: list[SetEvaluation]
    not_measured: dict[str, str]


class StoredTestSet(TypedDict):
    """A test set, without its images. `unknown` are its labels that the current version does not know."""

    name: str
    digest: str
    images: int
    bytes: int
    images_per_class: dict[str, int]
    unknown: list[str]
    who: str
    reason: str
    added_at: str
    expires_at: str


class StoredTestSets(TypedDict):
    """`GET /v1/test-sets`, with how much more may be stored."""

    test_sets: list[StoredTestSet]
    sets_left: int
    bytes_left: int


class StoredTestSetDetails(StoredTestSet):
    """`GET /v1/test-sets/{name}`: with the label and the SHA-256 of each image, by its number."""

    labels: list[str]
    checksums: list[str]


class PutTestSet(TypedDict):
    """`PUT /v1/test-sets/{name}`: the set, and what became of every file of the archive."""

    test_set: StoredTestSet
    validation: Validation


class RemovedTestSet(TypedDict):
    """`DELETE /v1/test-sets/{name}`: the receipt."""

    name: str
    digest: str
    images: int
    bytes: int
    removed_at: str
    who: str
    reason: str


class EvaluateAccepted(TypedDict):
    """`POST /v1/evaluations`: where the job is."""

    job_id: str
    location: str


class ReportTask(TypedDict):
    """A task of the lineage: a column of the report."""

    task: int
    classes: list[str]
    test_images: int


class ReportRow(TypedDict):
    """What a version of the lineage has right of each task; None where it was not measured."""

    version_id: str
    tasks: int
    accuracies: list[float | None]
    seen: float | None
    by_test_set: dict[str, float | None]
    in_part: bool


class Cell(TypedDict):
    """A version that was not measured on a test set."""

    version_id: str
    test_set: str


class Report(TypedDict):
    """`GET /v1/versions/{id}/report`. `measure` is the command that measures what is missing."""

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


class Counts(TypedDict):
    """Two versions on the same images. `wins` are those that `a` has right and `b` wrong."""

    images: int
    wins: int
    losses: int
    ties: int
    right_a: int
    right_b: int


class SetComparison(Counts):
    """Two versions on one test set; on all if `test_set` is None."""

    test_set: str | None
    p_value: float
    only_a_knows: int
    only_b_knows: int
    in_part: bool


class ClassComparison(Counts):
    """Two versions on the images of one class."""

    label: str


class ChangedImage(TypedDict):
    """An image that two versions answer differently."""

    test_set: str
    image: int
    sha256: str
    label: str
    a: str | None
    b: str | None


class Cost(TypedDict):
    """What a version cost; None where it is not known."""

    bytes: int | None
    update_s: float | None


class Comparison(TypedDict):
    """`GET /v1/versions/{a}/compare/{b}`. Lists are cut; the count beside each counts all."""

    a: str
    b: str
    overall: SetComparison
    test_sets: list[SetComparison]
    per_class: list[ClassComparison]
    classes: int
    changed: list[ChangedImage]
    changed_count: int
    cost: dict[str, Cost]
    not_measured: list[Cell]
    measure: str | None


class JobResult(TypedDict):
    """What a finished job made. A service older than this client sends no `gate` and no `held_because`."""

    version_id: str | None
    promoted: bool
    not_promoted_because: str | None
    held_because: NotRequired[list[str]]
    gate: NotRequired[GateResult | None]
    evaluation: dict[str, object] | None
    test_sets: NotRequired[OnTestSets | None]
    report: dict[str, object] | None


class TaskContributions(TypedDict):
    """The four scores of an earlier task and a new one: expected cosines of images and texts of both."""

    task: int
    classes: int
    image_to_text: float
    text_to_image: float
    image_to_image: float
    text_to_text: float


class NearClasses(TypedDict):
    """An old class and the new one that is nearest to it through one modality."""

    old: str
    new: str
    cosine: float


class ClassAtRisk(TypedDict):
    """An old class whose images are nearer to a new class's text than to its own, by -`margin`."""

    old: str
    new: str
    margin: float


class Forecast(TypedDict):
    """Which earlier tasks are forecast to lose most; `correlation` is what was measured on benchmarks, by data set."""

    most_affected: list[int]
    correlation: dict[str, float]


class Contributions(TypedDict):
    """`GET /v1/versions/{id}/contributions`: what new classes had in common with the old ones, before learning."""

    new_classes: int
    old_classes: int
    images: int
    tasks: list[TaskContributions]
    nearest: dict[str, list[NearClasses]]
    at_risk: list[ClassAtRisk]
    at_risk_count: int
    sigma_image: float
    forecast: Forecast | None
    no_forecast_because: str | None


class Instant(TypedDict):
    """What became of a job's version without training; `error` says why there is none."""

    version_id: str | None
    promoted: bool
    not_promoted_because: str | None
    held_because: list[str]
    gate: GateResult | None
    evaluation: dict[str, object] | None
    test_sets: NotRequired[OnTestSets | None]
    error: dict[str, str] | None
    seconds: float
    at: str


class Job(TypedDict):
    """`GET /v1/jobs/{id}`. `serving` says what of the task was put into service so far.

    `parent` is the version that it learns on beside the current one, `merges` names the two that it merges, `evaluates`
    those that it measures, `edit` says what it does to the classes, and `corrections` is how many of these it learns.
    With `dry_run` it only looks at labels. A service older than this client sends none of these, and no `instant`.
    """

    job_id: str
    name: str
    parent: NotRequired[str | None]
    merges: NotRequired[list[str] | None]
    edit: NotRequired[ClassEdit | None]
    evaluates: NotRequired[list[str] | None]
    state: JobState
    cancel_requested: bool
    progress: JobProgress | None
    corrections: NotRequired[int]
    dry_run: NotRequired[bool]
    serving: NotRequired[Literal["served_instantly", "trained", "merged", "edited", "corrected"] | None]
    instant: NotRequired[Instant | None]
    contributions: NotRequired[Contributions | None]
    labels: NotRequired[LabelReport | None]
    receipt: NotRequired[PurgeReceipt | None]
    result: JobResult | None
    error: Problem | None
    validation: Validation | None
    submitted_by: str
    created_at: str
    started_at: str | None
    finished_at: str | None
    attempts: int


class VersionSummary(TypedDict):
    """One line of the lineage. `held_because` has the gate's reasons if it holds the version.

    A merged version has an `other_parent`, an edited one says in words what was `edited`.
    """

    version_id: str
    number: int
    parent: str | None
    other_parent: NotRequired[str | None]
    created_at: str
    classes: int
    tasks: int
    made: NotRequired[Literal["instant", "trained", "merged", "edited", "corrected"] | None]
    edited: NotRequired[str | None]
    strategy: str | None
    dataset: str | None
    evaluation: dict[str, object] | None
    pinned: bool
    held_because: NotRequired[list[str]]


class DamagedVersion(TypedDict):
    """A version whose files are missing or altered."""

    version_id: str
    reason: str


class Versions(TypedDict):
    """`GET /v1/versions`: `current` is what the store points at, `serving` what this server answers with."""

    current: str | None
    serving: str | None
    versions: list[VersionSummary]
    damaged: list[DamagedVersion]


class LearnedClass(TypedDict):
    """A class of the served version. `images` counts all that it was taught with."""

    name: str
    prompt: str
    task: int
    images: int


class Classes(TypedDict):
    """`GET /v1/classes`."""

    model_version: str
    classes: list[LearnedClass]


class Dataset(TypedDict):
    """The data of an update, without any of it."""

    name: str
    digest: str
    images_per_class: dict[str, int]
    holdout_per_class: dict[str, int]


class Calibration(TypedDict):
    """Multipliers of scores whose softmax is a probability, by path; `images` is how many they were fitted on."""

    text: float
    visual: float
    fused: float
    images: int


class Familiarity(TypedDict):
    """Weights of the evidence that an image shows a taught class and not a word that was never taught."""

    visual: float
    text: float
    offset: float
    images: int


class HeldOut(TypedDict):
    """How many held-out images of all tasks prediction sets and `unknown` rest on, and of how many classes they are."""

    images: int
    classes: int


class Manifest(TypedDict):
    """`GET /v1/versions/{id}`: everything about a version except its tensors."""

    format: str
    version_id: str
    number: int
    parent: str | None
    parent_content_digest: str | None
    other_parent: NotRequired[str | None]
    other_parent_content_digest: NotRequired[str | None]
    created_at: str
    model: dict[str, object]
    weights_digest: str
    preprocessing: dict[str, object] | None
    classes: list[LearnedClass]
    tasks: int
    fusion_weight: float
    lora: dict[str, object] | None
    calibration: Calibration | None
    familiarity: Familiarity | None
    made: NotRequired[Literal["instant", "trained", "merged", "edited", "corrected"] | None]
    held_out: NotRequired[HeldOut | None]
    edit: NotRequired[ClassEdit | None]
    strategy: str | None
    settings: dict[str, object]
    seed: int | None
    job_id: str | None
    dataset: Dataset | None
    evaluation: dict[str, object] | None
    report: dict[str, object] | None
    libraries: dict[str, str]
    tensors_sha256: str
    content_digest: str
    manifest_sha256: str


Moved = TypedDict(
    "Moved",
    {
        "from": str | None,
        "to": str,
        "serving": str,
        "prepare_s": float,
        "commit_s": float,
    },
)
"""`POST /v1/admin/rollback` and `/promote`: answered once every server serves `to`.

Without Redis only the server that was asked is waited for. `prepare_s` is the time until each had the version
ready, `commit_s` the time from there until each served it.
"""


class ServingProcess(TypedDict):
    """One server, as it last reported. `reason` says why it refused a version or cannot serve CURRENT."""

    id: str
    host: str
    pid: int
    device: str
    serving: str | None
    prepared: str | None
    state: Literal["starting", "serving", "loading", "ready", "refused", "behind", "dead"]
    reason: str | None
    seen_s: float


class Rollout(TypedDict):
    """`GET /v1/admin/rollout`: what CURRENT names, what is being prepared (`target`), and how far every server is."""

    current: str | None
    target: str | None
    processes: list[ServingProcess]


class PrunedVersion(TypedDict):
    """A version that was removed, or would be, and its size."""

    version_id: str
    bytes: int


class KeptVersion(TypedDict):
    """A version that stays, and why."""

    version_id: str
    because: str


class Pruned(TypedDict):
    """`POST /v1/admin/prune`: what was removed, or would be, and what stays; `bytes` of all removed versions."""

    dry_run: bool
    removed: list[PrunedVersion]
    bytes: int
    kept: list[KeptVersion]


class Pinned(TypedDict):
    """`POST` and `DELETE /v1/versions/{id}/pin`: whether the version is pinned now."""

    version_id: str
    pinned: bool


class Verified(TypedDict):
    """`POST /v1/versions/{id}/verify`.

    `answers` compares with what it answered when it was published; it is `unknown` where that cannot be told, and
    `problem` says why. `ok` says that nothing is wrong.
    """

    version_id: str
    ok: bool
    files: Literal["intact", "damaged"]
    answers: Literal["same", "different", "unknown"]
    problem: str | None


class Gate(TypedDict):
    """`GET /v1/admin/gate`: the policy. `source` is `damaged` if its file cannot be used, and `problem` says why."""

    policy: dict[str, bool | int | float]
    source: Literal["file", "defaults", "damaged"]
    problem: str | None
