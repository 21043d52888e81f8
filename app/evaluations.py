"""What versions answer to the test sets: queues what is to be measured, reports, and compares two versions.

Everything here reads what was stored when a version was measured; nothing runs a model.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from app.errors import NotEvaluatedError
from app.queueing import queue_without_images
from app.schemas import PathName
from app.set_schemas import (
    Cell,
    ChangedImage,
    ClassComparison,
    Comparison,
    Cost,
    Counts,
    Report,
    ReportRow,
    ReportTask,
    SetComparison,
)
from exchange.contracts import JobRecord, SetEvaluation, UpdateJob, new_job_id, utc_now
from exchange.jobs import Jobs
from exchange.spool import Spool
from model_store.evaluations import Evaluations, StoredEvaluation
from model_store.naming import Naming, Namings, translate
from model_store.store import Store
from model_store.test_sets import StoredTestSet, StoredTestSets
from model_store.types import Manifest, NoSuchTestSetError, VersionId
from segp_cl.metrics import AccuracyMatrix, average_accuracy, backward_transfer, forgetting, last_accuracy, sign_test

logger = logging.getLogger(__name__)

MAX_CHANGED = 1000
MAX_CLASSES = 100
_MOST_NAMED = 20


def queue_evaluation(
    store: Store,
    sets: StoredTestSets,
    spool: Spool,
    jobs: Jobs,
    versions: Sequence[VersionId],
    test_set: str | None,
    *,
    submitted_by: str,
) -> JobRecord:
    """Queue the job that measures versions on a test set, or on all. Synchronous: run it in a thread.

    Raises:
        VersionNotFoundError: there is no such version.
        NoSuchTestSetError: there is no such set, or none at all.
        CorruptVersionError: the manifest of one of them is damaged.
        BrokerUnavailableError: Redis is gone; the job does not exist.
        OSError: its note cannot be written; the job does not exist.
    """
    jobs.ping()
    for version in versions:
        store.manifest(version)
    _chosen(sets, test_set)
    named = f"{len(set(versions))} versions" if len(set(versions)) > 1 else versions[0]
    job = UpdateJob(
        job_id=new_job_id(),
        task_name=f"evaluation of {named} on {test_set or 'all test sets'}",
        evaluates=tuple(dict.fromkeys(versions)),
        test_set=test_set,
        submitted_at=utc_now(),
        submitted_by=submitted_by,
        submitted_on=store.readable_current(),
    )
    record = queue_without_images(jobs, spool, job)
    logger.info("evaluation accepted job_id=%s versions=%s", job.job_id, " ".join(versions))
    return record


def evaluation_of(store: Store, sets: StoredTestSets, version: VersionId, test_set: str) -> SetEvaluation:
    """Return what a version answers to a test set, with all classes and confusions.

    Raises:
        VersionNotFoundError: there is no such version.
        NoSuchTestSetError: there is no such set.
        NotEvaluatedError: it was not measured yet.
    """
    store.manifest(version)
    stored = Evaluations(store.root).get(version, sets.get(test_set).digest)
    if stored is None:
        raise NotEvaluatedError([version], test_set)
    return SetEvaluation.model_validate({**stored.results, "version_id": version, "test_set": test_set})


# --- the report ---------------------------------------------------------------------------------------------------


def report_of(
    store: Store, sets: StoredTestSets, version: VersionId, *, path: PathName, test_set: str | None
) -> Report:
    """Return R over the tasks of a version's lineage, and the metrics that follow from it.

    R_ij is the accuracy on the images of task j's classes, in all test sets, by the last version that was made of
    task i.

    Raises:
        VersionNotFoundError: there is no such version.
        CorruptVersionError: a manifest of the lineage is damaged.
        NoSuchTestSetError: there is no such set.
    """
    lineage = store.lineage(version)
    chosen = [sets.get(test_set)] if test_set is not None else sets.all()
    task_of = {known.name: known.task for known in lineage[0].classes}
    tasks = sorted(set(task_of.values()))
    classes = {task: [name for name, of in task_of.items() if of == task] for task in tasks}
    naming, namings = Naming.of(lineage), Namings(store)
    labelled = [_Labelled.by(namings, found, naming) for found in chosen]
    test_images = {
        task: sum(found.images.get(name, 0) for found in labelled for name in classes[task]) for task in tasks
    }
    rows = [
        _Row.of(
            Evaluations(store.root),
            manifest,
            labelled,
            path=path,
            task_of=task_of,
            called=translate(
                [known.name for known in manifest.classes], Naming.of(lineage[lineage.index(manifest) :]), naming
            ),
        )
        for manifest in _last_of_each_task(lineage)
    ]
    not_measured = [Cell(version_id=row.manifest.version_id, test_set=name) for row in rows for name in row.missing]
    metrics = _metrics(rows, tasks, classes, test_images)
    return Report(
        version_id=version,
        path=path,
        test_sets=[found.name for found in chosen],
        tasks=[ReportTask(task=task, classes=classes[task], test_images=test_images[task]) for task in tasks],
        rows=[
            ReportRow(
                version_id=row.manifest.version_id,
                tasks=row.manifest.tasks,
                accuracies=[row.accuracy(task) for task in tasks],
                seen=row.seen,
                by_test_set=row.by_test_set,
                in_part=row.in_part,
            )
            for row in rows
        ],
        **metrics,
        not_measured=not_measured,
        measure=_command(not_measured, test_set),
    )


def unknown_labels(namings: Namings, test_set: StoredTestSet, naming: Naming) -> list[str]:
    """Return the labels of a test set that a version does not know, by this name or another."""
    called = labels_by(namings, test_set, naming)
    return [label for label in test_set.images_per_class if called[label] not in naming.classes]


def labels_by(namings: Namings, test_set: StoredTestSet, naming: Naming) -> dict[str, str]:
    """Return what a version calls the classes that a test set was labelled with."""
    return translate(test_set.images_per_class, namings.at(test_set.added_at), naming, since=test_set.added_at)


def _last_of_each_task(lineage: Sequence[Manifest]) -> list[Manifest]:
    """Return the newest version of the lineage with each number of tasks, oldest first; none without classes."""
    newest: dict[int, Manifest] = {}
    for manifest in lineage:
        newest.setdefault(manifest.tasks, manifest)
    return [newest[tasks] for tasks in sorted(newest) if newest[tasks].classes]


@dataclass(frozen=True)
class _Labelled:
    """A test set with the numbers of images of each class, as the version that is asked about calls the classes."""

    test_set: StoredTestSet
    images: Mapping[str, int]

    @classmethod
    def by(cls, namings: Namings, test_set: StoredTestSet, naming: Naming) -> _Labelled:
        called = labels_by(namings, test_set, naming)
        images: Counter[str] = Counter()
        for label, count in test_set.images_per_class.items():
            images[called[label]] += count
        return cls(test_set, images)


@dataclass
class _Row:
    """What a version has right of each task: images and right answers, as far as it was measured."""

    manifest: Manifest
    counts: dict[int, tuple[int, int]] = field(default_factory=dict)
    unmeasured_tasks: set[int] = field(default_factory=set)
    by_test_set: dict[str, float | None] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    in_part: bool = False

    @classmethod
    def of(
        cls,
        evaluations: Evaluations,
        manifest: Manifest,
        chosen: Sequence[_Labelled],
        *,
        path: PathName,
        task_of: Mapping[str, int],
        called: Mapping[str, str],
    ) -> _Row:
        row = cls(manifest)
        known = {called[c.name] for c in manifest.classes}
        for labelled in chosen:
            test_set = labelled.test_set
            asked = {name for name in labelled.images if name in known and name in task_of}
            if not asked:
                continue
            stored = evaluations.get(manifest.version_id, test_set.digest)
            if stored is None:
                row.missing.append(test_set.name)
                row.by_test_set[test_set.name] = None
                row.unmeasured_tasks |= {task_of[name] for name in asked}
                continue
            row.in_part |= not stored.is_whole
            row._count(stored, path, task_of, test_set.name, called)
        return row

    def _count(
        self,
        stored: StoredEvaluation,
        path: PathName,
        task_of: Mapping[str, int],
        name: str,
        called: Mapping[str, str],
    ) -> None:
        images = right = 0
        names = [called.get(each, each) for each in stored.names]
        for label, answer in zip(stored.labels, getattr(stored.answers, path), strict=True):
            if label >= stored.known or (task := task_of.get(names[label])) is None:
                continue
            hit = int(answer is not None and names[answer] == names[label])
            before = self.counts.get(task, (0, 0))
            self.counts[task] = (before[0] + 1, before[1] + hit)
            images, right = images + 1, right + hit
        self.by_test_set[name] = right / images if images else None

    def accuracy(self, task: int) -> float | None:
        """Return the accuracy on a task's images; None where a set with such images was not measured, or has none."""
        images, right = self.counts.get(task, (0, 0))
        return None if task in self.unmeasured_tasks or not images else right / images

    @property
    def seen(self) -> float | None:
        """Return the accuracy on the images of all tasks; None where some were not measured."""
        images = sum(images for images, _ in self.counts.values())
        if self.unmeasured_tasks or not images:
            return None
        return sum(right for _, right in self.counts.values()) / images


