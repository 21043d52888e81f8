"""Tasks that are learned beside CURRENT, and versions that are merged."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from exchange.contracts import UpdateJob, UpdateOutcome, new_job_id, utc_now
from model_store.store import Store
from model_store.types import HeldError, NoCommonAncestorError, Provenance, VersionId, VersionNotFoundError
from segp_cl.learn.branches import merge_branches
from segp_cl.types import Learned, Progress
from tests.unit.worker.test_pipeline import (
    BIRDS,
    PETS,
    Colours,
    StopHereError,
    first,
    settings,
    spooled,
    store,
    update,
)
from worker.pipeline import NotPublishedError, run_update
from worker.settings import WorkerSettings

__all__ = ["first", "settings", "store"]

FISH: Colours = {"eel": (200, 40, 200), "cod": (40, 200, 200)}


def on(job: UpdateJob, parent: VersionId) -> UpdateJob:
    return job.model_copy(update={"parent": parent})


def merge_job(ours: VersionId, theirs: VersionId) -> UpdateJob:
    return UpdateJob(
        job_id=new_job_id(), task_name="both", merges=(ours, theirs), submitted_at=utc_now(), submitted_by="bob"
    )


@pytest.fixture
def base(settings: WorkerSettings, first: VersionId) -> VersionId:
    return update(spooled(settings, PETS, strategy="prototypes"), settings).version_id


@pytest.fixture
def two(settings: WorkerSettings, base: VersionId) -> tuple[VersionId, VersionId]:
    """Two versions on one parent, beside CURRENT."""
    birds, fish = (spooled(settings, colours, strategy="prototypes") for colours in (BIRDS, FISH))
    return update(on(birds, base), settings).version_id, update(on(fish, base), settings).version_id


def test_a_task_that_names_its_parent_is_learned_beside_current(
    settings: WorkerSettings, store: Store, base: VersionId
) -> None:
    after = update(spooled(settings, BIRDS, strategy="prototypes"), settings)
    outcome = update(on(spooled(settings, FISH, strategy="prototypes"), base), settings)
    assert not outcome.promoted
    assert outcome.not_promoted_because == (
        f"it was learned on {base}, beside CURRENT: promote it, or merge it into another version"
    )
    manifest = store.manifest(outcome.version_id)
    assert (manifest.parent, [c.name for c in manifest.classes]) == (base, ["cat", "dog", "eel", "cod"])
    assert store.current() == after.version_id


def test_it_waits_for_no_update_that_moves_current(settings: WorkerSettings, store: Store, base: VersionId) -> None:
    with store.lineage_lock(timeout_s=1):
        outcome = update(on(spooled(settings, FISH, strategy="prototypes"), base), settings)
    assert store.manifest(outcome.version_id).parent == base


def test_a_parent_that_is_gone_is_told(settings: WorkerSettings, store: Store, base: VersionId) -> None:
    gone = "000009-0123456789ab"
    with pytest.raises(VersionNotFoundError, match=gone):
        update(on(spooled(settings, FISH, strategy="prototypes"), gone), settings)


def test_two_branches_become_one_version_of_both(
    settings: WorkerSettings, store: Store, base: VersionId, two: tuple[VersionId, VersionId]
) -> None:
    seen: list[Progress] = []
    job = merge_job(*two)
    outcome = update(job, settings, on_progress=seen.append)
    assert outcome.promoted
    assert store.current() == outcome.version_id
    assert [step.phase for step in seen] == ["waiting", "loading", "merging", "evaluating", "publishing"]
    manifest = store.manifest(outcome.version_id)
    assert manifest.parents == two
    assert manifest.made == "merged"
    assert manifest.other_parent_content_digest == store.manifest(two[1]).content_digest
    assert [c.name for c in manifest.classes] == ["cat", "dog", "owl", "jay", "eel", "cod"]
    assert [c.task for c in manifest.classes] == [1, 1, 2, 2, 3, 3]
    assert manifest.report is not None
    assert (manifest.report["common_ancestor"], manifest.report["statistics"]) == (base, "exact")
    assert outcome.gate is not None
    assert {check.name: check.passed for check in outcome.gate.checks}["old_classes"] is True
    assert store.journal()[-1].reason == f"job {job.job_id} merged {two[0]} and {two[1]}: both"
    assert store.rollback(None, who="ann", reason="no") == two[0]


def test_one_after_the_other_gives_the_same_statistics(
    settings: WorkerSettings, store: Store, two: tuple[VersionId, VersionId]
) -> None:
    merged = store.open(update(merge_job(*two), settings).version_id)
    after = store.open(update(on(spooled(settings, FISH, strategy="prototypes"), two[0]), settings).version_id)
    assert merged.sums is not None
    assert after.sums is not None
    assert torch.allclose(merged.sums.sums, after.sums.sums, atol=1e-9)
    assert torch.equal(merged.sums.counts, after.sums.counts)


def test_current_moves_only_if_it_is_part_of_what_was_merged(
    settings: WorkerSettings, store: Store, base: VersionId, two: tuple[VersionId, VersionId]
) -> None:
    other = update(spooled(settings, {"ant": (9, 9, 9)}, strategy="prototypes"), settings)
    outcome = update(merge_job(*two), settings)
    assert not outcome.promoted
    assert outcome.not_promoted_because is not None
    assert outcome.not_promoted_because.startswith(f"CURRENT is {other.version_id}, which is not part of it")
    assert store.current() == other.version_id
    again = update(merge_job(other.version_id, outcome.version_id), settings)
    assert again.promoted
    assert len(store.manifest(again.version_id).classes) == 7


def test_what_was_merged_is_not_counted_twice(
    settings: WorkerSettings, store: Store, two: tuple[VersionId, VersionId]
) -> None:
    """After the merge, one branch goes on: merging it again adds its new task alone."""
    merged = update(merge_job(*two), settings).version_id
    on_theirs = update(on(spooled(settings, {"ant": (9, 9, 9)}, strategy="prototypes"), two[1]), settings).version_id
    again = store.open(update(merge_job(merged, on_theirs), settings).version_id)
    assert [(c.name, c.images) for c in again.classes] == [
        (name, 6) for name in ("cat", "dog", "owl", "jay", "eel", "cod", "ant")
    ]
    assert again.sums is not None
    assert again.sums.counts.tolist() == [6] * 7


@pytest.mark.parametrize("times", [1, 2])
def test_a_merge_that_is_stopped_before_it_publishes_leaves_nothing_and_is_done_once_later(
    settings: WorkerSettings, store: Store, two: tuple[VersionId, VersionId], times: int
) -> None:
    job, before = merge_job(*two), [m.version_id for m in store.list()]

    def stop() -> None:
        raise StopHereError

    for _ in range(times):
        with pytest.raises(StopHereError):
            update(job, settings, before_publish=stop)
    assert [m.version_id for m in store.list()] == before
    with pytest.raises(NotPublishedError):
        run_update(job, settings, on_progress=lambda _: None, resume_only=True)
    done = {update(job, settings).version_id for _ in range(2)}
    assert [m.version_id for m in store.list()] == [*before, *done]


@pytest.mark.parametrize("phase", ["loading", "merging", "evaluating", "publishing"])
def test_it_can_be_stopped_in_every_phase(
    settings: WorkerSettings, store: Store, two: tuple[VersionId, VersionId], phase: str
) -> None:
    def stop(progress: Progress) -> None:
        if progress.phase == phase:
            raise StopHereError

    job, before = merge_job(*two), store.current()
    with pytest.raises(StopHereError):
        update(job, settings, on_progress=stop)
    assert store.version_of_job(job.job_id) is None
    assert store.current() == before
    assert update(job, settings).promoted


def test_killed_between_publishing_and_promoting_it_is_promoted_by_the_next_attempt(
    settings: WorkerSettings, store: Store, two: tuple[VersionId, VersionId], monkeypatch: pytest.MonkeyPatch
) -> None:
    job = merge_job(*two)

    def die(*_: object) -> str | None:
        raise StopHereError

    with monkeypatch.context() as patched:
        patched.setattr("worker.pipeline.put_merged", die)
        with pytest.raises(StopHereError):
            update(job, settings)
    published = store.version_of_job(job.job_id)
    assert published is not None
    assert update(job, settings).version_id == published
    assert store.current() == published


def test_what_cannot_be_merged_is_told(
    settings: WorkerSettings, store: Store, first: VersionId, base: VersionId, two: tuple[VersionId, VersionId]
) -> None:
    with pytest.raises(NoCommonAncestorError, match=f"{two[0]} contains {base} already"):
        update(merge_job(base, two[0]), settings)
    with pytest.raises(NoCommonAncestorError, match="named twice"):
        update(merge_job(two[0], two[0]), settings)
    held = store.publish(
        store.open(two[1]), parent=base, provenance=Provenance(report={"gate": {"held_because": ["it is bad"]}})
    )
    with pytest.raises(HeldError, match="it is bad"):
        update(merge_job(two[0], held.version_id), settings)


def test_a_merge_that_ruins_old_classes_is_held(
    settings: WorkerSettings,
    store: Store,
    two: tuple[VersionId, VersionId],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The texts and means of the merged version are mixed up."""
    honest: Callable[..., Learned] = merge_branches

    def mixed_up(*arguments: object, **options: object) -> Learned:
        learned: Learned = honest(*arguments, **options)
        state = learned.state
        assert state.sums is not None
        sums = replace(state.sums, sums=state.sums.sums.flip(0))
        mixed = replace(state, sums=sums, prototypes=sums.means, text_features=state.text_features.flip(0))
        return replace(learned, state=mixed)

    monkeypatch.setattr("worker.merging.merge_branches", mixed_up)
    before = store.current()
    outcome: UpdateOutcome = update(merge_job(*two), settings)
    assert outcome.held_because
    assert not outcome.promoted
    assert store.current() == before


def test_no_image_is_needed(
    settings: WorkerSettings, store: Store, two: tuple[VersionId, VersionId], tmp_path: Path
) -> None:
    for folder in Path(settings.spool).iterdir():
        folder.rename(tmp_path / folder.name)
    assert update(merge_job(*two), settings).promoted
