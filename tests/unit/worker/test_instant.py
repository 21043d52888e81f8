"""Instant versions: served at once, replaced by the trained one, and put on top of it again."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from exchange.contracts import JobRecord, UpdateJob, utc_now
from exchange.notes import Note, write_note
from exchange.spool import Spool
from model_store.store import Store
from model_store.types import Manifest, Provenance, StoreError, VersionId, VersionNotFoundError
from segp_cl.data.image_sets import FolderImages
from segp_cl.errors import ClassExistsError
from tests.unit.worker.test_pipeline import BIRDS, PETS, Colours, spooled, update
from tests.unit.worker.test_pipeline import first as first
from tests.unit.worker.test_pipeline import settings as settings
from tests.unit.worker.test_pipeline import store as store
from worker.instant import run_instant
from worker.pipeline import run_update
from worker.placing import base_of, was_taken_back
from worker.settings import WorkerSettings

FISH: Colours = {"cod": (200, 40, 200), "eel": (40, 200, 200)}


class StopHereError(Exception):
    pass


def task(settings: WorkerSettings, colours: Colours, **config: object) -> UpdateJob:
    """Spool a task that is to have an instant version, with its note."""
    job = spooled(settings, colours, **config).model_copy(update={"instant": True})  # type: ignore[arg-type]
    write_note(Spool(settings.spool), Note(record=JobRecord(job=job, created_at=utc_now())))
    return job


def end(settings: WorkerSettings, *jobs: UpdateJob) -> None:
    for job in jobs:
        Spool(settings.spool).purge(job.job_id)


def line(store: Store) -> list[tuple[str | None, int]]:
    """How each version of CURRENT's line was made, and how many classes it has, the newest first."""
    return [(manifest.made, len(manifest.classes)) for manifest in store.lineage()]


def names(manifest: Manifest) -> list[str]:
    return [known.name for known in manifest.classes]


def test_a_task_is_served_at_once_and_its_trained_version_takes_that_place(
    settings: WorkerSettings, store: Store, first: VersionId
) -> None:
    job = task(settings, PETS)
    instant = run_instant(job, settings)
    assert (instant.promoted, instant.error, store.current()) == (True, None, instant.version_id)
    assert instant.evaluation is not None
    assert instant.evaluation.overall.visual == 1.0
    assert instant.gate is not None
    assert instant.gate.held_because == ()
    manifest = store.manifest(instant.version_id or "")
    assert (manifest.made, manifest.strategy, manifest.parent) == ("instant", "prototypes", first)

    outcome = update(job, settings)
    trained = store.manifest(outcome.version_id)
    assert (outcome.promoted, store.current()) == (True, outcome.version_id)
    assert (trained.made, trained.strategy, trained.parent) == ("trained", "segp", first)
    assert outcome.gate is not None
    twin = next(check for check in outcome.gate.checks if check.name == "twin")
    assert (twin.passed, twin.bound) == (True, instant.evaluation.overall.fused)
    assert store.rollback(None, who="ann", reason="no") == first  # before the task, not its untrained twin


