"""The measuring itself, in the process that is measured."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator

import torch

from benchmarks.common.load import LoadMeter
from benchmarks.common.scenes import RandomImages, state_with, take_steps, task_of
from benchmarks.cost.jobs import Job, Sample, StepSample, StepsJob, UpdateJob, UpdateSample
from segp_cl.config import LearnerConfig
from segp_cl.data.image_sets import TensorImages
from segp_cl.learn.learner import learn_task
from segp_cl.models.backbone import Backbone
from segp_cl.models.load import load_backbone
from segp_cl.runtime.process import peak_rss_bytes
from segp_cl.types import Learned, LearnerState, OnProgress, Task

OnTick = Callable[[str], None]
_WARM_UP_CLASSES = 10


def measure(job: Job, on_tick: OnTick = lambda _: None) -> Iterator[Sample]:
    """Carry out `job`; every sample is handed over as soon as it is complete."""
    torch.set_num_threads(job.scene.threads)
    backbone = load_backbone(job.scene.spec)
    if isinstance(job, StepsJob):
        yield from _steps(job, backbone, on_tick)
    else:
        yield _update(job, backbone, on_tick)


def peak_mib() -> float:
    """The most memory this process has held so far, in MiB."""
    return peak_rss_bytes() / 2**20


def _steps(job: StepsJob, backbone: Backbone, on_tick: OnTick) -> Iterator[StepSample]:
    scene = job.scene
    state = state_with(backbone, scene.old_classes)
    lazy = RandomImages(scene.images, size=backbone.preprocessing.size, classes=scene.new_classes)
    # held, so that making them is no part of a step
    task = task_of(scene.new_classes, TensorImages(lazy.pixels(range(scene.images)), lazy.labels))
    for number in range(1, job.rounds + 1):
        for side in job.sides:
            on_tick(f"round {number} of {job.rounds}, {side}")
            yield from _timed_steps(job, side, number, backbone, state, task)
            gc.collect()


def _timed_steps(
    job: StepsJob, side: str, number: int, backbone: Backbone, state: LearnerState, task: Task
) -> list[StepSample]:
    samples: list[StepSample] = []
    meter = LoadMeter()

    def on_step(step: int) -> None:
        seconds, foreign = meter.read()
        if step > job.drop:
            samples.append(
                StepSample(
                    side=side, round=number, step=step, seconds=seconds, foreign_cores=foreign, peak_mib=peak_mib()
                )
            )

    take_steps(backbone, state, task, job.config_of(side), steps=job.steps, on_step=on_step)
    return samples


def _update(job: UpdateJob, backbone: Backbone, on_tick: OnTick) -> UpdateSample:
    scene, size = job.scene, backbone.preprocessing.size
    config = LearnerConfig.model_validate(job.config)
    _warm_up(job, backbone)
    state = state_with(backbone, scene.old_classes)
    task = task_of(scene.new_classes, RandomImages(scene.images, size=size, classes=scene.new_classes))
    before = peak_mib()
    meter = LoadMeter()
    learned = _learn(backbone, state, task, config, lambda p: on_tick(f"{p.phase} {p.step} of {p.steps}"))
    seconds, foreign = meter.read()
    return UpdateSample(
        seconds=seconds,
        phases=dict(learned.report.seconds),
        anchors=learned.report.anchors,
        steps=learned.report.steps,
        epochs=config.epochs,
        foreign_cores=foreign,
        before_mib=before,
        peak_mib=peak_mib(),
    )


def _warm_up(job: UpdateJob, backbone: Backbone) -> None:
    """A few steps: what a process pays once (kernels chosen, threads started) would weigh on the small sizes."""
    old = min(_WARM_UP_CLASSES, job.scene.old_classes)
    images = RandomImages(2 * _WARM_UP_CLASSES, size=backbone.preprocessing.size, classes=_WARM_UP_CLASSES, seed=1)
    config = LearnerConfig.model_validate({**job.config, "epochs": 2, "k_seed": 1, "k_adv": 1})
    _learn(backbone, state_with(backbone, old), task_of(_WARM_UP_CLASSES, images), config, None)
    gc.collect()


def _learn(
    backbone: Backbone, state: LearnerState, task: Task, config: LearnerConfig, on_progress: OnProgress | None
) -> Learned:
    generator = torch.Generator().manual_seed(0)
    return learn_task(state, task, config=config, generator=generator, on_progress=on_progress, backbone=backbone)
