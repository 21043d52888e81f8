"""The three parts: jobs are run one after another, sides and points interleaved, and turned into figures."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.cost.figures import exponent, phase_share, quiet, ratios_by_round, step_ratio, step_seconds
from benchmarks.cost.jobs import BASE_SIDE, StepSample, UpdateJob, UpdateSample
from benchmarks.cost.plan import BATCH, GrowthPlan, StepsEntry, UpdateEntry
from benchmarks.cost.runner import Run
from segp_cl.config import LearnerConfig

OnPoint = Callable[[str, int, int], None]
"""Called with what is going on, and how many of how many measuring processes are done."""


@dataclass(frozen=True)
class Measured:
    """A part's keys of the summary, and the samples that they follow from."""

    figures: dict[str, Any]
    samples: dict[str, Any]


def measure_steps(entries: Sequence[StepsEntry], run: Run, on_point: OnPoint) -> Measured:
    """`step_ratio_<model>`: a step of SeGP-CL over one of naive LoRA at batch 128, and the same at full cost."""
    figures: dict[str, Any] = {"steps": {}}
    samples: dict[str, Any] = {}
    total, done = sum(len(entry.jobs) for entry in entries), 0
    for entry in entries:
        by_batch: dict[int, list[StepSample]] = {}
        failures: list[str] = []
        for job in entry.jobs:
            what = f"{entry.title}, batch {job.batch_size}"
            answer = run(job, _ticking(on_point, what, done, total))
            by_batch[job.batch_size] = [sample for sample in answer.samples if isinstance(sample, StepSample)]
            failures += [f"{what}: {answer.failure}"] if answer.failure else []
            done += 1
            on_point(what, done, total)
        for side in entry.jobs[0].sides:
            if side != BASE_SIDE:
                name = f"step_ratio_{entry.label}{side.removeprefix('segp')}"
                figures[name] = _rounded(step_ratio(by_batch, side, at=BATCH))
        figures["steps"][entry.label] = _steps_detail(entry, by_batch, failures)
        samples[entry.label] = {
            str(batch): [sample.model_dump(exclude={"kind"}) for sample in series] for batch, series in by_batch.items()
        }
    return Measured(figures, samples)


def _steps_detail(entry: StepsEntry, by_batch: dict[int, list[StepSample]], failures: list[str]) -> dict[str, Any]:
    job = entry.jobs[0]
    detail: dict[str, Any] = {
        "title": entry.title,
        "batches": list(by_batch),
        "extrapolated": BATCH not in by_batch,
        "old_classes": job.scene.old_classes,
        "new_classes": job.scene.new_classes,
        "overrides": {key: value for key, value in job.config.items() if key != "batch_size"},
        "failures": failures,
        "sides": {},
    }
    for side in job.sides:
        series = {batch: [s for s in samples if s.side == side] for batch, samples in by_batch.items()}
        series = {batch: samples for batch, samples in series.items() if samples}
        kept = {batch: quiet(samples) for batch, samples in series.items()}
        try:
            at_batch: float | None = step_seconds(by_batch, side, at=BATCH)
        except ValueError:
            at_batch = None
        detail["sides"][side] = {
            "overrides": job.sides[side],
            "seconds": _rounded(at_batch),
            "seconds_by_batch": {str(batch): _rounded(q.seconds) for batch, q in kept.items()},
            "samples": sum(map(len, series.values())),
            "dropped": sum(len(series[batch]) - len(q.kept) for batch, q in kept.items()),
            "noisy": any(q.noisy for q in kept.values()),
            "peak_mib": round(max((s.peak_mib for samples in series.values() for s in samples), default=0.0)),
            "ratio_by_round": [round(r, 4) for r in ratios_by_round(by_batch, side, at=BATCH)],
        }
    return detail