def _metrics(
    rows: Sequence[_Row],
    tasks: Sequence[int],
    classes: Mapping[int, Sequence[str]],
    test_images: Mapping[int, int],
) -> dict[str, Any]:
    """Return Last, Avg, BWT and Forgetting of the tasks that have test images; None where a needed cell is missing."""
    none = dict.fromkeys(("last", "average", "backward_transfer", "forgetting"))
    columns = [task for task in tasks if test_images[task]]
    if not rows or not columns:
        return none
    # the version after each task; the last one is the version that was asked about, whatever was learned since
    after = [next((row for row in rows if _knows(row, classes[task])), rows[-1]) for task in columns[:-1]]
    after.append(rows[-1])
    cells: list[list[float]] = []
    for place, row in enumerate(after):
        accuracies = [row.accuracy(task) for task in columns[: place + 1]]
        if None in accuracies:
            last = rows[-1].seen if place < len(after) - 1 else None
            return none | {"last": last}
        cells.append([value or 0.0 for value in accuracies] + [0.0] * (len(columns) - place - 1))
    matrix = AccuracyMatrix.of(cells, [test_images[task] for task in columns])
    several = matrix.tasks > 1
    return {
        "last": last_accuracy(matrix),
        "average": average_accuracy(matrix),
        "backward_transfer": backward_transfer(matrix) if several else None,
        "forgetting": forgetting(matrix) if several else None,
    }


