"""Turns a received upload into a job: validates it, spools it, and queues the job once."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, Json, JsonValue, field_validator, model_validator

from app.errors import IdempotencyInProgressError, IdempotencyMismatchError, TaskRefusedError
from app.intake.entry_names import Encoding
from app.intake.keep_test_set import Keeper, spooled_aside
from app.intake.keeping import keeping
from app.intake.limits import IntakeLimits, always_wanted
from app.intake.names import check_against_known
from app.intake.receive import Upload
from app.intake.take_in import Taken, take_in
from exchange.contracts import JobClass, JobRecord, UpdateJob, new_job_id, utc_now
from exchange.jobs import JobNotFoundError, Jobs
from exchange.notes import Note, accept, find
from exchange.redis_client import BrokerUnavailableError
from exchange.spool import Spool
from model_store.store import Store
from model_store.test_sets import check_name
from model_store.types import InvalidTestSetNameError, StoreError, VersionId
from segp_cl.class_edits import ClassEdit
from segp_cl.config import LearnerConfig
from segp_cl.errors import ClassNotFoundError
from segp_cl.prompts import DEFAULT_TEMPLATE, as_prompt

logger = logging.getLogger(__name__)

FIRST_WAIT_S = 3.0
_PIECE = 1024 * 1024


class TaskForm(BaseModel):
    """The fields of a task upload besides the archive."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(min_length=1, max_length=200, description="The task's name.")
    template: str = Field(DEFAULT_TEMPLATE, max_length=500, description="Prompt for a class, with {} for its name.")
    extend: bool = Field(False, description="Whether known classes may get more images.")
    config: Json[dict[str, JsonValue]] = Field(default_factory=dict, description="Hyper-parameters to override.")
    instant: bool = Field(True, description="Whether a version without training is made and served first.")
    dry_run: bool = Field(
        False, description="Whether the images are only checked: their labels are looked at, and nothing is learned."
    )
    parent: str | None = Field(
        None,
        description="The version to learn on, beside the current one: the result is published, and not promoted. "
        "Default: the current version.",
    )
    test_set: str | None = Field(
        None,
        description="Keep the archive's test split, or its val split if it has no other, as a test set of this name. "
        "Default: a test split is passed over.",
    )
    seed: int = Field(0, ge=0, lt=2**63, description="Seed of all random choices in the update.")
    encoding: Encoding = None

    @field_validator("name")
    @classmethod
    def _visible(cls, name: str) -> str:
        if not name.strip() or not name.isprintable():
            raise ValueError("expected visible text")
        return name.strip()

    @model_validator(mode="after")
    def _checks_alone(self) -> Self:
        if self.dry_run and (self.parent is not None or self.test_set is not None):
            raise ValueError("dry_run learns and keeps nothing, so it goes with no parent and no test_set")
        return self

    @field_validator("test_set")
    @classmethod
    def _is_name(cls, name: str | None) -> str | None:
        try:
            return None if name is None else check_name(name)
        except InvalidTestSetNameError as error:
            raise ValueError(str(error)) from error


@dataclass(frozen=True)
class Submitted:
    """A request's job; `replayed` if an earlier request with the same Idempotency-Key created it."""

    record: JobRecord
    replayed: bool


