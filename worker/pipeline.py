"""One update, from top to bottom: wait for the lineage, load, learn, evaluate, judge, publish, promote or hold."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Final

import torch

from exchange.contracts import Evaluation, GateResult, UpdateJob, UpdateOutcome
from exchange.spool import Spool, SpoolError, SpoolIndex
from model_store.first_version import make_first_version
from model_store.gate import REPORT_KEY
from model_store.reader import StoreReader
from model_store.store import Store
from model_store.types import (
    DatasetRecord,
    JsonObject,
    PreprocessingRecord,
    Provenance,
    StoreBusyError,
    StoreError,
    VersionId,
)
from segp_cl.data.held_out import Split, hold_out, named_by
from segp_cl.data.image_sets import FolderImages
from segp_cl.errors import KeepsightError
from segp_cl.learn.learner import learn_task
from segp_cl.models.backbone import Backbone
from segp_cl.models.load import load_backbone
from segp_cl.runtime.classifier import Classifier
from segp_cl.runtime.golden import GoldenAnswers, record
from segp_cl.runtime.hardware import choose_device, choose_dtype
from segp_cl.runtime.process import peak_rss_bytes
from segp_cl.types import Learned, LearnerState, OnProgress, Progress, Task, TaskClass
from worker.evaluation import evaluate
from worker.evidence import OldClasses, Tally, evenly, not_finite
from worker.gate import NONE, Answers, Evidence, judge
from worker.promotion import outcome_of, reason_of, resume
from worker.settings import WorkerSettings

logger = logging.getLogger(__name__)

_LOCK_POLL_S: Final = 0.5
_STORE_POLL_S: Final = 2.0
_IMAGES_FOR_THE_DRIFT: Final = 32


class NotPublishedError(KeepsightError):
    """A job that may only be resumed has published no version."""


def run_update(
    job: UpdateJob,
    settings: WorkerSettings,
    *,
    on_progress: OnProgress,
    before_publish: Callable[[], None] = lambda: None,
    resume_only: bool = False,
) -> UpdateOutcome:
    """Learn one task on top of CURRENT and make the result CURRENT, unless the gate holds it.

    If an earlier attempt has published, the job is not learned again; its version is promoted if it never was and is
    not held.

    Args:
        job: the task; its images lie in the spool.
        settings: the worker's settings.
        on_progress: called when a phase begins (step 0) and after every step. An exception from it ends the update.
        before_publish: called before anything outside the spool is changed. An exception from it ends the update.
        resume_only: promote what is published, but do not learn.

    Raises:
        NotPublishedError: `resume_only`, and the job has published nothing.
        KeepsightError: the task cannot be learned or published; the message says why. CURRENT did not move.
    """
    if job.submitted_on is not None:
        _wait_for_store(settings.store, on_progress)
    store = Store(settings.store)
    if store.current() is None:
        _begin(store, settings, on_progress)
    with _lineage(store, on_progress):
        published = store.version_of_job(job.job_id)
        if published is not None:
            before_publish()
            return resume(store, job, published, settings)
        if resume_only:
            raise NotPublishedError("no earlier attempt of this job has published a version")
        return _Update(store, job, settings, on_progress, before_publish).run()


def _wait_for_store(root: Path, on_progress: OnProgress) -> None:
    """Wait while a store that had versions has none: its disk is not mounted. A new one would swallow what is learned.

    The longest duration of a job bounds this.
    """
    while True:
        try:
            StoreReader(root).identity()
            return
        except StoreError as error:
            logger.warning("waiting for the store: %s", error)
        on_progress(Progress("waiting", 0, 0))
        time.sleep(_STORE_POLL_S)


def _begin(store: Store, settings: WorkerSettings, on_progress: OnProgress) -> None:
    """Create version 1 in an empty store, if no server has done so. Takes the lineage's lock itself."""
    on_progress(Progress("loading", 0, 0))
    make_first_version(store, load_backbone(settings.model_spec))


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
        before_publish: Callable[[], None],
    ) -> None:
        self.store = store
        self.job = job
        self.settings = settings
        self.on_progress = on_progress
        self.before_publish = before_publish
        self.config = job.learner_config
        self.device = choose_device(settings.device)
        self.seconds: dict[str, float] = {}

    def run(self) -> UpdateOutcome:
        with self._phase("loading"):
            spool = Spool(self.settings.spool)
            index = self._read_spool(spool)
            parent, state, base = self._load()
        split = hold_out(
            index.labels,
            fraction=self.settings.holdout_fraction,
            min_images=self.settings.holdout_min_images,
            shuffle=named_by(index.digest, self.job.seed),
            given=index.held_out,
        )
        with self._timed("learning"):
            learned = self._learn(state, base, index, split, spool.folder(self.job.job_id))
        with self._phase("evaluating"):
            evaluation, golden, gate = self._judge(state, learned.state, base, index, split)
        self.before_publish()
        with self._phase("publishing"):
            provenance = self._provenance(learned, base, index, split, evaluation, gate)
            manifest = self.store.publish(learned.state, parent=parent, provenance=provenance, golden=golden)
            version = manifest.version_id
        logger.info("published %s on %s", version, parent)
        outcome = outcome_of(self.store, self.job, manifest, self.settings)
        return outcome.model_copy(update={"report": _json(self._report(learned))})  # it has the seconds of publishing

    def _read_spool(self, spool: Spool) -> SpoolIndex:
        index = spool.read(self.job.job_id)
        if index.digest != self.job.dataset_digest:
            raise SpoolError(f"the spooled images have digest {index.digest}, expected {self.job.dataset_digest}")
        if index.classes != tuple(c.name for c in self.job.classes):
            raise SpoolError("the spooled images have other classes than the job")
        return index

    def _load(self) -> tuple[VersionId, LearnerState, Backbone]:
        parent = self.store.current()
        assert parent is not None, "CURRENT is never unset"
        state = self.store.open(parent)
        return parent, state, load_backbone(state.model, device=self.device)

    def _images(
        self, index: SpoolIndex, chosen: tuple[int, ...], base: Backbone, *, cache: Path | None
    ) -> FolderImages:
        return FolderImages(
            [index.files[i] for i in chosen],
            [index.labels[i] for i in chosen],
            base.preprocessing,
            threads=self.settings.threads,
            cache=cache,
            max_pixels=self.settings.max_image_pixels,
        )

    def _learn(self, state: LearnerState, base: Backbone, index: SpoolIndex, split: Split, scratch: Path) -> Learned:
        task = Task(
            name=self.job.task_name,
            classes=tuple(TaskClass(c.name, c.prompt) for c in self.job.classes),
            images=self._images(index, split.train, base, cache=scratch),
            extend=self.job.extend,
        )
        return learn_task(
            state,
            task,
            config=self.config,
            generator=torch.Generator().manual_seed(self.job.seed),
            on_progress=self.on_progress,
            backbone=base,
            device=self.device,
            dtype=choose_dtype(self.settings.precision, self.device),
            folder=scratch,
        )

    def _judge(
        self, old: LearnerState, new: LearnerState, base: Backbone, index: SpoolIndex, split: Split
    ) -> tuple[Evaluation | None, GoldenAnswers | None, GateResult]:
        """Measure the new version, record its golden answers, and have the gate decide on both.

        Golden answers that are not finite cannot be stored, and are left out of a version that is held for them.
        """
        policy = self.store.gate().policy
        few = policy.enabled and policy.check_taught and len(split.held_out) < policy.few_images
        again = policy.enabled and policy.check_contradiction and bool(set(old.class_names) & set(index.classes))
        taught = evenly(index.labels, split.train) if few or again else ()
        known = tuple(at for at in taught if again and index.classes[index.labels[at]] in old.class_names)
        others = bool(set(old.class_names) - set(index.classes))
        parent = Classifier(base, old) if known or others else None
        kept = None
        if parent is not None and others and policy.enabled and policy.check_old_classes:
            kept = self._old_classes(parent, base, index, split)
        classifier = Classifier(base, new)
        evaluation, held_out_answers = self._measure(classifier, base, index, split.held_out)
        _, taught_answers = self._measure(classifier, base, index, taught)
        _, known_before = (None, NONE) if parent is None else self._measure(parent, base, index, known)
        golden = record(classifier, base.preprocessing.size)
        unusable = not_finite(golden)
        evidence = Evidence(
            seen_classes=len(new.classes),
            held_out=held_out_answers,
            taught=taught_answers,
            kept=NONE if kept is None else kept.after(classifier),
            kept_before=NONE if kept is None else kept.answers_before,
            known_before=known_before,
            golden_not_finite=unusable,
        )
        gate = judge(policy, evidence)
        return evaluation, golden if not unusable else None, gate

    def _measure(
        self, classifier: Classifier, base: Backbone, index: SpoolIndex, chosen: tuple[int, ...]
    ) -> tuple[Evaluation | None, Answers]:
        if not chosen:
            return None, NONE
        tally = Tally(classifier)
        evaluation = evaluate(
            classifier,
            self._images(index, chosen, base, cache=None),
            classes=index.classes,
            batch_size=self.config.feature_batch_size,
            on_batch=lambda step, steps: self.on_progress(Progress("evaluating", step, steps)),
            on_scores=tally.add,
        )
        return evaluation, tally.answers()

    def _old_classes(self, parent: Classifier, base: Backbone, index: SpoolIndex, split: Split) -> OldClasses:
        """Sample features of the old classes, and have the parent answer to them."""
        few = evenly(index.labels, split.train, _IMAGES_FOR_THE_DRIFT)
        images = self._images(index, few, base, cache=None).pixels(range(len(few)))
        return OldClasses(parent, images, but=index.classes)

    def _provenance(
        self,
        learned: Learned,
        base: Backbone,
        index: SpoolIndex,
        split: Split,
        evaluation: Evaluation | None,
        gate: GateResult,
    ) -> Provenance:
        def count(chosen: tuple[int, ...]) -> dict[str, int]:
            labels = [index.labels[i] for i in chosen]
            return {name: labels.count(c) for c, name in enumerate(index.classes)}

        return Provenance(
            who=self.job.submitted_by,
            reason=reason_of(self.job),
            preprocessing=PreprocessingRecord.model_validate(base.preprocessing),
            strategy=self.config.strategy,
            settings=dict(learned.report.settings),
            seed=self.job.seed,
            job_id=self.job.job_id,
            dataset=DatasetRecord(
                name=self.job.task_name,
                digest=index.digest,
                images_per_class=count(split.train),
                holdout_per_class=count(split.held_out),
            ),
            evaluation=evaluation.model_dump(mode="json") if evaluation else None,
            report={**self._report(learned), REPORT_KEY: gate.model_dump(mode="json")},
        )

    def _report(self, learned: Learned) -> dict[str, object]:
        return {
            **asdict(learned.report),
            "worker_seconds": {name: round(spent, 3) for name, spent in self.seconds.items()},
            "peak_rss_bytes": peak_rss_bytes(),
            "device": self.device,
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


def _json(report: dict[str, object]) -> JsonObject:
    return Provenance.model_validate({"report": report}).report or {}