def _knows(row: _Row, names: Iterable[str]) -> bool:
    known = {c.name for c in row.manifest.classes}
    return any(name in known for name in names)


# --- the comparison -----------------------------------------------------------------------------------------------


def compare(
    store: Store, sets: StoredTestSets, a: VersionId, b: VersionId, *, test_set: str | None, most: int
) -> Comparison:
    """Compare two versions on the test images that both were measured on, and whose labels both know.

    Args:
        store: the versions.
        sets: the test sets.
        a: a version.
        b: another one.
        test_set: the only set to compare on; None: all that both were measured on.
        most: most changed images in the answer.

    Raises:
        VersionNotFoundError: there is no such version.
        NoSuchTestSetError: there is no such set, or none at all.
        NotEvaluatedError: one of them was not measured yet.
    """
    manifests = {side: store.manifest(version) for side, version in (("a", a), ("b", b))}
    evaluations = Evaluations(store.root)
    called = _common_names(store, manifests["a"], manifests["b"])
    not_measured: list[Cell] = []
    compared: list[_Compared] = []
    for found in _chosen(sets, test_set):
        pair = [evaluations.get(version, found.digest) for version in (a, b)]
        lacks = [version for version, stored in zip((a, b), pair, strict=True) if stored is None]
        if pair[0] is not None and pair[1] is not None:
            checksums = sets.read(found, numbers=()).checksums
            compared.append(_Compared.of(found.name, checksums, pair[0], pair[1], called))
        not_measured += [Cell(version_id=version, test_set=found.name) for version in dict.fromkeys(lacks)]
    if not compared:
        raise NotEvaluatedError(list(dict.fromkeys(cell.version_id for cell in not_measured)), test_set)
    rows = _each_once(compared)
    by_class: dict[str, list[_Pair]] = {}
    for row in rows:
        by_class.setdefault(row.label, []).append(row)
    per_class = sorted(
        (ClassComparison(label=label, **_counts(some)) for label, some in by_class.items()),
        key=lambda counts: (-abs(counts.wins - counts.losses), -counts.wins, counts.label),
    )
    changed = [row for row in rows if row.a != row.b]
    return Comparison(
        a=a,
        b=b,
        overall=_comparison(None, compared),
        test_sets=[_comparison(each.test_set, [each]) for each in compared],
        per_class=per_class[:MAX_CLASSES],
        classes=len(per_class),
        changed=[
            ChangedImage(test_set=row.test_set, image=row.image, sha256=row.sha256, label=row.label, a=row.a, b=row.b)
            for row in changed[:most]
        ],
        changed_count=len(changed),
        cost={
            "a": _cost(store, manifests["a"]),
            "b": _cost(store, manifests["b"]),
        },
        not_measured=not_measured,
        measure=_command(not_measured, test_set),
    )