class Submissions:
    """Creates jobs from uploads. Synchronous: run it in a thread."""

    def __init__(self, store: Store, spool: Spool, jobs: Jobs, limits: IntakeLimits, *, keeper: Keeper) -> None:
        self._keeper = keeper
        self._store = store
        self._spool = spool
        self._jobs = jobs
        self._limits = limits

    def submit(
        self,
        form: TaskForm,
        upload: Upload,
        *,
        submitted_by: str,
        idempotency_key: str | None,
        check: Callable[[], None] = always_wanted,
        replaces: str | None = None,
    ) -> Submitted:
        """Take an upload in and queue its job. If this fails, nothing of the upload is left in the spool.

        `check` raises when the upload is no longer wanted. It is called until the job is queued, and not afterwards.
        With `replaces` the images take the place of those of one known class, and the archive has no other.

        Raises:
            ArchiveError, TaskRefusedError: the upload is refused.
            InvalidTaskError: the template is invalid.
            ClassExistsError: a class is known and `extend` is false.
            ClassNotFoundError: the class that is to be replaced is not known.
            VersionNotFoundError: there is no version `parent`.
            ExistingTestSetError: there is another test set of the name `test_set`.
            NoRoomForTestSetError: the test split is larger than a test set may be, or there is no room for it.
            IdempotencyMismatchError: the key was used for a different request.
            IdempotencyInProgressError: the first request with the key did not finish.
            BrokerUnavailableError: Redis is gone; the job does not exist.
            StoreError: CURRENT cannot be read.
            SpoolFullError, SpoolUnusableError: it cannot be written.
        """
        self._jobs.ping()  # fail before minutes of decoding
        as_prompt(form.template, "class")
        if form.parent is not None:
            self._store.manifest(form.parent)  # before minutes of decoding
        prompts = {} if replaces is None else {replaces: self._prompt_of(replaces)}
        LearnerConfig.model_validate(form.config)
        fingerprint = _fingerprint(form, upload, check) if idempotency_key else ""
        if idempotency_key:
            earlier = self._earlier(idempotency_key, fingerprint)
            if earlier is not None:
                return Submitted(earlier, replayed=True)
        job_id = new_job_id()
        try:
            aside = contextlib.nullcontext() if form.test_set is None else spooled_aside(self._spool)
            with aside as test_writer:
                with keeping(), self._spool.create(job_id) as writer:
                    taken = take_in(
                        upload.file,
                        upload.size,
                        writer,
                        limits=self._limits,
                        check_names=lambda names: self._check_known(names, form, replaces),
                        encoding=form.encoding,
                        check=check,
                        test_writer=test_writer,
                    )
                record = _record(
                    job_id, form, taken, submitted_by, submitted_on=self._store.known_current(), replaced=prompts
                )
                check()  # from here on there is a job, and it is kept
                with self._test_set_kept(form, taken, submitted_by):
                    if idempotency_key:
                        entry = self._jobs.remember(idempotency_key, job_id, fingerprint=fingerprint)
                        if entry.job_id != job_id:  # another request with this key was faster
                            return self._yield_to_first(job_id, idempotency_key, fingerprint)
                    with keeping():
                        self._queue(Note(record=record, key=idempotency_key, fingerprint=fingerprint))
        except BaseException:
            with contextlib.suppress(OSError):  # a sweeper removes what is left of it
                self._spool.purge(job_id)
            raise
        logger.info(
            "task accepted job_id=%s classes=%d images=%d rejected=%d passed_over=%d repeated=%d",
            job_id,
            len(taken.classes),
            taken.report.accepted,
            taken.report.rejected_count,
            taken.report.passed_over_count,
            taken.repeated,
        )
        return Submitted(record, replayed=False)

    @contextlib.contextmanager
    def _test_set_kept(self, form: TaskForm, taken: Taken, who: str) -> Iterator[None]:
        """Store the upload's test set, if one is wanted, and remove it again if the block fails."""
        if form.test_set is None or taken.test_set is None:
            yield
            return
        was_there = any(known.name == form.test_set for known in self._keeper.sets.all())
        reason = f"the {taken.test_split} split of the task {form.name!r}"
        self._keeper.keep(form.test_set, taken.test_set, who=who, reason=reason, replace=False)
        try:
            yield
        except BaseException:
            if not was_there:
                with contextlib.suppress(StoreError):
                    self._keeper.sets.remove(form.test_set, who=who, reason="its task was not accepted")
            raise

    def _queue(self, note: Note) -> None:
        try:
            accept(self._jobs, self._spool, note)
        except BaseException:
            if note.key:
                with contextlib.suppress(BrokerUnavailableError):
                    self._jobs.forget(note.key)
            raise

    def _prompt_of(self, name: str) -> str:
        known = {record.name: record for record in self._store.manifest(self._store.known_current()).classes}
        if name not in known:
            raise ClassNotFoundError(f"the class {name!r} is not known")
        return known[name].prompt

    def _check_known(self, names: Sequence[str], form: TaskForm, replaces: str | None) -> None:
        if replaces is not None and list(names) != [replaces]:
            found = ", ".join(map(repr, names[:5])) + (" and more" if len(names) > 5 else "")
            raise TaskRefusedError(f"expected images of the class {replaces!r} alone, got {found}")
        known = [c.name for c in self._store.manifest(form.parent or self._store.known_current()).classes]
        check_against_known(names, known, extend=form.extend)

    def _earlier(self, key: str, fingerprint: str) -> JobRecord | None:
        """Return the job that an earlier request with this key created, or None."""
        entry = self._jobs.recall(key)
        if entry is None:
            return None
        if entry.fingerprint != fingerprint:
            raise IdempotencyMismatchError("this Idempotency-Key was sent before with another archive or other fields")
        deadline = time.monotonic() + FIRST_WAIT_S
        while True:
            try:
                return find(self._jobs, self._spool, entry.job_id)
            except JobNotFoundError:
                if time.monotonic() >= deadline:  # its server died between binding the key and queueing the job
                    self._jobs.forget(key)
                    return None
                time.sleep(0.05)

    def _yield_to_first(self, job_id: str, key: str, fingerprint: str) -> Submitted:
        self._spool.purge(job_id)
        earlier = self._earlier(key, fingerprint)
        if earlier is None:
            raise IdempotencyInProgressError(
                "the first request with this Idempotency-Key did not finish; send it again"
            )
        return Submitted(earlier, replayed=True)


def _record(
    job_id: str,
    form: TaskForm,
    taken: Taken,
    submitted_by: str,
    *,
    submitted_on: VersionId,
    replaced: Mapping[str, str],
) -> JobRecord:
    now = utc_now()
    classes = tuple(
        JobClass(name=name, prompt=replaced.get(name) or as_prompt(form.template, name), images=images)
        for name, images in taken.classes
    )
    job = UpdateJob(
        job_id=job_id,
        task_name=form.name,
        classes=classes,
        extend=form.extend,
        config=form.config,
        dataset_digest=taken.dataset_digest,
        seed=form.seed,
        submitted_at=now,
        submitted_by=submitted_by,
        submitted_on=submitted_on,
        parent=form.parent,
        instant=form.instant and form.parent is None and not replaced and not form.dry_run,
        dry_run=form.dry_run,
        edit=ClassEdit(kind="replace", classes=tuple(replaced)) if replaced else None,
    )
    return JobRecord(job=job, validation=taken.report, created_at=now)


def _fingerprint(form: TaskForm, upload: Upload, check: Callable[[], None]) -> str:
    """Return a digest of every field and every byte of the archive."""
    digest = sha256(form.model_dump_json().encode())
    upload.file.seek(0)
    while piece := upload.file.read(_PIECE):
        check()
        digest.update(piece)
    upload.file.seek(0)
    return digest.hexdigest()
