"""Makes the version that has learned the corrections of a job, and tells what each of them did."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from exchange.contracts import CORRECTIONS_KEY, CorrectionEffect, CorrectionReport, GateResult
from exchange.corrections import Correction, taken_by
from exchange.spool import Spool, SpoolError
from model_store.gate import REPORT_KEY, GatePolicy
from model_store.store import Store
from model_store.types import DatasetRecord, Manifest, PreprocessingRecord, Provenance, VersionId
from segp_cl.data.row_file import RowFile
from segp_cl.errors import InvalidTaskError
from segp_cl.learn.corrections import learn_corrections
from segp_cl.models.backbone import Backbone
from segp_cl.runtime.classifier import Classifier
from segp_cl.runtime.engines.torch_engine import TorchEngine
from segp_cl.runtime.golden import GoldenAnswers, record
from segp_cl.runtime.hardware import choose_device
from segp_cl.runtime.passes import PassSettings
from segp_cl.types import Learned, OnProgress, Progress, TaskClass
from worker.base_model import base_model
from worker.evidence import SampledClasses, not_finite
from worker.gate import NONE, Evidence, judge
from worker.on_test_sets import Found, measure_on_test_sets
from worker.seen import SeenOnce
from worker.settings import WorkerSettings
from worker.task_data import TaskData, reason_of

_BATCH = 1024
MOST_TOLD = 200
"""Most corrections whose effect a report tells one by one."""


def correct(
    store: Store,
    data: TaskData,
    parent: VersionId,
    settings: WorkerSettings,
    *,
    on_progress: OnProgress,
    before_publish: Callable[[], None] = lambda: None,
) -> Manifest:
    """Publish a version of a parent that has learned a job's corrections in closed form, without promoting it.

    Args:
        store: the store.
        data: the job, which learns corrections.
        parent: the version whose answers are corrected.
        settings: the worker's settings.
        on_progress: called after every step. An exception from it ends the work.
        before_publish: called before anything outside the spool is changed. An exception from it ends the work.

    Raises:
        SpoolError: what is known of the corrections is not in the spool.
        KeepsightError: they cannot be learned; the message says why.
    """
    job, device = data.job, choose_device(settings.device)
    state = store.open(parent)
    base = base_model(state.model, device)
    config = job.learner_config
    known = set(state.class_names)
    corrections = {
        at: each
        for at, each in enumerate(_in_the_order_of(data, settings))
        if each.label in known or each.prompt is not None
    }
    if not corrections:
        raise InvalidTaskError(f"none of the classes of the corrections is known to {parent}")
    passes = PassSettings.of(base.device, max_batch_size=config.feature_batch_size, threads=settings.threads)
    before = Classifier(base, state, engine=TorchEngine(passes))
    raw = _seen_by(before, data, list(corrections), base, settings, config.feature_batch_size, on_progress)
    new = {each.label: each.prompt for each in corrections.values() if each.prompt and each.label not in known}
    learned = learn_corrections(
        state,
        raw,
        [each.label for each in corrections.values()],
        taught=[each.taught_as for each in corrections.values()],
        new_classes=[TaskClass(name, prompt) for name, prompt in sorted(new.items())],
        backbone=base,
        config=config,
    )
    on_progress(Progress("evaluating", 0, 0))
    after = Classifier(base, learned.state, engine=TorchEngine(passes))
    sampled = SampledClasses(before, raw.norm(dim=1).mean())
    test_sets = measure_on_test_sets(
        after,
        store,
        settings,
        base,
        parents=(parent,),
        batch_size=config.feature_batch_size,
        folder=data.folder,
        on_batch=lambda step, steps: on_progress(Progress("evaluating", step, steps)),
        most=settings.instant_test_images,
    )
    golden, gate = _judged(store.gate().policy, base, after, sampled, test_sets)
    report = _report(list(corrections.values()), job.corrections, before, after, raw, sampled)
    before_publish()
    on_progress(Progress("publishing", 0, 0))
    told = {**test_sets.report, CORRECTIONS_KEY: report.model_dump(mode="json")}
    provenance = _provenance(data, learned, base, gate, told, device)
    manifest = store.publish(learned.state, parent=parent, provenance=provenance, golden=golden)
    test_sets.save(store, manifest.version_id)
    return manifest


def _in_the_order_of(data: TaskData, settings: WorkerSettings) -> Sequence[Correction]:
    """Return the corrections in the order of the job's images."""
    known = {each.sha256: each for each in taken_by(Spool(settings.spool), data.job.job_id)}
    try:
        return [known[checksum] for checksum in data.index.checksums]
    except KeyError as error:
        raise SpoolError(f"a correction of job {data.job.job_id} is missing from the spool") from error