@dataclass(frozen=True)
class _Pair:
    test_set: str
    image: int
    sha256: str
    label: str
    a: str | None
    b: str | None


@dataclass(frozen=True)
class _Compared:
    """Two versions' answers to the images of a set whose labels both know."""

    test_set: str
    a: StoredEvaluation
    b: StoredEvaluation
    rows: list[_Pair]
    only_a: int
    only_b: int

    @classmethod
    def of(
        cls,
        test_set: str,
        checksums: Sequence[str],
        a: StoredEvaluation,
        b: StoredEvaluation,
        called: tuple[Mapping[str, str], Mapping[str, str]],
    ) -> _Compared:
        ours, theirs = (
            {
                number: (names.get(label, label), names.get(answer, answer) if answer is not None else None)
                for number, (label, answer) in stored.answers_by_number().items()
            }
            for stored, names in zip((a, b), called, strict=True)
        )
        both = set(a.numbers) & set(b.numbers)
        rows = [
            _Pair(test_set, number, checksums[number], ours[number][0], ours[number][1], theirs[number][1])
            for number in sorted(ours.keys() & theirs.keys())
        ]
        return cls(
            test_set, a, b, rows, len((ours.keys() - theirs.keys()) & both), len((theirs.keys() - ours.keys()) & both)
        )


def _common_names(store: Store, a: Manifest, b: Manifest) -> tuple[Mapping[str, str], Mapping[str, str]]:
    """Return what the newer of two versions calls the classes of each: what it has merged is one class of both."""
    namings = Namings(store)
    names = [namings.of(manifest.version_id) for manifest in (a, b)]
    newer = names[a.number < b.number]
    ours, theirs = (translate(each.classes, each, newer) for each in names)
    return ours, theirs


def _each_once(compared: Sequence[_Compared]) -> list[_Pair]:
    """Return all images; one that lies in several sets under the same label counts once."""
    rows = {(row.sha256, row.label): row for each in reversed(compared) for row in reversed(each.rows)}
    return sorted(rows.values(), key=lambda row: (row.test_set, row.image))


def _counts(rows: Sequence[_Pair]) -> dict[str, int]:
    right_a, right_b = ([getattr(row, side) == row.label for row in rows] for side in ("a", "b"))
    wins = sum(a and not b for a, b in zip(right_a, right_b, strict=True))
    losses = sum(b and not a for a, b in zip(right_a, right_b, strict=True))
    counts = Counts(
        images=len(rows),
        wins=wins,
        losses=losses,
        ties=len(rows) - wins - losses,
        right_a=sum(right_a),
        right_b=sum(right_b),
    )
    return counts.model_dump()


def _comparison(test_set: str | None, compared: Sequence[_Compared]) -> SetComparison:
    counts = _counts(_each_once(compared))
    return SetComparison(
        test_set=test_set,
        p_value=sign_test(counts["wins"], counts["losses"]),
        only_a_knows=sum(each.only_a for each in compared),
        only_b_knows=sum(each.only_b for each in compared),
        in_part=not all(each.a.is_whole and each.b.is_whole for each in compared),
        **counts,
    )


def _cost(store: Store, manifest: Manifest) -> Cost:
    spent = (manifest.report or {}).get("worker_seconds") or (manifest.report or {}).get("seconds")
    seconds = [value for value in spent.values() if isinstance(value, int | float)] if isinstance(spent, dict) else []
    return Cost(
        bytes=store.bytes_of(manifest.version_id),
        update_s=round(sum(seconds), 3) if seconds else None,
    )


# --- what both need -----------------------------------------------------------------------------------------------


def _chosen(sets: StoredTestSets, test_set: str | None) -> list[StoredTestSet]:
    if test_set is not None:
        return [sets.get(test_set)]
    found = sets.all()
    if not found:
        raise NoSuchTestSetError(None)
    return found


def _command(cells: Sequence[Cell], test_set: str | None) -> str | None:
    """Return the command that measures what is missing; None if nothing is."""
    versions = list(dict.fromkeys(cell.version_id for cell in cells))[:_MOST_NAMED]
    if not versions:
        return None
    named = test_set or (cells[0].test_set if len({cell.test_set for cell in cells}) == 1 else None)
    return " ".join(["keepsight evaluate", *versions, *(() if named is None else ("--test-set", named))])
