"""Edits of the classes: a version within seconds, without training, on top of CURRENT."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import asdict
from functools import partial

import torch

from exchange.contracts import UpdateJob
from model_store.gate import REPORT_KEY, reasons_of
from model_store.store import Store
from model_store.types import Manifest, PreprocessingRecord, Provenance, VersionId
from segp_cl.class_edits import ClassEdit
from segp_cl.config import LearnerConfig
from segp_cl.learn.edits import edit_classes, restored, told
from segp_cl.models.backbone import Backbone
from segp_cl.runtime.classifier import Classifier
from segp_cl.runtime.golden import GoldenAnswers
from segp_cl.runtime.hardware import choose_device
from segp_cl.types import LearnerState, OnProgress, Progress
from worker.base_model import base_model
from worker.imageless import Before, judge_without_images, usual_norm
from worker.instant import put_on
from worker.on_test_sets import measure_on_test_sets
from worker.promotion import promote, was_current
from worker.settings import WorkerSettings
from worker.task_data import TaskData, reason_of

logger = logging.getLogger(__name__)

EDIT_KEY = "edit"
"""Where a manifest's report has what an edit could take away, and what it could not."""


def run_edit(
    store: Store,
    job: UpdateJob,
    settings: WorkerSettings,
    *,
    on_progress: OnProgress,
    before_publish: Callable[[], None],
    resume_only: bool,
) -> tuple[Manifest, str | None] | None:
    """Edit CURRENT's classes, and make the result CURRENT unless the gate holds it.

    An attempt that was killed after it published is carried on with: the edit is made on what is CURRENT now, which is
    the same version if nothing has moved, and not at all if its version was CURRENT before.

    Args:
        store: the store.
        job: the job, with its edit.
        settings: the worker's settings.
        on_progress: called after every step. An exception from it ends the work.
        before_publish: called before anything is changed. An exception from it ends the work.
        resume_only: do nothing unless an earlier attempt has published.

    Returns:
        The version and why CURRENT did not move to it (None: it did); None if nothing was to be resumed.

    Raises:
        ClassNotFoundError, ClassExistsError: CURRENT's classes cannot be edited so.
        StoreError: CURRENT cannot be read.
    """
    assert job.edit is not None
    with store.top_lock():
        made = store.made_of_job(job.job_id, "edited")
        if done := next((manifest for manifest in made if was_current(store, manifest.version_id)), None):
            before_publish()
            return done, None
        if resume_only and not made:
            return None
        parent = store.known_current()
        if job.edit.kind == "replace":
            manifest = _replaced(store, job, parent, settings, on_progress, before_publish)
        else:
            manifest = _edited(
                store, job.edit, parent, settings, _provenance_of(job), on_progress=on_progress, ready=before_publish
            )
        if reasons := reasons_of(manifest):
            return manifest, f"held: {'; '.join(reasons)}"
        return manifest, promote(store, job, manifest.version_id, parent, settings)


def edit_again(
    store: Store, before: Manifest, parent: VersionId, settings: WorkerSettings, *, on_progress: OnProgress
) -> Manifest:
    """Publish an edited version anew on another parent, without promoting it. Its images are not needed again.

    Raises:
        ClassNotFoundError, ClassExistsError: the parent's classes cannot be edited so.
    """
    assert before.edit is not None
    provenance = Provenance.model_validate(
        before.model_dump(include={"preprocessing", "strategy", "settings", "seed", "job_id", "dataset"})
        | {"who": "keepsight", "reason": f"{before.edit.words}, as in {before.version_id}"}
    )
    source = store.open(before.version_id) if before.edit.kind == "replace" else None
    return _edited(store, before.edit, parent, settings, provenance, on_progress=on_progress, source=source)


def _edited(
    store: Store,
    edit: ClassEdit,
    parent: VersionId,
    settings: WorkerSettings,
    provenance: Provenance,
    *,
    on_progress: OnProgress,
    ready: Callable[[], None] = lambda: None,
    source: LearnerState | None = None,
) -> Manifest:
    """Publish a version's edit. `source` knows the class that is replaced, where that is done without images."""
    on_progress(Progress("loading", 0, 0))
    content = store.read(parent)
    state = content.state
    edit.check(state.class_names)
    base = base_model(state.model, choose_device(settings.device))
    norm = usual_norm(content.golden)
    on_progress(Progress("editing", 0, 0))
    learned = edit_classes(
        state,
        edit,
        backbone=base,
        config=LearnerConfig(),
        generator=torch.Generator().manual_seed(provenance.seed or 0),
        norm=norm,
        on_progress=on_progress,
    )
    new = learned.state
    if source is not None:
        new = restored(new, source.classes[source.class_names.index(edit.classes[0])], source)
    on_progress(Progress("evaluating", 0, 0))
    classifier = Classifier(base, new)
    test_sets = measure_on_test_sets(
        classifier,
        store,
        settings,
        base,
        parents=(parent,),
        edit=edit,
        batch_size=LearnerConfig().feature_batch_size,
        on_batch=lambda step, steps: on_progress(Progress("evaluating", step, steps)),
        most=settings.instant_test_images,
    )
    before = Before(state, frozenset(edit.classes))
    judgement = judge_without_images(store.gate().policy, base, [before], classifier, norm, test_sets)
    ready()
    on_progress(Progress("publishing", 0, 0))
    report = {
        **asdict(learned.report),
        EDIT_KEY: told(state, edit),
        "device": str(base.device),
        **test_sets.report,
        REPORT_KEY: judgement.gate.model_dump(mode="json"),
    }
    made = Provenance.model_validate(
        provenance.model_dump()
        | {
            "made": "edited",
            "edit": edit,
            "preprocessing": PreprocessingRecord.model_validate(base.preprocessing),
            "strategy": provenance.strategy or "edit",
            "settings": provenance.settings or learned.report.settings,
            "report": report,
        }
    )
    manifest = store.publish(new, parent=parent, provenance=made, golden=judgement.golden)
    test_sets.save(store, manifest.version_id)
    logger.info("published %s on %s: %s", manifest.version_id, parent, edit.words)
    return manifest


def _replaced(
    store: Store,
    job: UpdateJob,
    parent: VersionId,
    settings: WorkerSettings,
    on_progress: OnProgress,
    before_publish: Callable[[], None],
) -> Manifest:
    """Publish CURRENT with one class taught anew by the job's images, in closed form."""
    assert job.edit is not None
    on_progress(Progress("loading", 0, 0))
    content = store.read(parent)
    job.edit.check(content.state.class_names)
    take_away = partial(_without, edit=job.edit, golden=content.golden)
    return put_on(
        store,
        TaskData.read(job, settings),
        parent,
        settings,
        on_progress=on_progress,
        before_publish=before_publish,
        first=take_away,
        report={EDIT_KEY: told(content.state, job.edit)},
    )


def _without(state: LearnerState, base: Backbone, *, edit: ClassEdit, golden: GoldenAnswers | None) -> LearnerState:
    generator = torch.Generator().manual_seed(0)
    learned = edit_classes(
        state, edit, backbone=base, config=LearnerConfig(), generator=generator, norm=usual_norm(golden)
    )
    return learned.state


def _provenance_of(job: UpdateJob) -> Provenance:
    return Provenance(who=job.submitted_by, reason=reason_of(job), seed=job.seed, job_id=job.job_id)
