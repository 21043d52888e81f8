"""One update, from top to bottom: wait for the lineage, load, learn, evaluate, judge, publish, promote or hold."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Final

import torch
from pydantic import JsonValue

from exchange.contracts import (
    CONTRIBUTIONS_KEY,
    TEST_SETS_KEY,
    ContributionReport,
    Evaluation,
    GateResult,
    UpdateJob,
    UpdateOutcome,
)
from exchange.spool import Spool
from model_store.first_version import make_first_version
from model_store.gate import REPORT_KEY, reasons_of
from model_store.reader import StoreReader
from model_store.store import Store
from model_store.types import Manifest, StoreBusyError, StoreError, VersionId
from segp_cl.errors import KeepsightError
from segp_cl.learn.learner import learn_task
from segp_cl.models.backbone import Backbone
from segp_cl.runtime.hardware import choose_device, choose_dtype
from segp_cl.runtime.process import peak_rss_bytes
from segp_cl.types import Learned, LearnerState, OnProgress, Progress
from worker.base_model import base_model
from worker.checking import check_task
from worker.contributions import contributions_of
from worker.editing import run_edit
from worker.evaluating import evaluate_versions
from worker.instant import in_closed_form, put_on
from worker.judging import Judge, Judgement
from worker.labels import OnLabels
from worker.merging import merge_versions, put_merged
from worker.on_test_sets import measure_on_test_sets, published_of
from worker.placing import base_of, put_in_place, twin_of, waits_in
from worker.promotion import was_current
from worker.seen import SeenAnew
from worker.settings import WorkerSettings
from worker.task_data import TaskData

logger = logging.getLogger(__name__)

OnContributions = Callable[[ContributionReport], None]
_LOCK_POLL_S: Final = 0.5
_STORE_POLL_S: Final = 2.0


class NotPublishedError(KeepsightError):
    """A job that may only be resumed has published no version."""


def run_update(
    job: UpdateJob,
    settings: WorkerSettings,
    *,
    on_progress: OnProgress,
    on_contributions: OnContributions = lambda report: None,
    on_labels: OnLabels = lambda report: None,
    before_publish: Callable[[], None] = lambda: None,
    resume_only: bool = False,
) -> UpdateOutcome:
    """Learn one task below the instant versions that wait, and make the result CURRENT, unless the gate holds it.

    A task that names its parent is learned on that version, at the same time as others are, and CURRENT does not move.
    Two versions that are to be merged are put together without training, and so is what comes of them put in place.
    An edit of the classes is made on top of CURRENT, and waits for no training.
    A task that is only checked has its labels looked at, and nothing is published.
    Versions that are to be evaluated are measured on test sets, and nothing is published.

    If an earlier attempt has published, the job is not learned again; its version is promoted if it never was and is
    not held. A task that is not to be trained is done with its instant version, if that is where it belongs.

    Args:
        job: the task; its images lie in the spool.
        settings: the worker's settings.
        on_progress: called when a phase begins (step 0) and after every step. An exception from it ends the update.
        on_contributions: called before the task is learned with what it has in common with the known classes.
        on_labels: called before the task is learned with what looks wrong in its labels, unless that was told before.
        before_publish: called before anything outside the spool is changed. An exception from it ends the update.
        resume_only: promote what is published, but do not learn.

    Raises:
        NotPublishedError: `resume_only`, and the job has published nothing.
        KeepsightError: the task cannot be learned or published; the message says why. CURRENT did not move.
    """
    _wait_for_store(settings.store, job, on_progress)
    store = Store(settings.store)
    if store.current() is None:
        _begin(store, settings, on_progress)
    if job.evaluates is not None:  # nothing moves, so it waits for no update
        if resume_only:
            raise NotPublishedError("an evaluation publishes no version")
        return evaluate_versions(store, job, settings, on_progress)
    if job.dry_run:
        if resume_only:
            raise NotPublishedError("a check publishes no version")
        return check_task(store, job, settings, on_progress=on_progress, on_labels=on_labels)
    if job.edit is not None:
        edited = run_edit(
            store, job, settings, on_progress=on_progress, before_publish=before_publish, resume_only=resume_only
        )
        if edited is None:
            raise NotPublishedError("no earlier attempt of this job has published a version")
        return told_of(*edited)
    beside = job.parent is not None  # CURRENT does not move, so nothing that moves it has to wait
    with nullcontext() if beside else _lineage(store, on_progress):
        published = store.version_of_job(job.job_id)
        if published is not None:
            before_publish()
            logger.info("this job has published %s already", published)
            return outcome_of(store, job, store.manifest(published), settings, on_progress)
        if resume_only:
            raise NotPublishedError("no earlier attempt of this job has published a version")
        if job.merges is not None:
            manifest = merge_versions(store, job, settings, on_progress=on_progress, before_publish=before_publish)
            return outcome_of(store, job, manifest, settings, on_progress)
        learning = _Update(store, job, settings, on_progress, on_contributions, on_labels, before_publish)
        if job.parent is not None:
            return learning.run(job.parent, None)
        parent = base_of(store.lineage(), waits_in(Spool(settings.spool)))
        twin = twin_of(store, job.job_id, parent)
        if job.corrections and twin is None:  # it could not be made at once
            data = TaskData.read(job, settings)
            twin = put_on(store, data, parent, settings, on_progress=on_progress, before_publish=before_publish)
        elif twin is not None and job.learner_config.strategy == "prototypes":
            before_publish()
        if twin is not None and job.learner_config.strategy == "prototypes":
            return outcome_of(store, job, twin, settings, on_progress)
        return learning.run(parent, twin)


def outcome_of(
    store: Store, job: UpdateJob, manifest: Manifest, settings: WorkerSettings, on_progress: OnProgress
) -> UpdateOutcome:
    """Put a published version in its place if it never was there and is not held, and return the job's outcome.

    The gate decided before the version was published, and its manifest holds the result. So an attempt that was killed
    at any moment since finds the same decision, even if the policy has changed.
    """
    version = manifest.version_id
    refused: str | None = None
    # a promoted version may have been rolled back since on purpose: that is not undone
    if not was_current(store, version):
        if reasons := reasons_of(manifest):
            refused = f"held: {'; '.join(reasons)}"
            logger.warning("published %s and %s", version, refused)
        elif job.parent is not None:
            refused = f"it was learned on {job.parent}, beside CURRENT: promote it, or merge it into another version"
        elif job.merges is not None:
            refused = put_merged(store, job, manifest, settings)
        else:
            refused = put_in_place(store, job, manifest, settings, on_progress)
    return told_of(manifest, refused)


def told_of(manifest: Manifest, refused: str | None) -> UpdateOutcome:
    """Return the outcome of a job that published a version; `refused` says why CURRENT did not move to it, if so."""
    report = dict(manifest.report or {})
    gate = report.pop(REPORT_KEY, None)
    for key in (CONTRIBUTIONS_KEY, TEST_SETS_KEY):
        report.pop(key, None)
    return UpdateOutcome(
        version_id=manifest.version_id,
        promoted=refused is None,
        not_promoted_because=refused,
        held_because=() if refused is None else reasons_of(manifest),
        gate=None if gate is None else GateResult.model_validate(gate),
        evaluation=Evaluation.model_validate(manifest.evaluation) if manifest.evaluation else None,
        test_sets=published_of(manifest),
        report=report,
    )


def _wait_for_store(root: Path, job: UpdateJob, on_progress: OnProgress) -> None:
    """Wait while a store that had versions has none, or cannot be written by a job that would.

    In the first case its disk is not mounted: a new store would swallow what is learned. The longest duration of a job
    bounds this.
    """
    reader = StoreReader(root)
    while True:
        try:
            if job.submitted_on is not None:
                reader.identity()
            if job.evaluates is None and not job.dry_run:
                reader.check_writable()
            return
        except StoreError as error:
            logger.warning("waiting for the store: %s", error)
        on_progress(Progress("waiting", 0, 0))
        time.sleep(_STORE_POLL_S)


def _begin(store: Store, settings: WorkerSettings, on_progress: OnProgress) -> None:
    """Create version 1 in an empty store, if no server has done so. Takes the lineage's lock itself."""
    on_progress(Progress("loading", 0, 0))
    make_first_version(store, base_model(settings.model_spec, choose_device(settings.device)))