def test_every_image_passes_the_tower_once(
    settings: WorkerSettings, store: Store, first: VersionId, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[int] = []
    pixels = FolderImages.pixels

    def recorded(self: FolderImages, at: Sequence[int]) -> torch.Tensor:
        decoded.extend(at)
        return pixels(self, at)

    monkeypatch.setattr(FolderImages, "pixels", recorded)
    run_instant(task(settings, PETS), settings)
    run_instant(task(settings, BIRDS), settings)  # with old classes, for which the gate looks at images too
    assert sorted(decoded) == sorted([*range(16), *range(16)])


def test_the_instant_version_is_what_the_untrained_strategy_gives(
    settings: WorkerSettings, store: Store, first: VersionId
) -> None:
    job = task(settings, PETS, strategy="prototypes")
    instant = store.open(run_instant(job, settings).version_id or "")
    store.rollback(first, who="ann", reason="to compare")
    alone = spooled(settings, PETS, strategy="prototypes")
    whole = store.open(update(alone, settings).version_id)
    assert (instant.prototypes - whole.prototypes).abs().max() < 1e-5
    assert instant.class_names == whole.class_names


def test_tasks_that_came_meanwhile_are_put_on_the_trained_version_again(
    settings: WorkerSettings, store: Store, first: VersionId
) -> None:
    pets, birds, fish = task(settings, PETS), task(settings, BIRDS), task(settings, FISH)
    run_instant(pets, settings)

    def meanwhile() -> None:
        run_instant(birds, settings)
        run_instant(fish, settings)
        assert line(store) == [("instant", 6), ("instant", 4), ("instant", 2), (None, 0)]

    outcome = update(pets, settings, before_publish=meanwhile)
    assert outcome.promoted
    assert line(store) == [("instant", 6), ("instant", 4), ("trained", 2), (None, 0)]
    assert [manifest.version_id for manifest in store.lineage()][2] == outcome.version_id
    end(settings, pets)

    second = update(birds, settings)
    assert (second.promoted, store.manifest(second.version_id).parent) == (True, outcome.version_id)
    assert line(store) == [("instant", 6), ("trained", 4), ("trained", 2), (None, 0)]
    end(settings, birds)
    assert update(fish, settings).promoted
    assert line(store) == [("trained", 6), ("trained", 4), ("trained", 2), (None, 0)]
    assert names(store.lineage()[0]) == [*PETS, *BIRDS, *FISH]


def test_a_task_that_is_trained_before_an_earlier_one_goes_below_it(
    settings: WorkerSettings, store: Store, first: VersionId
) -> None:
    pets, birds = task(settings, PETS), task(settings, BIRDS)
    run_instant(pets, settings)
    run_instant(birds, settings)
    assert update(birds, settings).promoted  # the worker of the first one died, for example
    assert [names(manifest) for manifest in store.lineage()] == [[*BIRDS, *PETS], [*BIRDS], []]
    end(settings, birds)
    assert update(pets, settings).promoted
    assert line(store) == [("trained", 4), ("trained", 2), (None, 0)]


def test_a_task_that_is_not_trained_is_done_with_its_instant_version(
    settings: WorkerSettings, store: Store, first: VersionId
) -> None:
    job = task(settings, PETS, strategy="prototypes")
    instant = run_instant(job, settings)
    outcome = update(job, settings)
    assert (outcome.version_id, outcome.promoted) == (instant.version_id, True)
    assert len(store.list()) == 2


def test_what_was_rolled_back_is_trained_and_not_promoted(
    settings: WorkerSettings, store: Store, first: VersionId
) -> None:
    job = task(settings, PETS)
    run_instant(job, settings)
    assert not was_taken_back(store, job.job_id)
    store.rollback(None, who="ann", reason="wrong classes")
    assert was_taken_back(store, job.job_id)
    outcome = update(job, settings)
    assert not outcome.promoted
    assert "its instant version was rolled back" in (outcome.not_promoted_because or "")
    assert store.current() == first
    store.promote(outcome.version_id, expected=first, who="ann", reason="it was right after all")
    assert store.current() == outcome.version_id


def test_an_operator_s_move_keeps_the_trained_version_from_being_promoted(
    settings: WorkerSettings, store: Store, first: VersionId
) -> None:
    pets, birds = task(settings, PETS), task(settings, BIRDS)
    run_instant(pets, settings)
    elsewhere = store.publish(store.open(first), parent=first, provenance=Provenance(who="ann")).version_id

    def move() -> None:
        store.promote(elsewhere, expected=store.current(), who="ann", reason="by hand")

    outcome = update(birds, settings, before_publish=move)
    assert not outcome.promoted
    assert "CURRENT was moved" in (outcome.not_promoted_because or "")
    assert store.current() == elsewhere


def test_a_cancelled_task_is_not_put_on_top_again(settings: WorkerSettings, store: Store, first: VersionId) -> None:
    pets, birds, fish = task(settings, PETS), task(settings, BIRDS), task(settings, FISH)
    for job in (pets, birds, fish):
        run_instant(job, settings)
    end(settings, birds)  # as its cancel does
    assert update(pets, settings).promoted
    assert [names(manifest) for manifest in store.lineage()] == [[*PETS, *FISH], [*PETS], []]


def test_a_task_whose_training_failed_stays_as_it_was_taught_instantly(
    settings: WorkerSettings, store: Store, first: VersionId
) -> None:
    pets, birds = task(settings, PETS), task(settings, BIRDS)
    run_instant(pets, settings)
    end(settings, pets)
    run_instant(birds, settings)
    assert update(birds, settings).promoted
    assert line(store) == [("trained", 4), ("instant", 2), (None, 0)]


def test_a_known_class_is_refused_and_nothing_moves(settings: WorkerSettings, store: Store, first: VersionId) -> None:
    run_instant(task(settings, PETS), settings)
    before = store.current()
    with pytest.raises(ClassExistsError):
        run_instant(task(settings, PETS), settings)
    assert store.current() == before
    assert len(store.list()) == 2


def test_a_store_that_is_gone_is_not_begun_anew(settings: WorkerSettings, store: Store, first: VersionId) -> None:
    job = task(settings, PETS)
    settings.store.rename(settings.store.with_name("away"))
    with pytest.raises(StoreError, match="empty"):
        run_instant(job, settings)
    assert not settings.store.exists()


def test_a_store_without_current_is_told(settings: WorkerSettings, store: Store, first: VersionId) -> None:
    (settings.store / "CURRENT").unlink()
    with pytest.raises(StoreError, match="no CURRENT"):
        run_instant(task(settings, PETS), settings)


def test_a_version_that_the_gate_holds_is_not_served(settings: WorkerSettings, store: Store, first: VersionId) -> None:
    store.change_gate({"min_taught_accuracy": 1.0, "confidence": 0.51}, who="ann")
    same = {"cat": (10, 10, 10), "dog": (10, 10, 10), "cow": (10, 10, 10)}
    instant = run_instant(task(settings, same), settings)
    assert not instant.promoted
    assert instant.held_because
    assert (instant.not_promoted_because or "").startswith("held: ")
    assert store.current() == first


@pytest.mark.parametrize("killed_before", ["publish", "put in place"])
def test_an_update_that_was_killed_is_put_in_place_once_by_its_next_attempt(
    settings: WorkerSettings, store: Store, first: VersionId, killed_before: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pets, birds = task(settings, PETS), task(settings, BIRDS)
    run_instant(pets, settings)
    run_instant(birds, settings)

    def die(*_: object) -> None:
        raise StopHereError

    with monkeypatch.context() as patch:
        patch.setattr("worker.placing.promote", die)
        with pytest.raises(StopHereError):
            update(pets, settings, before_publish=die if killed_before == "publish" else lambda: None)
    assert line(store)[0] == ("instant", 4)
    outcome = update(pets, settings)
    assert outcome.promoted
    assert line(store) == [("instant", 4), ("trained", 2), (None, 0)]
    again = run_update(pets, settings, on_progress=lambda _: None, resume_only=True)
    assert (again.version_id, again.promoted) == (outcome.version_id, True)
    trained = [manifest for manifest in store.list() if manifest.job_id == pets.job_id and manifest.made == "trained"]
    assert len(trained) == 1
    assert len(store.made_of_job(birds.job_id, "instant")) == 2


def test_the_base_is_below_all_that_wait(settings: WorkerSettings, store: Store, first: VersionId) -> None:
    pets, birds = task(settings, PETS), task(settings, BIRDS)
    run_instant(pets, settings)
    run_instant(birds, settings)
    lineage = store.lineage()
    assert base_of(lineage, lambda job: True) == first
    assert base_of(lineage, lambda job: job == pets.job_id) == first
    assert base_of(lineage, lambda job: job == birds.job_id) == lineage[1].version_id
    assert base_of(lineage, lambda job: False) == lineage[0].version_id


def test_pruning_keeps_what_waiting_tasks_are_trained_on(
    settings: WorkerSettings, store: Store, first: VersionId
) -> None:
    jobs = [task(settings, colours) for colours in (PETS, BIRDS, FISH)]
    for job in jobs:
        run_instant(job, settings)
    assert store.prune(1).removed == {}
    assert update(jobs[0], settings).promoted
    end(settings, jobs[0])
    assert store.lineage()[2].made == "trained"
    before = {manifest.version_id for manifest in store.list()}
    store.prune(1)
    assert [manifest.made for manifest in store.lineage()][:3] == ["instant", "instant", "trained"]
    assert len(store.list()) < len(before)


def test_a_base_that_was_removed_by_hand_is_said_to_be_missing(
    settings: WorkerSettings, store: Store, first: VersionId
) -> None:
    job = task(settings, PETS)
    run_instant(job, settings)
    with pytest.raises(VersionNotFoundError, match=first):
        base_of(store.lineage()[:1], lambda job: True)
