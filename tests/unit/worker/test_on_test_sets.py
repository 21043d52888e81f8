"""Every new version is measured on all test sets, beside its parent, and what it answers is stored."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path

import pytest

from exchange.contracts import OnTestSets
from model_store.evaluations import Evaluations, PathAnswers, StoredEvaluation
from model_store.store import Store
from model_store.test_sets import SourceImage, StoredTestSet, StoredTestSets
from model_store.types import VersionId
from segp_cl.models.backbone import Backbone
from segp_cl.runtime.classifier import Classifier
from tests.unit.worker.test_pipeline import (
    BIRDS,
    PETS,
    Colours,
    first,
    picture,
    settings,
    spooled,
    store,
    update,
)
from worker.instant import run_instant
from worker.on_test_sets import Ruler, measure_on_test_sets, pairs_of, published_of, result_of
from worker.settings import WorkerSettings

__all__ = ["first", "settings", "store"]


def stored_set(
    root: Path, folder: Path, colours: Colours, name: str = "field", *, images: int = 4, labels: Mapping[str, str] = {}
) -> StoredTestSet:
    """Store pictures of these colours, which the tasks do not have; `labels` renames classes."""
    folder.mkdir(exist_ok=True)
    sources = []
    for label, colour in enumerate(colours.values()):
        for number in range(images):
            path = folder / f"{label}-{number}.png"
            path.write_bytes(picture(colour, 20 + number))
            sources.append(SourceImage(path, label))
    classes = [labels.get(label, label) for label in colours]
    return StoredTestSets(root).put(name, classes, sources, who="ann", lifetime=timedelta(days=1))


def found_in(store: Store, version: VersionId) -> OnTestSets:
    found = published_of(store.manifest(version))
    assert found is not None
    return found


@pytest.fixture
def both(settings: WorkerSettings, tmp_path: Path, first: VersionId) -> StoredTestSet:
    return stored_set(settings.store, tmp_path / "both", {**PETS, **BIRDS})


def test_a_version_publishes_what_it_answers_to_every_set(
    settings: WorkerSettings, store: Store, both: StoredTestSet
) -> None:
    outcome = update(spooled(settings, PETS, strategy="prototypes"), settings)
    (found,) = found_in(store, outcome.version_id).results
    assert outcome.test_sets is not None
    assert outcome.test_sets.results == (found,)
    assert (found.test_set, found.digest, found.version_id) == ("field", both.digest, outcome.version_id)
    assert (found.images, found.images_in_all, found.unknown_labels) == (16, 16, 8)
    assert found.overall is not None
    assert (found.overall.images, found.overall.visual) == (8, 1.0)
    assert set(found.per_class) == {"cat", "dog"}
    assert sum(confusion.images for confusion in found.confusions) == round(8 * (1 - found.overall.fused))
    assert found.calibration_error is not None
    assert found.against is None, "the first version knows none of the labels"
    assert "test_sets" not in outcome.report
    stored = Evaluations(store.root).get(outcome.version_id, both.digest)
    assert stored is not None
    assert stored.is_whole
    assert result_of(stored).overall == found.overall
    assert {stored.names[label] for label in stored.labels} == {"cat", "dog", "owl", "jay"}
    assert stored.names[: stored.known] == ("cat", "dog")


def test_a_version_is_compared_with_its_parent_whose_answers_are_stored_too(
    settings: WorkerSettings, store: Store, first: VersionId, tmp_path: Path
) -> None:
    parent = update(spooled(settings, PETS, strategy="prototypes"), settings).version_id
    both = stored_set(settings.store, tmp_path / "both", {**PETS, **BIRDS})  # the parent was never measured on it
    outcome = update(spooled(settings, BIRDS, strategy="prototypes"), settings)
    (found,) = found_in(store, outcome.version_id).results
    assert found.unknown_labels == 0
    assert found.against is not None
    assert (found.against.version_id, found.against.images) == (parent, 8)
    assert found.against.right == (
        found.against.right_before - found.against.right_to_wrong + found.against.wrong_to_right
    )
    before, after = (Evaluations(store.root).get(version, both.digest) for version in (parent, outcome.version_id))
    assert before is not None
    assert after is not None
    assert sum(answer == label for label, answer in before.answers_by_number().values()) == found.against.right_before
    gate = outcome.gate
    assert gate is not None
    (check,) = [check for check in gate.checks if check.name == "test_sets"]
    assert check.passed is True
    assert check.images == 8


def test_a_version_that_swaps_labels_of_a_test_set_is_held_and_the_set_is_named(
    settings: WorkerSettings, store: Store, first: VersionId, tmp_path: Path
) -> None:
    update(spooled(settings, PETS, strategy="prototypes"), settings)
    stored_set(settings.store, tmp_path / "field", PETS, images=12)
    swapped = {"cat": PETS["dog"], "dog": PETS["cat"]}
    outcome = update(spooled(settings, swapped, images=24, extend=True, strategy="prototypes"), settings)
    assert not outcome.promoted
    assert any("test set 'field'" in reason for reason in outcome.held_because)
    assert store.current() != outcome.version_id


def test_an_instant_version_is_measured_on_so_many_images_evenly(
    settings: WorkerSettings, store: Store, both: StoredTestSet, tmp_path: Path
) -> None:
    stored_set(settings.store, tmp_path / "small", PETS, "small", images=1)
    few = settings.model_copy(update={"instant_test_images": 10})
    outcome = run_instant(spooled(few, {**PETS, **BIRDS}), few)
    assert outcome.test_sets is not None
    field, small = outcome.test_sets.results
    assert (field.images, field.images_in_all, small.images) == (8, 16, 2)
    assert {name: found.images for name, found in field.per_class.items()} == {"cat": 2, "dog": 2, "owl": 2, "jay": 2}
    assert outcome.version_id is not None
    stored = Evaluations(store.root).get(outcome.version_id, both.digest)
    assert stored is not None
    assert not stored.is_whole
    none = few.model_copy(update={"instant_test_images": 0})
    outcome = run_instant(spooled(none, {"emu": (9, 9, 9)}), none)
    assert outcome.test_sets is not None
    assert outcome.test_sets.results == ()
    assert "at most 0 images" in outcome.test_sets.not_measured["field"]


def test_images_pass_once_through_a_tower_that_versions_share(
    settings: WorkerSettings,
    store: Store,
    both: StoredTestSet,
    tiny_backbone: Backbone,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    versions = [update(spooled(settings, task, strategy="prototypes"), settings).version_id for task in (PETS, BIRDS)]
    passed = 0
    features = Classifier.features

    def counted(self: Classifier, pixels: object) -> object:
        nonlocal passed
        passed += len(pixels)  # type: ignore[arg-type]
        return features(self, pixels)  # type: ignore[arg-type]

    monkeypatch.setattr(Classifier, "features", counted)
    ruler = Ruler(store, settings, tiny_backbone, batch_size=5)
    for version in versions:
        ruler.measure(Classifier(tiny_backbone, store.open(version)))
    assert passed == both.images


def test_a_damaged_set_is_told_and_ends_no_update(
    settings: WorkerSettings, store: Store, both: StoredTestSet, tmp_path: Path
) -> None:
    sets = StoredTestSets(store.root)
    sets.read(both).files[3].write_bytes(b"no image")
    stored_set(settings.store, tmp_path / "other", PETS, "other")
    outcome = update(spooled(settings, PETS, strategy="prototypes"), settings)
    assert outcome.promoted
    assert outcome.test_sets is not None
    assert [found.test_set for found in outcome.test_sets.results] == ["other"]
    assert "altered" in outcome.test_sets.not_measured["field"]


def test_a_store_without_test_sets_publishes_nothing_about_them(
    settings: WorkerSettings, store: Store, first: VersionId
) -> None:
    outcome = update(spooled(settings, PETS, strategy="prototypes"), settings)
    assert outcome.test_sets is None
    assert "test_sets" not in (store.manifest(outcome.version_id).report or {})


def test_a_version_without_classes_is_measured_without_an_answer(
    settings: WorkerSettings, store: Store, both: StoredTestSet, first: VersionId, tiny_backbone: Backbone
) -> None:
    classifier = Classifier(tiny_backbone, store.open(first))
    found = measure_on_test_sets(classifier, store, settings, tiny_backbone, parents=(), batch_size=4)
    assert found.published is not None
    (result,) = found.published.results
    assert (result.images, result.unknown_labels, result.overall) == (16, 16, None)


def evaluation(**changes: object) -> StoredEvaluation:
    """Six images: of a cat three right and one taken for a dog, one dog without an answer, one stranger."""
    given = {
        "version_id": "000001-0123456789ab",
        "test_set": "field",
        "digest": "a" * 64,
        "at": "2026-11-27T00:00:00Z",
        "seconds": 1.0,
        "images_in_all": 6,
        "results": {},
        "names": ("cat", "dog", "yak"),
        "known": 2,
        "numbers": (0, 1, 2, 3, 4, 5),
        "labels": (0, 0, 0, 0, 1, 2),
        "answers": PathAnswers(text=(0, 0, 1, 1, None, 1), visual=(0, 1, 1, 1, None, 0), fused=(0, 0, 0, 1, None, 0)),
        "probability": (0.9, 0.9, 0.9, 0.9, 0.0, 0.7),
        "unknown": (False, False, False, True, False, True),
        "label_sets": (1, 1, 2, -1, -1, -2),
        **changes,
    }
    return StoredEvaluation.model_validate(given)


def test_figures_by_hand() -> None:
    found = result_of(evaluation())
    assert found.overall is not None
    assert (found.overall.images, found.overall.fused, found.overall.text, found.overall.visual) == (5, 0.6, 0.4, 0.2)
    assert {name: (of.images, of.fused) for name, of in found.per_class.items()} == {"dog": (1, 0.0), "cat": (4, 0.75)}
    assert list(found.per_class) == ["dog", "cat"], "the worst first"
    assert [(c.label, c.answer, c.images) for c in found.confusions] == [("cat", "dog", 1)]
    assert (found.images, found.unknown_labels, found.classes, found.confusion_count) == (6, 1, 2, 1)
    # four answers of probability 0.9, three right; one of 0, wrong: |3 - 3.6| / 5
    assert found.calibration_error == pytest.approx(0.6 / 5)
    assert found.coverage == pytest.approx(3 / 5)
    assert found.set_size == pytest.approx(6 / 5)
    assert found.known_told == pytest.approx(1 / 5)
    assert found.strangers_told == 1.0


def test_pairs_count_images_whose_label_both_know() -> None:
    before = evaluation(
        names=("dog", "cat"),
        known=2,
        numbers=(0, 1, 2, 4, 5, 6),
        labels=(1, 1, 1, 0, 0, 0),
        answers=PathAnswers(text=(1,) * 6, visual=(1,) * 6, fused=(1, 0, 1, 0, 0, 0)),
    )
    pairs = pairs_of(evaluation(), [(before, {})])
    cat, dog = pairs["cat"], pairs["dog"]
    assert (cat.images, cat.before, cat.right, cat.lost, cat.won) == (3, 2, 3, 0, 1)
    assert (dog.images, dog.before, dog.right, dog.lost, dog.won) == (1, 1, 0, 1, 0)
    assert set(pairs) == {"cat", "dog"}


def test_an_image_is_compared_with_the_first_parent_that_knows_its_label() -> None:
    answers = PathAnswers(text=(0,), visual=(0,), fused=(0,))
    columns = {"probability": (0.9,), "unknown": None, "label_sets": None, "answers": answers}
    ours = evaluation(names=("cat",), known=1, numbers=(0,), labels=(0,), **columns)
    theirs = evaluation(names=("dog",), known=1, numbers=(4,), labels=(0,), **columns)
    pairs = pairs_of(evaluation(), [(ours, {}), (theirs, {})])
    assert {name: (of.before, of.right) for name, of in pairs.items()} == {"cat": (1, 1), "dog": (1, 0)}
