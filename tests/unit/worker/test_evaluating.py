"""Versions that were published before a test set was stored are measured on demand."""

from __future__ import annotations

from pathlib import Path

import pytest

from exchange.contracts import UpdateJob, new_job_id, utc_now
from exchange.spool import Spool
from model_store.evaluations import Evaluations
from model_store.store import Store
from model_store.test_sets import StoredTestSet, StoredTestSets
from model_store.types import NoSuchTestSetError, VersionId, VersionNotFoundError
from segp_cl.runtime.classifier import Classifier
from segp_cl.types import Progress
from tests.unit.worker.test_on_test_sets import stored_set
from tests.unit.worker.test_pipeline import BIRDS, PETS, StopHereError, first, settings, spooled, store, update
from worker.pipeline import NotPublishedError, run_update
from worker.settings import WorkerSettings

__all__ = ["first", "settings", "store"]


@pytest.fixture
def versions(settings: WorkerSettings, first: VersionId) -> list[VersionId]:
    return [first] + [
        update(spooled(settings, task, strategy="prototypes"), settings).version_id for task in (PETS, BIRDS)
    ]


@pytest.fixture
def field(settings: WorkerSettings, versions: list[VersionId], tmp_path: Path) -> StoredTestSet:
    return stored_set(settings.store, tmp_path / "field", {**PETS, **BIRDS})


def evaluation(settings: WorkerSettings, *versions: VersionId, test_set: str | None = None) -> UpdateJob:
    job_id = new_job_id()
    Spool(settings.spool).reserve(job_id)
    return UpdateJob(
        job_id=job_id, task_name="evaluation", evaluates=versions, test_set=test_set, submitted_at=utc_now()
    )


def test_older_versions_are_measured_and_nothing_is_published(
    settings: WorkerSettings, store: Store, versions: list[VersionId], field: StoredTestSet
) -> None:
    before = store.journal()
    steps: list[Progress] = []
    outcome = update(evaluation(settings, *versions), settings, on_progress=steps.append)
    assert outcome.test_sets is not None
    found = outcome.test_sets.results
    assert [(each.version_id, each.unknown_labels) for each in found] == list(zip(versions, (16, 8, 0), strict=True))
    assert found[2].against is not None
    assert (found[2].against.version_id, found[2].against.images) == (versions[1], 8)
    assert all(Evaluations(store.root).get(version, field.digest) for version in versions)
    assert (outcome.promoted, store.current(), store.journal()) == (False, versions[2], before)
    shown = [step for step in steps if step.phase == "evaluating"]
    assert shown
    assert [step.step for step in shown] == sorted(step.step for step in shown)
    assert (shown[-1].step, shown[-1].steps) == (3, 3)


def test_it_waits_for_no_update(
    settings: WorkerSettings, store: Store, versions: list[VersionId], field: StoredTestSet
) -> None:
    with store.lineage_lock(timeout_s=1):
        assert update(evaluation(settings, versions[1]), settings).test_sets is not None


def test_a_job_that_was_stopped_goes_on_where_it_was(
    settings: WorkerSettings,
    store: Store,
    versions: list[VersionId],
    field: StoredTestSet,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def stop(progress: Progress) -> None:
        if progress.phase == "evaluating" and progress.step == 2:
            raise StopHereError

    job = evaluation(settings, *versions[1:])
    with pytest.raises(StopHereError):
        update(job, settings, on_progress=stop)
    evaluations = Evaluations(store.root)
    measured = evaluations.get(versions[1], field.digest)
    assert measured is not None
    assert evaluations.get(versions[2], field.digest) is None
    asked: list[VersionId] = []
    scores = Classifier.scores_of

    def counted(self: Classifier, features: object) -> object:
        asked.append(str(len(self.state.classes)))
        return scores(self, features)  # type: ignore[arg-type]

    monkeypatch.setattr(Classifier, "scores_of", counted)
    outcome = update(job, settings)
    assert set(asked) == {"4"}, "only the second version is measured again"
    assert outcome.test_sets is not None
    assert len(outcome.test_sets.results) == 2
    assert evaluations.get(versions[1], field.digest) == measured


def test_one_set_alone_is_measured_where_it_is_named(
    settings: WorkerSettings, store: Store, versions: list[VersionId], field: StoredTestSet, tmp_path: Path
) -> None:
    other = stored_set(settings.store, tmp_path / "other", PETS, "other")
    update(evaluation(settings, versions[1], test_set="other"), settings)
    evaluations = Evaluations(store.root)
    assert evaluations.get(versions[1], other.digest) is not None
    assert evaluations.get(versions[1], field.digest) is None


def test_what_cannot_be_measured_is_told(
    settings: WorkerSettings, store: Store, versions: list[VersionId], field: StoredTestSet
) -> None:
    with pytest.raises(NoSuchTestSetError, match="there is no test set 'else'"):
        update(evaluation(settings, versions[1], test_set="else"), settings)
    with pytest.raises(VersionNotFoundError):
        update(evaluation(settings, "000099-0123456789ab"), settings)
    with pytest.raises(NotPublishedError):
        run_update(evaluation(settings, versions[1]), settings, on_progress=lambda _: None, resume_only=True)
    StoredTestSets(store.root).remove("field", who="ann")
    with pytest.raises(NoSuchTestSetError, match="there are no test sets"):
        update(evaluation(settings, versions[1]), settings)


def test_a_set_that_is_removed_meanwhile_is_left_out_and_its_answers_are_swept(
    settings: WorkerSettings, store: Store, versions: list[VersionId], field: StoredTestSet
) -> None:
    sets = StoredTestSets(store.root)

    def remove(progress: Progress) -> None:
        if progress.phase == "evaluating" and progress.step == 1:
            sets.remove("field", who="ann")

    outcome = update(evaluation(settings, *versions[1:]), settings, on_progress=remove)
    assert outcome.test_sets is not None
    sets.sweep()
    assert not any(path.is_file() for path in (store.root / "evaluations").rglob("*"))