@contextmanager
def _lineage(store: Store, on_progress: OnProgress) -> Iterator[None]:
    """Hold the lineage's lock; while another update holds it, report `waiting` twice a second."""
    on_progress(Progress("waiting", 0, 0))
    while True:
        lock = store.lineage_lock(timeout_s=_LOCK_POLL_S)
        try:
            lock.__enter__()
        except StoreBusyError:
            on_progress(Progress("waiting", 0, 0))
            continue
        break
    try:
        yield
    finally:
        lock.__exit__(None, None, None)


class _Update:
    """The steps of one update, with the objects that they share and the seconds that each took."""

    def __init__(
        self,
        store: Store,
        job: UpdateJob,
        settings: WorkerSettings,
        on_progress: OnProgress,
        on_contributions: OnContributions,
        on_labels: OnLabels,
        before_publish: Callable[[], None],
    ) -> None:
        self.store = store
        self.job = job
        self.settings = settings
        self.on_progress = on_progress
        self.on_contributions = on_contributions
        self.on_labels = on_labels
        self.contributions: ContributionReport | None = None
        self.before_publish = before_publish
        self.config = job.learner_config
        self.device = choose_device(settings.device)
        self.seconds: dict[str, float] = {}

    def run(self, parent: VersionId, twin: Manifest | None) -> UpdateOutcome:
        """Learn the task on `parent`; `twin` is its instant version there, if it has one."""
        with self._phase("loading"):
            data = TaskData.read(self.job, self.settings)
            state = self.store.open(parent)
            base = base_model(state.model, self.device)
            self.contributions = self._contributions(state, base, data)
        if self.contributions is not None:
            self.on_contributions(self.contributions)
        if twin is None:  # else it was told with the instant version
            with self._timed("labels"):
                taught = in_closed_form(state, data, self.settings, on_progress=self.on_progress)
                self.on_labels(taught.labels(data, self.on_progress))
        with self._timed("learning"):
            learned = self._learn(state, base, data)
        with self._phase("evaluating"):
            judgement = self._judge(state, learned.state, base, data, parent, twin)
        self.before_publish()
        with self._phase("publishing"):
            provenance = data.provenance("trained", learned, base, judgement, self._report())
            manifest = self.store.publish(learned.state, parent=parent, provenance=provenance, golden=judgement.golden)
            judgement.test_sets.save(self.store, manifest.version_id)
        logger.info("published %s on %s", manifest.version_id, parent)
        outcome = outcome_of(self.store, self.job, manifest, self.settings, self.on_progress)
        report = {**outcome.report, "worker_seconds": self._worker_seconds()}  # with those of publishing
        return outcome.model_copy(update={"report": report})

    def _contributions(self, state: LearnerState, base: Backbone, data: TaskData) -> ContributionReport | None:
        task = data.task(data.images(self.settings, base))
        return contributions_of(state, base, task.classes, task.images, data.index, data.split)

    def _learn(self, state: LearnerState, base: Backbone, data: TaskData) -> Learned:
        return learn_task(
            state,
            data.task(data.images(self.settings, base, data.split.train, cache=True)),
            config=self.config,
            generator=torch.Generator().manual_seed(self.job.seed),
            on_progress=self.on_progress,
            backbone=base,
            device=self.device,
            dtype=choose_dtype(self.settings.precision, self.device),
            folder=data.folder,
        )

    def _judge(
        self,
        old: LearnerState,
        new: LearnerState,
        base: Backbone,
        data: TaskData,
        parent: VersionId,
        twin: Manifest | None,
    ) -> Judgement:
        def on_batch(step: int, steps: int) -> None:
            self.on_progress(Progress("evaluating", step, steps))

        judge = Judge(
            policy=self.store.gate().policy,
            base=base,
            index=data.index,
            split=data.split,
            left_out=data.left_out,
            seen=SeenAnew(data.images(self.settings, base)),
            batch_size=self.config.feature_batch_size,
            on_batch=on_batch,
            on_test_sets=lambda classifier: measure_on_test_sets(
                classifier,
                self.store,
                self.settings,
                base,
                parents=(parent,),
                batch_size=self.config.feature_batch_size,
                folder=data.folder,
                on_batch=on_batch,
            ),
        )
        return judge.judge(old, new, twin=twin)

    def _worker_seconds(self) -> dict[str, JsonValue]:
        return {name: round(spent, 3) for name, spent in self.seconds.items()}

    def _report(self) -> dict[str, object]:
        return {
            "worker_seconds": self._worker_seconds(),
            "peak_rss_bytes": peak_rss_bytes(),
            "device": self.device,
            **({} if self.contributions is None else {CONTRIBUTIONS_KEY: self.contributions.model_dump(mode="json")}),
        }

    @contextmanager
    def _phase(self, name: str) -> Iterator[None]:
        self.on_progress(Progress(name, 0, 0))
        with self._timed(name):
            yield

    @contextmanager
    def _timed(self, name: str) -> Iterator[None]:
        begun = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = time.perf_counter() - begun
