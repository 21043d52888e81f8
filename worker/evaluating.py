"""Measures published versions on the test sets, without training or publishing anything."""

from __future__ import annotations

import logging

from exchange.contracts import OnTestSets, SetEvaluation, UpdateJob, UpdateOutcome
from exchange.spool import Spool
from model_store import policy
from model_store.evaluations import Evaluations
from model_store.store import Store
from model_store.test_sets import StoredTestSets
from model_store.types import NoSuchTestSetError, VersionId
from segp_cl.runtime.classifier import Classifier, image_tower
from segp_cl.runtime.hardware import choose_device
from segp_cl.types import ModelSpec, OnProgress, Progress
from worker.base_model import base_model
from worker.on_test_sets import MOST_ROWS_OF_A_JOB, Ruler
from worker.settings import WorkerSettings

logger = logging.getLogger(__name__)


def evaluate_versions(store: Store, job: UpdateJob, settings: WorkerSettings, on_progress: OnProgress) -> UpdateOutcome:
    """Measure the versions that a job names on its test set, or on all, and store what they answer.

    A version that was measured on all images of a set already is not measured again, so a job that was killed goes on
    where it was. Images pass through each image tower once, however many versions have it.

    Args:
        store: the store.
        job: names the versions and the set.
        settings: the worker's settings.
        on_progress: called after every batch. An exception from it ends the work.

    Raises:
        NoSuchTestSetError: there is no such set, or there is none at all.
        StoreError: a version cannot be read.
    """
    assert job.evaluates
    on_progress(Progress("loading", 0, 0))
    sets = StoredTestSets(store.root)
    wanted = [sets.get(job.test_set)] if job.test_set is not None else sets.all()
    if not wanted:
        raise NoSuchTestSetError(None)
    evaluations = Evaluations(store.root)

    def lacks(version: VersionId) -> bool:
        stored = (evaluations.get(version, test_set.digest) for test_set in wanted)
        return not all(found is not None and found.is_whole for found in stored)

    towers: dict[str, list[VersionId]] = {}
    models: dict[str, ModelSpec] = {}
    for version in sorted(filter(lacks, dict.fromkeys(job.evaluates)), key=policy.age):  # parents first
        state = store.open(version)
        tower = image_tower(state)
        towers.setdefault(tower, []).append(version)
        models[tower] = state.model
    not_measured: dict[str, str] = {}
    steps = _Steps(on_progress, sum(map(len, towers.values())))
    for tower, versions in towers.items():
        base = base_model(models[tower], choose_device(settings.device))
        ruler = Ruler(
            store,
            settings,
            base,
            batch_size=job.learner_config.feature_batch_size,
            folder=Spool(settings.spool).folder(job.job_id),
            on_batch=steps,
            only=job.test_set,
        )
        for version in versions:
            manifest = store.manifest(version)
            found = ruler.measure(
                Classifier(base, store.open(version)), manifest.parents, edit=manifest.edit, measure_parents=False
            )
            found.save(store, version)
            if found.published is not None:
                not_measured.update(found.published.not_measured)
            steps.versions_done += 1
            logger.info("evaluated %s on %d test sets", version, len(found.evaluations))
    results = [
        SetEvaluation.model_validate(stored.results | {"version_id": version}).cut(MOST_ROWS_OF_A_JOB)
        for version in dict.fromkeys(job.evaluates)
        for test_set in wanted
        if (stored := evaluations.get(version, test_set.digest)) is not None
    ]
    return UpdateOutcome(
        version_id=job.evaluates[0],
        promoted=False,
        not_promoted_because="it was evaluated, and nothing was published",
        test_sets=OnTestSets(results=tuple(results), not_measured=not_measured),
    )


class _Steps:
    """Reports batches of all versions as the steps of one phase."""

    def __init__(self, on_progress: OnProgress, versions: int) -> None:
        self._on_progress = on_progress
        self._versions = versions
        self.versions_done = 0

    def __call__(self, done: int, of: int) -> None:
        self._on_progress(Progress("evaluating", self.versions_done * of + done, self._versions * of))