def measure_dpgd(entries: Sequence[UpdateEntry], run: Run, on_point: OnPoint) -> Measured:
    """`dpgd_share`: the part of an update that goes into anchors. Fewer epochs than the default's are scaled to it."""
    answers = _run_updates(entries, run, on_point)
    figures: dict[str, Any] = {"dpgd_share": {}, "dpgd": {}}
    for entry in entries:
        samples, failure = answers[entry.label]
        detail: dict[str, Any] = {
            "images": entry.job.scene.images,
            "old_classes": entry.job.scene.old_classes,
            "new_classes": entry.job.scene.new_classes,
            "failure": failure,
        }
        share: float | None = None
        if samples:
            series = quiet(samples, share=0)
            epochs = LearnerConfig().epochs
            factor = epochs / samples[0].epochs
            shares = [phase_share(s.phases, s.seconds, train_factor=factor) for s in series.kept]
            share = sorted(shares)[len(shares) // 2]
            detail |= {
                "epochs_measured": samples[0].epochs,
                "epochs_of_the_share": epochs,
                "shares": [round(value, 4) for value in shares],
                "noisy": series.noisy,
                **_typical(samples),
            }
        figures["dpgd_share"][entry.label] = _rounded(share)
        figures["dpgd"][entry.label] = detail
    return Measured(figures, _dumped(answers))


def measure_growth(plan: GrowthPlan, run: Run, on_point: OnPoint) -> Measured:
    """`growth_old_classes` and `growth_images`: wall seconds and peak memory of an update along both axes."""
    total = sum(entry.repeats for entry in (*plan.old_classes, *plan.images))
    first = sum(entry.repeats for entry in plan.old_classes)
    old = _run_updates(plan.old_classes, run, lambda what, done, _: on_point(f"old classes: {what}", done, total))
    images = _run_updates(plan.images, run, lambda what, done, _: on_point(f"images: {what}", first + done, total))
    by_old = _points(plan.old_classes, old, lambda job: {"old_classes": job.scene.old_classes})
    by_images = _points(plan.images, images, lambda job: {"images": job.scene.images})
    figures: dict[str, Any] = {
        "growth_old_classes": by_old,
        "growth_images": by_images,
        "growth_old_classes_ratio": _last_over_first(by_old, "seconds"),
        "growth_old_classes_memory_ratio": _last_over_first(by_old, "peak_mib"),
        "growth_old_classes_exponent": _exponent(by_old, "old_classes"),
        "growth_images_memory_ratio": _last_over_first(by_images, "peak_mib"),
        "growth_images_exponent": _exponent(by_images, "images"),
        "growth_sizes": {
            "new_classes": plan.images[0].job.scene.new_classes,
            "old_classes_axis": {"model": "compact", "images": plan.old_classes[0].job.scene.images},
            "images_axis": {"model": plan.images_model, "old_classes": plan.images[0].job.scene.old_classes},
        },
    }
    return Measured(figures, {"old_classes": _dumped(old), "images": _dumped(images)})


Answers = dict[str, tuple[list[UpdateSample], str | None]]


def _run_updates(entries: Sequence[UpdateEntry], run: Run, on_point: OnPoint) -> Answers:
    """Round after round over all entries, so that a slow minute does not fall on one of them alone."""
    samples: defaultdict[str, list[UpdateSample]] = defaultdict(list)
    failures: dict[str, str] = {}
    total, done = sum(entry.repeats for entry in entries), 0
    for number in range(max(entry.repeats for entry in entries)):
        for entry in entries:
            if number >= entry.repeats:
                continue
            answer = run(entry.job, _ticking(on_point, entry.label, done, total))
            samples[entry.label] += [sample for sample in answer.samples if isinstance(sample, UpdateSample)]
            if answer.failure:
                failures[entry.label] = answer.failure
            done += 1
            on_point(entry.label, done, total)
    return {entry.label: (samples[entry.label], failures.get(entry.label)) for entry in entries}


def _ticking(on_point: OnPoint, what: str, done: int, total: int) -> Callable[[str], None]:
    return lambda tick: on_point(f"{what}: {tick}", done, total)


def _points(
    entries: Sequence[UpdateEntry], answers: Answers, place: Callable[[UpdateJob], dict[str, int]]
) -> list[dict[str, Any]]:
    points = []
    for entry in entries:
        samples, failure = answers[entry.label]
        point: dict[str, Any] = {**place(entry.job)}
        if samples:
            point |= {"epochs": samples[0].epochs, "noisy": quiet(samples, share=0).noisy, **_typical(samples)}
        if failure:
            point["failure"] = failure
        points.append(point)
    return points


def _typical(samples: Sequence[UpdateSample]) -> dict[str, Any]:
    """The quiet sample in the middle by time, and the highest peak."""
    kept = sorted(quiet(samples, share=0).kept, key=lambda sample: sample.seconds)
    middle = kept[len(kept) // 2]
    return {
        "seconds": round(middle.seconds, 3),
        "phases": {name: round(seconds, 3) for name, seconds in middle.phases.items()},
        "anchors": middle.anchors,
        "steps": middle.steps,
        "before_mib": round(max(sample.before_mib for sample in samples)),
        "peak_mib": round(max(sample.peak_mib for sample in samples)),
        "repeats": len(samples),
    }


def _last_over_first(points: Sequence[dict[str, Any]], key: str) -> float | None:
    first, last = points[0].get(key), points[-1].get(key)
    return _rounded(last / first) if first and last else None


def _exponent(points: Sequence[dict[str, Any]], axis: str) -> float | None:
    found = [(float(point[axis]), float(point["seconds"])) for point in points if "seconds" in point]
    return _rounded(exponent(found)) if len(found) > 1 else None


def _dumped(answers: Answers) -> dict[str, Any]:
    return {label: [sample.model_dump(exclude={"kind"}) for sample in found] for label, (found, _) in answers.items()}


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
