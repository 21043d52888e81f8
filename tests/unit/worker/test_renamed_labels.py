"""A rename reaches the test sets that are stored, and a rollback takes it back."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.evaluations import compare, report_of, unknown_labels
from exchange.contracts import SetEvaluation, UpdateJob, new_job_id, utc_now
from model_store.naming import Namings
from model_store.store import Store
from model_store.test_sets import StoredTestSet, StoredTestSets
from model_store.types import VersionId
from tests.unit.worker.test_editing import MERGE, RENAME, SWAP, edit_job, pets
from tests.unit.worker.test_on_test_sets import found_in, stored_set
from tests.unit.worker.test_pipeline import BIRDS, PETS, first, settings, spooled, store, update
from worker.evaluating import evaluate_versions
from worker.settings import WorkerSettings

__all__ = ["first", "pets", "settings", "store"]


@pytest.fixture
def field(settings: WorkerSettings, tmp_path: Path, pets: VersionId) -> StoredTestSet:
    return stored_set(settings.store, tmp_path / "field", PETS)


def measured(store: Store, settings: WorkerSettings, *versions: VersionId) -> dict[VersionId, SetEvaluation]:
    job = UpdateJob(
        job_id=new_job_id(), task_name="measure", evaluates=versions, submitted_at=utc_now(), submitted_by="bob"
    )
    outcome = evaluate_versions(store, job, settings, lambda progress: None)
    assert outcome.test_sets is not None
    return {found.version_id or "": found for found in outcome.test_sets.results}


def test_images_under_the_old_name_count_as_the_renamed_class(
    settings: WorkerSettings, store: Store, pets: VersionId, field: StoredTestSet
) -> None:
    outcome = update(edit_job(RENAME), settings)
    (found,) = found_in(store, outcome.version_id).results
    assert set(found.per_class) == {"puss", "dog"}
    assert found.unknown_labels == 0
    assert found.against is not None
    assert (found.against.images, found.against.right_to_wrong) == (8, 0), "the class is the same as before"
    sets = StoredTestSets(settings.store)
    assert unknown_labels(Namings(store), field, Namings(store).of(outcome.version_id)) == []
    measured(store, settings, pets)
    comparison = compare(store, sets, pets, outcome.version_id, test_set=None, most=10)
    assert (comparison.overall.images, comparison.changed_count) == (8, 0)
    assert {each.label for each in comparison.per_class} == {"puss", "dog"}
    report = report_of(store, sets, outcome.version_id, path="fused", test_set=None)
    assert (report.tasks[0].test_images, report.not_measured) == (8, [])
    assert report.last is not None


def test_a_rollback_takes_the_rename_back(
    settings: WorkerSettings, store: Store, pets: VersionId, field: StoredTestSet, tmp_path: Path
) -> None:
    renamed = update(edit_job(RENAME), settings).version_id
    after = stored_set(settings.store, tmp_path / "after", PETS, "after", labels={"cat": "puss"})
    store.rollback(pets, who="ann", reason="the old name was right")
    found = measured(store, settings, pets)[pets]
    assert set(found.per_class) == {"cat", "dog"}
    assert found.unknown_labels == 0
    before = Namings(store).of(pets)
    assert unknown_labels(Namings(store), field, before) == []
    assert unknown_labels(Namings(store), after, before) == [], (
        "labelled under the new name, and measured under the old one"
    )
    assert unknown_labels(Namings(store), after, Namings(store).of(renamed)) == []
    later = stored_set(settings.store, tmp_path / "later", PETS, "later")
    assert unknown_labels(Namings(store), later, Namings(store).of(renamed)) == []


def test_a_version_whose_parent_is_pruned_is_still_measured(
    settings: WorkerSettings, store: Store, first: VersionId, pets: VersionId, tmp_path: Path
) -> None:
    child = update(spooled(settings, BIRDS, strategy="prototypes"), settings).version_id
    store.pin(child, who="ann")
    store.rollback(first, who="ann", reason="to prune what came after")
    store.prune(1, who="ann")
    assert {manifest.version_id for manifest in store.list()} == {first, child}
    both = stored_set(settings.store, tmp_path / "both", {**PETS, **BIRDS}, "both")
    found = measured(store, settings, child)[child]
    assert set(found.per_class) == {*PETS, *BIRDS}
    assert unknown_labels(Namings(store), both, Namings(store).of(child)) == []


def test_merged_classes_are_measured_on_the_images_of_both(
    settings: WorkerSettings, store: Store, field: StoredTestSet
) -> None:
    outcome = update(edit_job(MERGE), settings)
    (found,) = found_in(store, outcome.version_id).results
    assert set(found.per_class) == {"pet"}
    assert found.against is not None
    assert (found.against.images, found.against.right_before) == (8, 8), "to take a cat for a dog is no mistake now"


def test_a_swap_moves_no_label(settings: WorkerSettings, store: Store, field: StoredTestSet) -> None:
    outcome = update(edit_job(SWAP), settings)
    (found,) = found_in(store, outcome.version_id).results
    assert found.overall is not None
    assert found.overall.visual == 0.0, "the classes were right before, so they are wrong now"
    assert not outcome.promoted
