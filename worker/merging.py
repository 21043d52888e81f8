"""Merges two versions that were taught different tasks from one, and puts the result in place."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import asdict

import torch

from exchange.contracts import UpdateJob
from exchange.spool import Spool
from model_store import policy
from model_store.gate import REPORT_KEY
from model_store.store import Store
from model_store.types import Manifest, PreprocessingRecord, Provenance
from segp_cl.branches import adds_exactly
from segp_cl.learn.branches import merge_branches
from segp_cl.runtime.classifier import Classifier
from segp_cl.runtime.hardware import choose_device
from segp_cl.runtime.process import peak_rss_bytes
from segp_cl.types import OnProgress, Progress
from worker.base_model import base_model
from worker.imageless import Before, judge_without_images, usual_norm
from worker.on_test_sets import measure_on_test_sets
from worker.promotion import promote
from worker.settings import WorkerSettings
from worker.task_data import reason_of

logger = logging.getLogger(__name__)


def merge_versions(
    store: Store,
    job: UpdateJob,
    settings: WorkerSettings,
    *,
    on_progress: OnProgress,
    before_publish: Callable[[], None],
) -> Manifest:
    """Publish what the two versions of a job know together, without promoting it. The first one is the parent.

    Args:
        store: the store.
        job: names the versions.
        settings: the worker's settings.
        on_progress: called after every step. An exception from it ends the work.
        before_publish: called before anything is changed. An exception from it ends the work.

    Raises:
        NoCommonAncestorError: it cannot be told what each has learned that the other has not.
        HeldError: the gate holds one of them.
        MergeError: they cannot be merged; the message says why.
        StoreError: one of them cannot be read.
    """
    assert job.merges is not None
    ours, theirs = job.merges
    on_progress(Progress("loading", 0, 0))
    ancestor = store.common_ancestor(ours, theirs)
    for version in (ours, theirs):
        store.check_not_held(version)
    first, second = store.read(ours), store.read(theirs)
    base, states = store.open(ancestor), (first.state, second.state)
    backbone = base_model(base.model, choose_device(settings.device))
    norm = usual_norm(first.golden, second.golden)
    on_progress(Progress("merging", 0, 0))
    learned = merge_branches(
        base,
        *states,
        backbone=backbone,
        config=job.learner_config,
        generator=torch.Generator().manual_seed(job.seed),
        norm=norm,
        on_progress=on_progress,
    )
    on_progress(Progress("evaluating", 0, 0))
    classifier = Classifier(backbone, learned.state)
    test_sets = measure_on_test_sets(
        classifier,
        store,
        settings,
        backbone,
        parents=(ours, theirs),
        batch_size=job.learner_config.feature_batch_size,
        folder=Spool(settings.spool).folder(job.job_id),
        on_batch=lambda step, steps: on_progress(Progress("evaluating", step, steps)),
    )
    parents = [Before(state) for state in states]
    found = judge_without_images(store.gate().policy, backbone, parents, classifier, norm, test_sets)
    before_publish()
    on_progress(Progress("publishing", 0, 0))
    report: dict[str, object] = {
        "common_ancestor": ancestor,
        "statistics": "exact" if adds_exactly(base, *states) else "approximate",
        "peak_rss_bytes": peak_rss_bytes(),
        "device": str(backbone.device),
    }
    provenance = Provenance(
        who=job.submitted_by,
        reason=reason_of(job),
        made="merged",
        preprocessing=PreprocessingRecord.model_validate(backbone.preprocessing),
        strategy="branches",
        settings=dict(learned.report.settings),
        seed=job.seed,
        job_id=job.job_id,
        other_parent=theirs,
        report={**asdict(learned.report), **report, **test_sets.report, REPORT_KEY: found.gate.model_dump(mode="json")},
    )
    manifest = store.publish(learned.state, parent=ours, provenance=provenance, golden=found.golden)
    test_sets.save(store, manifest.version_id)
    logger.info("published %s of %s and %s", manifest.version_id, ours, theirs)
    return manifest


def put_merged(store: Store, job: UpdateJob, manifest: Manifest, settings: WorkerSettings) -> str | None:
    """Make a merged version CURRENT if CURRENT is part of it. Returns None, or why CURRENT did not move."""
    with store.top_lock():
        current = store.current()
        parents = {known.version_id: known.parents for known in store.list()}
        if current not in policy.learned_in(manifest.version_id, parents):
            return f"CURRENT is {current}, which is not part of it; the version is kept and can be promoted by hand"
        return promote(store, job, manifest.version_id, current, settings)
