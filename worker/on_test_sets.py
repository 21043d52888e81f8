"""Measures versions on the test sets: their answers, what follows from these, and what the gate compares."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import torch
from jaxtyping import Float
from pydantic import JsonValue
from torch import Tensor

from exchange.contracts import (
    TEST_SETS_KEY,
    AgainstParent,
    Confusion,
    OnTestSets,
    PathAccuracy,
    SetEvaluation,
    utc_now,
)
from model_store.evaluations import Evaluations, PathAnswers, StoredEvaluation
from model_store.naming import Naming, Namings, translate
from model_store.store import Store
from model_store.test_sets import StoredTestSet, StoredTestSets
from model_store.types import Manifest, StoreError, VersionId
from segp_cl.calibration import expected_calibration_error
from segp_cl.class_edits import ClassEdit
from segp_cl.data.image_sets import FolderImages
from segp_cl.data.row_file import RowFile
from segp_cl.errors import KeepsightError
from segp_cl.models.backbone import Backbone
from segp_cl.runtime.classifier import Classifier, image_tower
from segp_cl.types import Scores
from worker.evidence import evenly
from worker.gate import OnSet, Pairs
from worker.seen import SeenOnce
from worker.settings import WorkerSettings

logger = logging.getLogger(__name__)

COVERAGE: Final = 0.9
"""The probability with which the measured prediction sets are to have the right label."""
KNOWN_SHARE: Final = 0.95
"""The share of images of known classes that are not to be told unknown: the server's default."""
MOST_ROWS: Final = 100
"""Most classes, and most confusions, of an evaluation that are published with the version."""

MOST_ROWS_OF_A_JOB: Final = 10
"""The same of what a job's record has."""


@dataclass(frozen=True)
class Found:
    """What a version answers to the test sets.

    Attributes:
        published: what is published with it.
        evidence: what the gate compares.
        evaluations: every answer, by the version's own id once it has one.
    """

    published: OnTestSets | None = None
    evidence: tuple[OnSet, ...] = ()
    evaluations: tuple[StoredEvaluation, ...] = field(default=(), repr=False)

    @property
    def report(self) -> dict[str, JsonValue]:
        """The part of a manifest's report about the test sets; empty if there are none."""
        return {} if self.published is None else {TEST_SETS_KEY: self.published.model_dump(mode="json")}

    def save(self, store: Store, version: VersionId) -> None:
        """Store every answer under the version's id. What cannot be written is logged, and can be measured again."""
        for evaluation in self.evaluations:
            try:
                Evaluations(store.root).save(evaluation.model_copy(update={"version_id": version}))
            except StoreError as error:
                logger.warning("what %s answers to %s was not stored: %s", version, evaluation.test_set, error)


NOTHING: Final = Found()


