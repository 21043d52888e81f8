"""An instant version: a task's classes in closed form, without a gradient, from one pass over its images."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType

import torch

from exchange.contracts import Evaluation, GateResult, InstantOutcome, LabelReport, UpdateJob, utc_now
from model_store.gate import REPORT_KEY, reasons_of
from model_store.reader import StoreReader
from model_store.store import Store
from model_store.types import Made, Manifest, VersionId
from segp_cl.config import LearnerConfig
from segp_cl.data.row_file import RowFile
from segp_cl.learn.learner import learn_task
from segp_cl.models.backbone import Backbone
from segp_cl.runtime.classifier import Classifier
from segp_cl.runtime.engines.torch_engine import TorchEngine
from segp_cl.runtime.hardware import choose_device, choose_dtype
from segp_cl.runtime.passes import PassSettings
from segp_cl.types import Learned, LearnerState, OnProgress, Progress
from worker.base_model import base_model
from worker.correcting import correct
from worker.judging import Judge
from worker.labels import OnLabels, labels_of
from worker.on_test_sets import measure_on_test_sets, published_of
from worker.promotion import promote
from worker.seen import SeenOnce
from worker.settings import WorkerSettings
from worker.task_data import TaskData

logger = logging.getLogger(__name__)


def run_instant(
    job: UpdateJob,
    settings: WorkerSettings,
    *,
    on_progress: OnProgress = lambda progress: None,
    on_labels: OnLabels = lambda report: None,
    before_publish: Callable[[], None] = lambda: None,
) -> InstantOutcome:
    """Teach CURRENT a task in closed form, and make the result CURRENT unless the gate holds it.

    Args:
        job: the task; its images lie in the spool.
        settings: the worker's settings.
        on_progress: called after every step. An exception from it ends the work.
        on_labels: called with what looks wrong in the labels, before the version is published.
        before_publish: called before anything outside the spool is changed. An exception from it ends the work.

    Raises:
        KeepsightError: the task cannot be taught so; the message says why. CURRENT did not move.
    """
    begun = time.perf_counter()
    StoreReader(settings.store).identity()  # raises where the disk is not mounted: opened to write, it would be begun
    store = Store(settings.store)
    with store.top_lock():
        parent = store.known_current()
        data = TaskData.read(job, settings)
        manifest = put_on(
            store,
            data,
            parent,
            settings,
            on_progress=on_progress,
            on_labels=on_labels,
            before_publish=before_publish,
        )
        reasons = reasons_of(manifest)
        refused: str | None = f"held: {'; '.join(reasons)}"
        if not reasons:
            refused = promote(store, job, manifest.version_id, parent, settings)
    gate = (manifest.report or {}).get(REPORT_KEY)
    return InstantOutcome(
        version_id=manifest.version_id,
        promoted=refused is None,
        not_promoted_because=refused,
        held_because=reasons,
        gate=None if gate is None else GateResult.model_validate(gate),
        evaluation=Evaluation.model_validate(manifest.evaluation) if manifest.evaluation else None,
        test_sets=published_of(manifest),
        seconds=round(time.perf_counter() - begun, 3),
        at=utc_now(),
    )


def put_on(
    store: Store,
    data: TaskData,
    parent: VersionId,
    settings: WorkerSettings,
    *,
    on_progress: OnProgress,
    on_labels: OnLabels | None = None,
    before_publish: Callable[[], None] = lambda: None,
    first: Callable[[LearnerState, Backbone], LearnerState] | None = None,
    report: Mapping[str, object] = MappingProxyType({}),
) -> Manifest:
    """Publish the instant version of a task on a parent, without promoting it.

    New classes get their sums, prototypes, texts and calibration by the parent's towers, which stay as they are. The
    instant version of corrections is all that is made of them. `first` is what is done to the parent's state before:
    the class that the task replaces is taken away. `report` adds to the learner's.
    """
    if data.job.corrections:
        return correct(store, data, parent, settings, on_progress=on_progress, before_publish=before_publish)
    state = store.open(parent)
    if first is not None:
        state = first(state, base_model(state.model, choose_device(settings.device)))
    taught = in_closed_form(state, data, settings, on_progress=on_progress)
    base, learned, config = taught.base, taught.learned, taught.config
    if on_labels is not None:
        on_labels(taught.labels(data, on_progress))

    def on_batch(step: int, steps: int) -> None:
        on_progress(Progress("evaluating", step, steps))

    judge = Judge(
        policy=store.gate().policy,
        base=base,
        index=data.index,
        split=data.split,
        left_out=data.left_out,
        seen=taught.seen,
        batch_size=config.feature_batch_size,
        on_batch=on_batch,
        on_test_sets=lambda classifier: measure_on_test_sets(
            classifier,
            store,
            settings,
            base,
            parents=(parent,),
            batch_size=config.feature_batch_size,
            folder=data.folder,
            on_batch=on_batch,
            most=settings.instant_test_images,
        ),
    )
    judgement = judge.judge(state, learned.state, parent=taught.before, classifier=taught.after)
    before_publish()
    made: Made = "edited" if data.job.edit else "instant"
    provenance = data.provenance(made, learned, base, judgement, {"device": taught.device, **report})
    manifest = store.publish(learned.state, parent=parent, provenance=provenance, golden=judgement.golden)
    judgement.test_sets.save(store, manifest.version_id)
    return manifest


@dataclass(frozen=True)
class InClosedForm:
    """What a task's images give in closed form, before anything is published.

    Attributes:
        state: what it was learned on.
        base: the base model.
        before: the classifier of `state`.
        seen: all images of the task, each of which passes the tower once.
        learned: the new state.
        config: the hyper-parameters.
        device: where it was computed.
    """

    state: LearnerState
    base: Backbone
    before: Classifier
    seen: SeenOnce
    learned: Learned
    config: LearnerConfig
    device: str

    @cached_property
    def after(self) -> Classifier:
        """The classifier of the new state."""
        return Classifier(self.base, self.learned.state)

    def labels(self, data: TaskData, on_progress: OnProgress) -> LabelReport:
        """Return what looks wrong in the task's labels."""
        return labels_of(
            self.after,
            self.seen,
            data.index,
            data.split,
            batch_size=self.config.feature_batch_size,
            on_batch=lambda step, steps: on_progress(Progress("labels", step, steps)),
        )


def in_closed_form(
    state: LearnerState, data: TaskData, settings: WorkerSettings, *, on_progress: OnProgress
) -> InClosedForm:
    """Teach a state a task without a gradient.

    Raises:
        KeepsightError: the task cannot be taught so; the message says why.
    """
    job, device = data.job, choose_device(settings.device)
    base = base_model(state.model, device)
    config = job.learner_config.model_copy(update={"strategy": "prototypes"})
    passes = PassSettings.of(base.device, max_batch_size=config.feature_batch_size, threads=settings.threads)
    before = Classifier(base, state, engine=TorchEngine(passes))
    rows = RowFile(len(data.index.files), folder=data.folder)
    seen = SeenOnce(data.images(settings, base), before, rows)
    learned = learn_task(
        state,
        data.task(seen.part(data.split.train)),
        config=config,
        generator=torch.Generator().manual_seed(job.seed),
        on_progress=on_progress,
        backbone=base,
        device=device,
        dtype=choose_dtype(settings.precision, device),
        folder=data.folder,
    )
    return InClosedForm(state, base, before, seen, learned, config, device)
