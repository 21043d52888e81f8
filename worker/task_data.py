"""A job's spooled images: which are learned from and which are measured on, and how they are described."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from exchange.contracts import UpdateJob
from exchange.spool import Spool, SpoolError, SpoolIndex
from model_store.gate import REPORT_KEY
from model_store.types import DatasetRecord, Made, PreprocessingRecord, Provenance
from segp_cl.data.held_out import Split, hold_out, named_by
from segp_cl.data.image_sets import FolderImages
from segp_cl.models.backbone import Backbone
from segp_cl.types import ImageSource, Learned, Task, TaskClass
from worker.judging import Judgement
from worker.left_out import to_leave_out
from worker.settings import WorkerSettings


@dataclass(frozen=True)
class TaskData:
    """A job's images, the same for its instant version and for the one that is trained.

    Attributes:
        job: the job.
        index: its images and classes.
        split: which of the images are learned from, and which are held out.
        left_out: those that are learned from and measured on, each left out in turn.
        folder: the job's folder in the spool, where caches may lie.
    """

    job: UpdateJob
    index: SpoolIndex
    split: Split
    left_out: tuple[int, ...]
    folder: Path

    @classmethod
    def read(cls, job: UpdateJob, settings: WorkerSettings) -> TaskData:
        """Read what is spooled of a job.

        Raises:
            SpoolError: images are missing or altered, or are not what the job says.
        """
        spool = Spool(settings.spool)
        index = spool.read(job.job_id)
        if index.digest != job.dataset_digest:
            raise SpoolError(f"the spooled images have digest {index.digest}, expected {job.dataset_digest}")
        if index.classes != tuple(c.name for c in job.classes):
            raise SpoolError("the spooled images have other classes than the job")
        fraction = 0.0 if job.corrections else settings.holdout_fraction  # each of the few is learned from
        split = hold_out(
            index.labels,
            fraction=fraction,
            min_images=settings.holdout_min_images,
            shuffle=named_by(index.digest, job.seed),
            given=index.held_out,
        )
        left_out = to_leave_out(index.labels, split, fraction=fraction)
        return cls(job, index, split, left_out, spool.folder(job.job_id))

    def images(
        self, settings: WorkerSettings, base: Backbone, chosen: Sequence[int] | None = None, *, cache: bool = False
    ) -> FolderImages:
        """Return the images at `chosen` positions (None: all) for a base model; with `cache`, each is decoded once."""
        positions = range(len(self.index.files)) if chosen is None else chosen
        return FolderImages(
            [self.index.files[i] for i in positions],
            [self.index.labels[i] for i in positions],
            base.preprocessing,
            threads=settings.threads,
            cache=self.folder if cache else None,
            max_pixels=settings.max_image_pixels,
        )

    def task(self, images: ImageSource) -> Task:
        """Return the task for the learner; `images` are those that are learned from."""
        classes = tuple(TaskClass(c.name, c.prompt) for c in self.job.classes)
        return Task(name=self.job.task_name, classes=classes, images=images, extend=self.job.extend)

    def provenance(
        self, made: Made, learned: Learned, base: Backbone, judgement: Judgement, report: dict[str, object]
    ) -> Provenance:
        """Return how a version of this task was made; `report` adds to the learner's."""

        def count(chosen: Sequence[int]) -> dict[str, int]:
            labels = [self.index.labels[i] for i in chosen]
            return {name: labels.count(c) for c, name in enumerate(self.index.classes)}

        gate, evaluation = judgement.gate, judgement.evaluation
        return Provenance(
            who=self.job.submitted_by,
            reason=reason_of(self.job),
            made=made,
            preprocessing=PreprocessingRecord.model_validate(base.preprocessing),
            strategy=str(learned.report.settings["strategy"]),
            settings=dict(learned.report.settings),
            seed=self.job.seed,
            job_id=self.job.job_id,
            edit=self.job.edit,
            dataset=DatasetRecord(
                name=self.job.task_name,
                digest=self.index.digest,
                images_per_class=count(self.split.train),
                holdout_per_class=count(self.split.held_out),
            ),
            evaluation=evaluation.model_dump(mode="json") if evaluation else None,
            report={
                **asdict(learned.report),
                **report,
                **judgement.test_sets.report,
                REPORT_KEY: gate.model_dump(mode="json"),
            },
        )


def reason_of(job: UpdateJob) -> str:
    """Return the reason that the journal gives for this job's actions."""
    if job.merges is not None:
        return f"job {job.job_id} merged {' and '.join(job.merges)}: {job.task_name}"
    if job.edit is not None:
        why = "" if job.task_name == job.edit.words else f": {job.task_name}"
        return f"job {job.job_id}: {job.edit.words}{why}"
    if job.corrections:
        return f"job {job.job_id} learned {job.task_name}"
    return f"job {job.job_id} learned {job.task_name!r}"