class Ruler:
    """Measures versions of one store on its test sets. Images pass through each image tower once.

    Args:
        store: the versions, beside which the test sets lie.
        settings: the worker's settings.
        base: the base model.
        batch_size: images per pass.
        folder: where raw features lie in files without a name; the system's for temporary files if there is none.
        on_batch: called with (batches done, batches in all) of a version after each.
        only: the name of the only set to measure on; None: all.
        most: most images, evenly over sets and classes; None: all.
    """

    def __init__(
        self,
        store: Store,
        settings: WorkerSettings,
        base: Backbone,
        *,
        batch_size: int,
        folder: Path | None = None,
        on_batch: Callable[[int, int], None] = lambda step, steps: None,
        only: str | None = None,
        most: int | None = None,
    ) -> None:
        self._store = store
        self._settings = settings
        self._base = base
        self._batch_size = batch_size
        self._folder = folder
        self._on_batch = on_batch
        self._sets = StoredTestSets(store.root)
        self._evaluations = Evaluations(store.root)
        self._seen: dict[tuple[str, str], SeenOnce] = {}
        self._labels: dict[str, tuple[str, ...]] = {}
        self._namings = Namings(store)
        self._naming: dict[str, Naming | None] = {}
        self._not_measured: dict[str, str] = {}
        self._chosen = self._choose([self._sets.get(only)] if only is not None else self._sets.all(), most)
        self._batches = sum(-(-len(numbers) // batch_size) for _, numbers in self._chosen)
        self._batch = 0

    def measure(
        self,
        classifier: Classifier,
        parents: Sequence[VersionId] = (),
        *,
        edit: ClassEdit | None = None,
        measure_parents: bool = True,
    ) -> Found:
        """Return what a version answers to the chosen images of every set, beside what its parents answer.

        Images have the labels that the version has for their classes, which `edit` may have renamed. An image is
        compared with the first parent that knows its label. What a parent answers is read where it was stored, else
        measured and stored, unless that is not wanted. A set that is removed or damaged meanwhile is left out, and why
        is told.
        """
        self._batch = 0
        results: list[SetEvaluation] = []
        evaluations: list[StoredEvaluation] = []
        evidence: list[OnSet] = []
        opened = [_Parent(self._store, self._base, parent, self._namings.as_far_as_known(parent)) for parent in parents]
        below = self._namings.as_far_as_known(parents[0] if parents else None)
        naming = below.then(classifier.state.class_names, edit)
        not_measured = dict(self._not_measured)
        for test_set, numbers in self._chosen:
            try:
                mine = self._answers(classifier, test_set, numbers, naming)
                before = [self._of_parent(each, test_set, numbers, measure=measure_parents) for each in opened]
            except KeepsightError as error:
                logger.warning("nothing is measured on the test set %s: %s", test_set.name, error)
                not_measured[test_set.name] = str(error)
                continue
            pairs = pairs_of(
                mine,
                [
                    (found, translate(found.names, parent.naming, naming))
                    for parent, found in zip(opened, before, strict=True)
                    if found is not None
                ],
            )
            result = result_of(mine)
            if pairs:
                result = result.model_copy(update={"against": _against(parents[0], pairs.values())})
            results.append(result)
            evidence.append(OnSet(test_set.name, pairs))
            evaluations.append(mine.model_copy(update={"results": result.model_dump(mode="json")}))
        published = OnTestSets(results=tuple(found.cut(MOST_ROWS) for found in results), not_measured=not_measured)
        some = bool(results or not_measured)
        return Found(published if some else None, tuple(evidence), tuple(evaluations))

    def _choose(self, sets: Sequence[StoredTestSet], most: int | None) -> list[tuple[StoredTestSet, tuple[int, ...]]]:
        """Return the sets with the numbers of the images to measure: all, or `most`, evenly of sets and classes."""
        chosen = []
        left = most
        for place, test_set in enumerate(sorted(sets, key=lambda found: found.images)):
            try:
                images = self._sets.read(test_set, numbers=())
            except KeepsightError as error:
                logger.warning("nothing is measured on the test set %s: %s", test_set.name, error)
                self._not_measured[test_set.name] = str(error)
                continue
            self._labels[test_set.digest] = tuple(images.classes[label] for label in images.labels)
            self._naming[test_set.digest] = self._namings.at(test_set.added_at)
            numbers: tuple[int, ...] = tuple(range(len(images.labels)))
            if left is not None:  # the smallest sets first, so that what they leave goes to the others
                numbers = evenly(images.labels, numbers, left // (len(sets) - place))
                left -= len(numbers)
            if numbers:
                chosen.append((test_set, numbers))
            else:
                self._not_measured[test_set.name] = f"at most {most} images of all test sets are measured here"
        return sorted(chosen, key=lambda pair: pair[0].name)

    def _of_parent(
        self, parent: _Parent, test_set: StoredTestSet, numbers: Sequence[int], *, measure: bool
    ) -> StoredEvaluation | None:
        """Return what the parent answers to these images, measured if that was not stored of all of them."""
        stored = self._evaluations.get(parent.version, test_set.digest)
        if not measure or (stored is not None and set(numbers) <= set(stored.numbers)):
            return stored
        found = self._answers(parent.classifier, test_set, numbers, parent.naming)
        found = found.model_copy(
            update={"version_id": parent.version, "results": result_of(found).model_dump(mode="json")}
        )
        Found(evaluations=(found,)).save(self._store, parent.version)
        return found

    def _answers(
        self, classifier: Classifier, test_set: StoredTestSet, numbers: Sequence[int], naming: Naming
    ) -> StoredEvaluation:
        begun = time.perf_counter()
        known = classifier.state.class_names
        called = translate(test_set.images_per_class, self._naming[test_set.digest], naming, since=test_set.added_at)
        labels = [called[self._labels[test_set.digest][number]] for number in numbers]
        names = (*known, *sorted(set(labels) - set(known)))
        position = {name: at for at, name in enumerate(names)}
        rows = _Rows(classifier)
        if known:
            seen = self._by_tower(classifier, test_set, numbers)
            for at in range(0, len(numbers), self._batch_size):
                batch = numbers[at : at + self._batch_size]
                truth = [position[label] for label in labels[at : at + self._batch_size]]
                rows.add(classifier.scores_of(seen.by(classifier, batch)), truth)
                self._batch = min(self._batch + 1, self._batches)  # a parent that is measured too has more
                self._on_batch(self._batch, self._batches)
        else:
            rows.add_nothing(len(numbers))
        return StoredEvaluation(
            version_id="",
            test_set=test_set.name,
            digest=test_set.digest,
            at=utc_now(),
            seconds=round(time.perf_counter() - begun, 3),
            images_in_all=test_set.images,
            results={},
            names=names,
            known=len(known),
            numbers=tuple(numbers),
            labels=tuple(position[label] for label in labels),
            answers=PathAnswers(text=tuple(rows.text), visual=tuple(rows.visual), fused=tuple(rows.fused)),
            probability=tuple(rows.probability),
            unknown=None if rows.unknown is None else tuple(rows.unknown),
            label_sets=None if rows.label_sets is None else tuple(rows.label_sets),
        )

    def _by_tower(self, classifier: Classifier, test_set: StoredTestSet, numbers: Sequence[int]) -> SeenOnce:
        """Return the set's images as the version's image tower sees them: each passes once, whichever version asks."""
        key = (image_tower(classifier.state), test_set.digest)
        if key not in self._seen:
            images = self._sets.read(test_set, numbers)
            files = FolderImages(
                images.files,
                images.labels,
                self._base.preprocessing,
                threads=self._settings.threads,
                max_pixels=self._settings.max_image_pixels,
            )
            folder = self._folder if self._folder is not None and self._folder.is_dir() else None
            self._seen[key] = SeenOnce(files, classifier, RowFile(len(images.files), folder=folder))
        return self._seen[key]


def measure_on_test_sets(
    classifier: Classifier,
    store: Store,
    settings: WorkerSettings,
    base: Backbone,
    *,
    parents: Sequence[VersionId],
    edit: ClassEdit | None = None,
    batch_size: int,
    folder: Path | None = None,
    on_batch: Callable[[int, int], None] = lambda step, steps: None,
    most: int | None = None,
) -> Found:
    """Return what a version that is about to be published answers to all test sets: `Ruler.measure` in one call.

    `Found.report` belongs into the manifest's report and `Found.evidence` into the gate's; `Found.save` is called once
    the version is published.
    """
    ruler = Ruler(store, settings, base, batch_size=batch_size, folder=folder, on_batch=on_batch, most=most)
    return ruler.measure(classifier, parents, edit=edit)


class _Parent:
    """A parent, whose classifier is made when it is first needed."""

    def __init__(self, store: Store, base: Backbone, version: VersionId, naming: Naming) -> None:
        self._store = store
        self._base = base
        self.version = version
        self.naming = naming
        self._classifier: Classifier | None = None

    @property
    def classifier(self) -> Classifier:
        if self._classifier is None:
            self._classifier = Classifier(self._base, self._store.open(self.version))
        return self._classifier


class _Rows:
    """A version's answers, image by image, while they are computed."""

    def __init__(self, classifier: Classifier) -> None:
        self._classifier = classifier
        self._least = classifier.least_probability("fused", COVERAGE) if classifier.state.classes else None
        self.text: list[int | None] = []
        self.visual: list[int | None] = []
        self.fused: list[int | None] = []
        self.probability: list[float] = []
        self.unknown: list[bool] | None = []
        self.label_sets: list[int] | None = None if self._least is None else []

    def add(self, scores: Scores, truth: Sequence[int]) -> None:
        """Add a batch. An image with a score that is not finite gets no answer."""
        finite = torch.stack([getattr(scores, path).isfinite().all(dim=1) for path in ("text", "visual", "fused")])
        usable = finite.all(dim=0).tolist()
        for path in ("text", "visual", "fused"):
            answers = getattr(scores, path).argmax(dim=1).tolist()
            column: list[int | None] = getattr(self, path)
            column += [answer if good else None for answer, good in zip(answers, usable, strict=True)]
        probabilities = self._classifier.class_probabilities(scores.fused, "fused").cpu().double()
        best = probabilities.max(dim=1).values.tolist()
        self.probability += [min(1.0, value) if good else 0.0 for value, good in zip(best, usable, strict=True)]
        strange = self._classifier.unknown_scores(scores)
        self.unknown = None if strange is None else [*(self.unknown or []), *(value > KNOWN_SHARE for value in strange)]
        if self._least is not None and self.label_sets is not None:
            self.label_sets += _label_sets(probabilities, truth, self._least)

    def add_nothing(self, images: int) -> None:
        """Add images about which a version without classes says nothing."""
        for column in (self.text, self.visual, self.fused):
            column += [None] * images
        self.probability += [0.0] * images
        self.unknown = None


def _label_sets(probabilities: Float[Tensor, "batch classes"], truth: Sequence[int], least: float) -> list[int]:
    """Return how many labels each prediction set has; negative where the right one is not among them."""
    inside = probabilities >= least
    inside |= probabilities >= probabilities.max(dim=1, keepdim=True).values  # the best one always
    known = inside.shape[1]
    has = [label < known and bool(row[label]) for row, label in zip(inside, truth, strict=True)]
    return [size if right else -size for size, right in zip(inside.sum(dim=1).tolist(), has, strict=True)]


def published_of(manifest: Manifest) -> OnTestSets | None:
    """Return what was published with a version, cut for a job's record; None if there were no test sets."""
    found = (manifest.report or {}).get(TEST_SETS_KEY)
    if found is None:
        return None
    published = OnTestSets.model_validate(found)
    results = (
        result.cut(MOST_ROWS_OF_A_JOB).model_copy(update={"version_id": manifest.version_id})
        for result in published.results
    )
    return published.model_copy(update={"results": tuple(results)})


def result_of(stored: StoredEvaluation) -> SetEvaluation:
    """Return what follows from a version's answers, without a comparison with its parent."""
    known = [at for at, label in enumerate(stored.labels) if label < stored.known]
    strangers = [at for at, label in enumerate(stored.labels) if label >= stored.known]
    answers = stored.answers
    right = {
        path: [answer == label for answer, label in zip(column, stored.labels, strict=True)]
        for path, column in (("text", answers.text), ("visual", answers.visual), ("fused", answers.fused))
    }

    def accuracy(chosen: Sequence[int]) -> PathAccuracy:
        means = {path: sum(hits[at] for at in chosen) / len(chosen) for path, hits in right.items()}
        return PathAccuracy(images=len(chosen), **means)

    by_class: dict[int, list[int]] = {}
    for at in known:
        by_class.setdefault(stored.labels[at], []).append(at)
    per_class = sorted(
        ((stored.names[label], accuracy(chosen)) for label, chosen in by_class.items()),
        key=lambda item: (item[1].fused, item[0]),
    )
    wrong = Counter(
        (stored.names[stored.labels[at]], stored.names[answer])
        for at in known
        if (answer := answers.fused[at]) is not None and not right["fused"][at]
    )
    confusions = sorted(wrong.items(), key=lambda item: (-item[1], item[0]))
    sets = stored.label_sets
    return SetEvaluation(
        version_id=stored.version_id or None,
        test_set=stored.test_set,
        digest=stored.digest,
        images=len(stored.numbers),
        images_in_all=stored.images_in_all,
        unknown_labels=len(strangers),
        overall=accuracy(known) if known else None,
        classes=len(per_class),
        per_class=dict(per_class),
        confusions=tuple(Confusion(label=a, answer=b, images=count) for (a, b), count in confusions),
        confusion_count=len(confusions),
        calibration_error=_calibration_error([(stored.probability[at], right["fused"][at]) for at in known]),
        coverage=_share([sets[at] > 0 for at in known]) if sets is not None else None,
        set_size=sum(abs(sets[at]) for at in known) / len(known) if sets is not None and known else None,
        known_told=_share([stored.unknown[at] for at in known]) if stored.unknown is not None else None,
        strangers_told=_share([stored.unknown[at] for at in strangers]) if stored.unknown is not None else None,
        seconds=stored.seconds,
    )


def pairs_of(
    mine: StoredEvaluation, before: Iterable[tuple[StoredEvaluation, Mapping[str, str]]]
) -> Mapping[str, Pairs]:
    """Return a version's answers beside those of the first parent that knows an image's label, by class.

    With each parent's answers comes what the version calls the parent's classes.
    """
    earlier: dict[int, bool] = {}
    for parent, called in before:
        rows = parent.answers_by_number()
        rights = {
            number: answer is not None and called.get(answer, answer) == called.get(label, label)
            for number, (label, answer) in rows.items()
        }
        earlier = rights | earlier
    pairs: dict[str, Pairs] = {}
    for number, (label, answer) in mine.answers_by_number().items():
        if number in earlier:
            was, is_right = earlier[number], answer == label
            one = Pairs(images=1, before=int(was), right=int(is_right), lost=int(was and not is_right))
            pairs[label] = pairs.get(label, Pairs()).plus(one)
    return pairs


def _against(version: VersionId, pairs: Iterable[Pairs]) -> AgainstParent:
    total = Pairs()
    for some in pairs:
        total = total.plus(some)
    return AgainstParent(
        version_id=version,
        images=total.images,
        right_before=total.before,
        right=total.right,
        right_to_wrong=total.lost,
        wrong_to_right=total.won,
    )


def _share(values: Sequence[bool]) -> float | None:
    return sum(values) / len(values) if values else None


def _calibration_error(best: Sequence[tuple[float, bool]]) -> float | None:
    """Return the ECE of answers with these probabilities, which are right or not; None without any."""
    if not best:
        return None
    # the others' probabilities do not matter: two columns say which answer was best, and whether it was right
    probabilities = torch.tensor([[p, -1.0] for p, _ in best], dtype=torch.float64)
    return expected_calibration_error(probabilities, torch.tensor([int(not right) for _, right in best]))