def _seen_by(
    classifier: Classifier,
    data: TaskData,
    positions: Sequence[int],
    base: Backbone,
    settings: WorkerSettings,
    batch_size: int,
    on_progress: OnProgress,
) -> Float[Tensor, "images raw"]:
    count = len(positions)
    seen = SeenOnce(data.images(settings, base, positions), classifier, RowFile(count, folder=data.folder))
    parts, starts = [], range(0, count, batch_size)
    for step, start in enumerate(starts, start=1):
        parts.append(seen.raw_features(range(start, min(start + batch_size, count))))
        on_progress(Progress("loading", step, len(starts)))
    return torch.cat(parts)


def _judged(
    policy: GatePolicy, base: Backbone, after: Classifier, sampled: SampledClasses, test_sets: Found
) -> tuple[GoldenAnswers | None, GateResult]:
    """Return golden answers, if they are finite, and what the gate finds: every class is an old one here.

    The corrected images themselves are not judged. They are those that are hard, and what became of each is reported.
    """
    golden = record(after, base.preprocessing.size)
    unusable = not_finite(golden)
    judged = policy.enabled and policy.check_old_classes
    evidence = Evidence(
        seen_classes=len(after.state.classes),
        kept=sampled.after(after) if judged else NONE,
        kept_before=sampled.answers_before if judged else NONE,
        golden_not_finite=unusable,
        test_sets=test_sets.evidence,
    )
    return None if unusable else golden, judge(policy, evidence)


def _report(
    corrections: Sequence[Correction],
    sent: int,
    before: Classifier,
    after: Classifier,
    raw: Float[Tensor, "images raw"],
    sampled: SampledClasses,
) -> CorrectionReport:
    was, now = _answers(before, raw), _answers(after, raw)
    effects = [
        CorrectionEffect(
            number=each.number,
            label=each.label,
            taught_as=each.taught_as,
            answered=each.answered,
            before=old,
            now=new,
            right_before=old == each.label,
            right_now=new == each.label,
        )
        for each, old, new in zip(corrections, was, now, strict=True)
    ]
    effects.sort(key=lambda effect: effect.number)
    truth = sampled.names
    drawn_before, drawn_now = _answers(before, sampled.raw), _answers(after, sampled.raw)
    return CorrectionReport(
        corrections=len(effects),
        left_out=sent - len(effects),
        mended=sum(effect.right_now and not effect.right_before for effect in effects),
        spoiled=sum(effect.right_before and not effect.right_now for effect in effects),
        right_before=sum(effect.right_before for effect in effects),
        right_now=sum(effect.right_now for effect in effects),
        sampled=len(truth),
        sampled_flipped=sum(old != new for old, new in zip(drawn_before, drawn_now, strict=True)),
        sampled_right_before=sum(old == name for old, name in zip(drawn_before, truth, strict=True)),
        sampled_right_now=sum(new == name for new, name in zip(drawn_now, truth, strict=True)),
        effects=tuple(effects[:MOST_TOLD]),
    )


def _answers(classifier: Classifier, raw: Float[Tensor, "images raw"]) -> list[str]:
    names = classifier.state.class_names
    scores = (classifier.scores_of(classifier.features_of(part)) for part in torch.split(raw, _BATCH))
    return [names[row] for part in scores for row in part.fused.argmax(dim=1).tolist()]


def _provenance(
    data: TaskData, learned: Learned, base: Backbone, gate: GateResult, report: Mapping[str, object], device: str
) -> Provenance:
    job = data.job
    return Provenance(
        who=job.submitted_by,
        reason=reason_of(job),
        made="corrected",
        preprocessing=PreprocessingRecord.model_validate(base.preprocessing),
        strategy="corrections",
        settings=dict(learned.report.settings),
        seed=job.seed,
        job_id=job.job_id,
        dataset=DatasetRecord(
            name=job.task_name,
            digest=data.index.digest,
            images_per_class={each.name: each.images for each in job.classes},
            holdout_per_class=dict.fromkeys((each.name for each in job.classes), 0),
        ),
        report={
            "seconds": dict(learned.report.seconds),
            "device": device,
            **report,
            REPORT_KEY: gate.model_dump(mode="json"),
        },
    )
