"""Edits of the classes as a worker makes them: on top of CURRENT, once, and again on what was trained meanwhile."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from exchange.contracts import UpdateJob, new_job_id, utc_now
from model_store.store import Store
from model_store.types import Manifest, VersionId
from segp_cl.class_edits import ClassEdit
from segp_cl.errors import ClassNotFoundError
from segp_cl.learn.edits import edit_classes
from segp_cl.types import Learned, LearnerState, Progress
from tests.unit.worker.test_instant import FISH, end, line, names, task
from tests.unit.worker.test_pipeline import BIRDS, PETS, StopHereError, first, settings, spooled, store, update
from worker.instant import run_instant
from worker.pipeline import NotPublishedError, run_update
from worker.settings import WorkerSettings

__all__ = ["first", "settings", "store"]

RENAME = ClassEdit(kind="rename", classes=("cat",), name="puss", prompt="a photo of a puss.")
SWAP = ClassEdit(kind="swap", classes=("cat", "dog"))
MERGE = ClassEdit(kind="merge", classes=("cat", "dog"), name="pet", prompt="a photo of a pet.")
DELETE = ClassEdit(kind="delete", classes=("dog",))


def edit_job(edit: ClassEdit, why: str = "asked for") -> UpdateJob:
    return UpdateJob(job_id=new_job_id(), task_name=why, edit=edit, submitted_at=utc_now(), submitted_by="bob")


@pytest.fixture
def pets(settings: WorkerSettings, first: VersionId) -> VersionId:
    return update(spooled(settings, PETS, strategy="prototypes"), settings).version_id


def current(store: Store) -> Manifest:
    return store.lineage()[0]


@pytest.mark.parametrize(
    ("edit", "left"),
    [(RENAME, ["puss", "dog"]), (SWAP, ["dog", "cat"]), (MERGE, ["pet"]), (DELETE, ["cat"])],
)
def test_an_edit_is_a_version_of_its_own_that_a_rollback_undoes(
    settings: WorkerSettings, store: Store, pets: VersionId, edit: ClassEdit, left: list[str]
) -> None:
    seen: list[Progress] = []
    job = edit_job(edit)
    outcome = update(job, settings, on_progress=seen.append)
    assert (outcome.promoted, outcome.held_because) == (True, ())
    manifest = current(store)
    assert (manifest.version_id, manifest.parent, names(manifest)) == (outcome.version_id, pets, left)
    assert (manifest.made, manifest.edit, manifest.strategy, manifest.tasks) == ("edited", edit, "edit", 1)
    assert [step.phase for step in seen] == ["loading", "editing", "evaluating", "publishing"]
    assert store.journal()[-1].who == "bob"
    assert store.journal()[-1].reason == f"job {job.job_id}: {edit.words}: asked for"
    assert outcome.gate is not None
    asked = {check.name: check.passed for check in outcome.gate.checks}["old_classes"]
    assert asked is (None if len(edit.classes) == 2 else True)  # about classes that keep their names
    assert store.rollback(None, who="ann", reason="no") == pets


def test_it_waits_for_no_update(settings: WorkerSettings, store: Store, pets: VersionId) -> None:
    with store.lineage_lock(timeout_s=1):
        assert update(edit_job(RENAME), settings).promoted


def test_a_delete_says_what_it_could_not_take_away(settings: WorkerSettings, store: Store, first: VersionId) -> None:
    update(spooled(settings, PETS, strategy="prototypes"), settings)
    told = update(edit_job(DELETE), settings).report["edit"]
    assert isinstance(told, dict)
    assert told["statistics"] == "approximate"
    remains = told["remains"]
    assert isinstance(remains, list)
    assert "keep_class_scatter" in str(remains[0])
    store.rollback(first, who="ann", reason="again")
    update(spooled(settings, PETS, strategy="prototypes", keep_class_scatter=True), settings)
    told = update(edit_job(DELETE), settings).report["edit"]
    assert isinstance(told, dict)
    assert told["statistics"] == "exact"
    assert "its part of the scatter that all classes share" in str(told["removed"])


def test_what_training_changed_remains_and_is_said(settings: WorkerSettings, store: Store, first: VersionId) -> None:
    update(spooled(settings, PETS), settings)
    told = update(edit_job(DELETE), settings).report["edit"]
    assert isinstance(told, dict)
    assert "adapters" in str(told["remains"])


def test_a_class_is_replaced_by_other_images(settings: WorkerSettings, store: Store, pets: VersionId) -> None:
    job = spooled(settings, {"cat": BIRDS["owl"]}, images=12)
    job = UpdateJob.model_validate(
        {**job.model_dump(), "edit": ClassEdit(kind="replace", classes=("cat",)), "extend": True}
    )
    outcome = update(job, settings)
    assert outcome.promoted
    manifest = current(store)
    assert (manifest.made, manifest.parent, names(manifest)) == ("edited", pets, ["dog", "cat"])
    assert manifest.edit == ClassEdit(kind="replace", classes=("cat",))
    assert manifest.dataset is not None
    assert manifest.classes[1].images == manifest.dataset.images_per_class["cat"] < 12
    assert outcome.evaluation is not None
    assert outcome.evaluation.per_class["cat"].visual == 1.0
    # what came later stays, and what was there before is gone
    old, new = store.open(pets), store.open(outcome.version_id)
    assert (new.prototypes[0] - old.prototypes[1]).abs().max() < 1e-6
    assert (new.prototypes[1] - old.prototypes[0]).abs().max() > 1e-3


def test_an_edit_of_a_class_that_is_not_there_fails(settings: WorkerSettings, store: Store, pets: VersionId) -> None:
    with pytest.raises(ClassNotFoundError, match="'emu' is not known"):
        update(edit_job(ClassEdit(kind="delete", classes=("emu",))), settings)
    assert store.current() == pets


def test_an_edit_that_ruins_the_old_classes_is_held(
    settings: WorkerSettings, store: Store, pets: VersionId, monkeypatch: pytest.MonkeyPatch
) -> None:
    update(spooled(settings, BIRDS, strategy="prototypes"), settings)
    before = store.current()

    def ruined(state: LearnerState, edit: ClassEdit, **options: Any) -> Learned:
        learned = edit_classes(state, edit, **options)
        rolled = learned.state.kept_sums
        sums = replace(rolled, sums=rolled.sums.roll(1, dims=0))
        return replace(learned, state=replace(learned.state, sums=sums, prototypes=sums.means))

    monkeypatch.setattr("worker.editing.edit_classes", ruined)
    outcome = update(edit_job(RENAME), settings)
    assert not outcome.promoted
    assert outcome.held_because
    assert (outcome.not_promoted_because or "").startswith("held: ")
    assert store.current() == before


@pytest.mark.parametrize("killed_before", ["publish", "promote"])
def test_an_edit_that_was_killed_is_made_once(
    settings: WorkerSettings, store: Store, pets: VersionId, killed_before: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = edit_job(RENAME)

    def die(*_: object) -> None:
        raise StopHereError

    with monkeypatch.context() as patch:
        if killed_before == "promote":
            patch.setattr("worker.editing.promote", die)
        with pytest.raises(StopHereError):
            update(job, settings, before_publish=die if killed_before == "publish" else lambda: None)
    published = len(store.made_of_job(job.job_id, "edited"))
    assert published == (0 if killed_before == "publish" else 1)
    if not published:
        with pytest.raises(NotPublishedError):
            run_update(job, settings, on_progress=lambda _: None, resume_only=True)
    outcome = update(job, settings)
    assert (outcome.promoted, store.current()) == (True, outcome.version_id)
    assert len(store.made_of_job(job.job_id, "edited")) == 1
    # and it is not made again after it was rolled back on purpose
    store.rollback(None, who="ann", reason="no")
    assert update(job, settings).version_id == outcome.version_id
    assert store.current() == pets


def test_one_that_was_killed_is_made_on_what_came_meanwhile(
    settings: WorkerSettings, store: Store, pets: VersionId, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = edit_job(RENAME)

    def die(*_: object) -> None:
        raise StopHereError

    with monkeypatch.context() as patch:
        patch.setattr("worker.editing.promote", die)
        with pytest.raises(StopHereError):
            update(job, settings)
    update(spooled(settings, BIRDS, strategy="prototypes"), settings)
    assert update(job, settings).promoted
    assert names(current(store)) == ["puss", "dog", "owl", "jay"]


def test_edits_are_made_again_on_what_was_trained_meanwhile(
    settings: WorkerSettings, store: Store, first: VersionId
) -> None:
    pets, birds = task(settings, PETS), task(settings, BIRDS)
    run_instant(pets, settings)
    update(edit_job(RENAME), settings)
    run_instant(birds, settings)
    update(edit_job(ClassEdit(kind="delete", classes=("jay",))), settings)
    assert line(store) == [("edited", 3), ("instant", 4), ("edited", 2), ("instant", 2), (None, 0)]

    trained = update(pets, settings)
    assert trained.promoted
    assert line(store) == [("edited", 3), ("instant", 4), ("edited", 2), ("trained", 2), (None, 0)]
    assert names(current(store)) == ["puss", "dog", "owl"]
    end(settings, pets)
    assert update(birds, settings).promoted
    assert [made for made, _ in line(store)] == ["edited", "trained", "edited", "trained", None]
    assert names(current(store)) == ["puss", "dog", "owl"]
    assert any("rename 'cat' to 'puss', as in " in entry.reason for entry in store.journal())


def test_pruning_keeps_what_waiting_tasks_are_trained_on_below_edits(
    settings: WorkerSettings, store: Store, first: VersionId
) -> None:
    pets = task(settings, PETS)
    run_instant(pets, settings)
    for name in ("puss", "kit", "cat"):
        old = names(current(store))[0]
        update(edit_job(ClassEdit(kind="rename", classes=(old,), name=name)), settings)
    assert store.prune(1).removed == {}
    assert update(pets, settings).promoted
    end(settings, pets)
    assert [made for made, _ in line(store)][:4] == ["edited", "edited", "edited", "trained"]
    store.prune(1)
    assert [made for made, _ in line(store)][:2] == ["edited", "edited"]
    assert len(store.list()) == 2  # edits alone keep nothing below them


def test_so_is_a_class_that_was_replaced_without_its_images(
    settings: WorkerSettings, store: Store, first: VersionId
) -> None:
    fish = task(settings, FISH)
    update(spooled(settings, PETS, strategy="prototypes"), settings)
    run_instant(fish, settings)
    job = spooled(settings, {"cat": BIRDS["owl"]}, images=12)
    job = UpdateJob.model_validate({**job.model_dump(), "edit": ClassEdit(kind="replace", classes=("cat",))})
    replaced = store.open(update(job, settings).version_id)
    end(settings, job)
    assert update(fish, settings).promoted
    manifest = current(store)
    assert (manifest.made, manifest.edit and manifest.edit.kind) == ("edited", "replace")
    again = store.open(manifest.version_id)
    mine, theirs = (state.prototypes[state.class_names.index("cat")] for state in (again, replaced))
    assert (mine - theirs).abs().max() < 1e-6
    assert manifest.dataset is not None
    assert manifest.evaluation is None  # its images are gone, so nothing was measured on this version


def test_one_that_no_longer_fits_is_left_out(
    settings: WorkerSettings, store: Store, first: VersionId, caplog: pytest.LogCaptureFixture
) -> None:
    """The class that it edits is of a task that was cancelled."""
    pets, birds = task(settings, PETS), task(settings, BIRDS)
    run_instant(pets, settings)
    run_instant(birds, settings)
    update(edit_job(ClassEdit(kind="delete", classes=("jay",))), settings)
    end(settings, birds)
    assert update(pets, settings).promoted
    assert names(current(store)) == ["cat", "dog"]
    assert "cannot be put on" in caplog.text


def test_two_folders_that_were_swapped_are_mended(settings: WorkerSettings, store: Store, first: VersionId) -> None:
    update(spooled(settings, {"cat": PETS["dog"], "dog": PETS["cat"]}, strategy="prototypes"), settings)
    update(edit_job(SWAP), settings)
    right = update(spooled(settings, {"kit": PETS["cat"], "pup": PETS["dog"]}, strategy="prototypes"), settings)
    state = store.open(right.version_id)
    for swapped, name in (("cat", "kit"), ("dog", "pup")):
        row, other = state.class_names.index(swapped), state.class_names.index(name)
        assert float(state.prototypes[row] @ state.prototypes[other]) > 0.999
