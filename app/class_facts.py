"""What is known of a version's classes without running a model: how well they are told apart, and from which others.

The routes and the page ask here. What follows from a version alone is computed once, since a version never changes.
"""

from __future__ import annotations

import contextlib
import functools
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, Field

from exchange.contracts import Evaluation
from model_store.evaluations import Evaluations
from model_store.naming import Naming, known_lineage, translate
from model_store.store import Store
from model_store.test_sets import StoredTestSets
from model_store.types import VersionId
from segp_cl.nearest import nearest_classes

MOST_CONFUSIONS = 3
_VERSIONS_KEPT = 8
_TALLIES_KEPT = 64
How = Literal["test_sets", "held_out", "left_one_out"]


class Neighbour(BaseModel):
    """Another class, and how near it is."""

    label: str
    cosine: float = Field(description="In [-1, 1]; 1: the same direction.")


class TakenFor(BaseModel):
    """Another class that images of this one were answered with."""

    label: str
    images: int


class ClassFacts(BaseModel):
    """What is known of one class of a version.

    `accuracy` is that of the fused path among all classes: on the test sets that the version was measured on, or else
    on the images that were held out or left out in turn when the class was last taught. It is null where nothing was
    measured.
    """

    name: str
    prompt: str
    task: int
    images: int = Field(description="Images that it was taught with.")
    accuracy: float | None
    accuracy_on: How | None = Field(description="What the accuracy was measured on.")
    accuracy_images: int = Field(description="Images that the accuracy rests on.")
    nearest: Neighbour | None = Field(description="The nearest other class to the visual path.")
    nearest_text: Neighbour | None = Field(description="The nearest other class by the texts.")
    taken_for: list[TakenFor] = Field(description="What its test images were answered wrongly with, most often first.")


class VersionClasses(BaseModel):
    """What is known of a version's classes, in their order."""

    version_id: str
    classes: list[ClassFacts]


@dataclass(frozen=True)
class _Measured:
    images: int
    right: int
    how: How


def class_facts(store: Store, sets: StoredTestSets, version: VersionId) -> VersionClasses:
    """Return what is known of a version's classes. Reads the store: run it in a thread.

    Raises:
        VersionNotFoundError: there is no such version.
        CorruptVersionError: its bytes are not what was published.
    """
    manifest = store.manifest(version)  # what is cached below may have been pruned meanwhile
    known = _of_version(store, version)
    tested, wrong = _on_test_sets(store, sets, version)
    classes = []
    for record in manifest.classes:
        measured = tested.get(record.name) or known.taught.get(record.name)
        classes.append(
            ClassFacts(
                name=record.name,
                prompt=record.prompt,
                task=record.task,
                images=record.images,
                accuracy=None if measured is None else measured.right / measured.images,
                accuracy_on=None if measured is None else measured.how,
                accuracy_images=0 if measured is None else measured.images,
                nearest=known.visual.get(record.name),
                nearest_text=known.text.get(record.name),
                taken_for=[
                    TakenFor(label=label, images=images)
                    for label, images in wrong.get(record.name, Counter()).most_common(MOST_CONFUSIONS)
                ],
            )
        )
    return VersionClasses(version_id=version, classes=classes)


@dataclass(frozen=True)
class _OfVersion:
    visual: Mapping[str, Neighbour]
    text: Mapping[str, Neighbour]
    taught: Mapping[str, _Measured]


@functools.lru_cache(maxsize=_VERSIONS_KEPT)
def _of_version(store: Store, version: VersionId) -> _OfVersion:
    state = store.open(version)
    names, near = state.class_names, nearest_classes(state)
    visual, text = (
        {
            name: Neighbour(label=names[found.row], cosine=round(found.cosine, 6))
            for name, found in zip(names, column, strict=bool(column))
        }
        for column in (near.visual, near.text)
    )
    return _OfVersion(visual, text, _when_taught(store, version))


def _when_taught(store: Store, version: VersionId) -> dict[str, _Measured]:
    """Return what was measured of each class when it was last taught, under the name that the version gives it."""
    lineage = known_lineage(store, version)
    found: dict[str, _Measured] = {}
    target = Naming.of(lineage)
    for at, manifest in enumerate(lineage):
        if manifest.evaluation is None:
            continue
        measured = Evaluation.model_validate(manifest.evaluation).per_class
        called = translate(measured, Naming.of(lineage[at:]), target)
        of_here: dict[str, _Measured] = {}
        for name, accuracy in measured.items():
            part = of_here.get(called[name], _Measured(0, 0, accuracy.how))  # a merged class has several
            right = part.right + round(accuracy.fused * accuracy.images)
            of_here[called[name]] = _Measured(part.images + accuracy.images, right, accuracy.how)
        found = of_here | found
    return found


def _on_test_sets(
    store: Store, sets: StoredTestSets, version: VersionId
) -> tuple[dict[str, _Measured], dict[str, Counter[str]]]:
    """Return what is right of each class on all test sets together, and what its other images were taken for."""
    images: Counter[str] = Counter()
    right: Counter[str] = Counter()
    wrong: dict[str, Counter[str]] = {}
    for test_set in sets.all():
        path = Evaluations(store.root).path(version, test_set.digest)
        with contextlib.suppress(FileNotFoundError):
            for (label, answer), count in _tally(store.root, version, test_set.digest, path.stat().st_mtime_ns):
                images[label] += count
                if answer == label:
                    right[label] += count
                elif answer is not None:
                    wrong.setdefault(label, Counter())[answer] += count
    return {name: _Measured(count, right[name], "test_sets") for name, count in images.items()}, wrong


@functools.lru_cache(maxsize=_TALLIES_KEPT)
def _tally(root: Path, version: VersionId, digest: str, at_ns: int) -> list[tuple[tuple[str, str | None], int]]:
    """Return how often each label was answered with each class on a test set. `at_ns`: when that was stored."""
    stored = Evaluations(root).get(version, digest)
    return [] if stored is None else list(Counter(stored.answers_by_number().values()).items())
