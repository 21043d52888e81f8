"""Edits of the classes: what is asked for, and the job that does it. A worker does it, in seconds."""

from __future__ import annotations

import logging
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from app.errors import InvalidRequestError, TaskRefusedError
from app.intake.entry_names import Encoding
from app.intake.names import check_against_known, clean_name
from app.queueing import queue_without_images
from exchange.contracts import JobRecord, UpdateJob, new_job_id, utc_now
from exchange.jobs import Jobs
from exchange.spool import Spool
from model_store.store import Store
from model_store.types import ClassRecord, VersionId
from segp_cl.class_edits import MOST_CLASSES, ClassEdit
from segp_cl.errors import ClassNotFoundError
from segp_cl.prompts import prompt_for

logger = logging.getLogger(__name__)

MAX_NAME = 1000  # characters of a name before it is cleaned
_Name = Annotated[str, Field(max_length=MAX_NAME)]


class ClassPatch(BaseModel):
    """Another name for a class, another prompt, or both."""

    model_config = ConfigDict(extra="forbid", strict=True)

    name: str | None = Field(None, max_length=MAX_NAME, description="The class's new name.")
    prompt: str | None = Field(
        None,
        min_length=1,
        max_length=500,
        description="The sentence that the text tower reads. Default: the old one, with the new name in it.",
    )
    swap: bool = Field(False, description="Exchange names and prompts with the class that has the new name.")
    reason: str = Field("", max_length=1000, description="Kept in the journal.")

    @model_validator(mode="after")
    def _changes_something(self) -> Self:
        if self.name is None and self.prompt is None:
            raise ValueError("expected a name, a prompt, or both")
        if self.swap and (self.name is None or self.prompt is not None):
            raise ValueError("swap takes the name of the other class, and no prompt")
        return self


class ClassMergeBody(BaseModel):
    """Make several classes one."""

    model_config = ConfigDict(extra="forbid", strict=True)

    classes: Annotated[list[_Name], Field(min_length=2, max_length=MOST_CLASSES)] = Field(
        description="The classes that become one."
    )
    name: str = Field(max_length=MAX_NAME, description="What they are called then; it may be the name of one of them.")
    prompt: str | None = Field(
        None, min_length=1, max_length=500, description="Default: that of the first one, with the new name in it."
    )
    reason: str = Field("", max_length=1000, description="Kept in the journal.")


class ReplaceForm(BaseModel):
    """The fields of an upload that replaces a class's images, besides the archive."""

    model_config = ConfigDict(extra="forbid")

    reason: str = Field("", max_length=200, description="Kept in the journal.")
    seed: int = Field(0, ge=0, lt=2**63, description="Seed of the split into images that count and held-out ones.")
    encoding: Encoding = None

    @field_validator("reason")
    @classmethod
    def _visible(cls, reason: str) -> str:
        if not reason.isprintable():
            raise ValueError("expected visible text")
        return reason.strip()


class EditAccepted(BaseModel):
    """The job that will edit the classes, which takes seconds."""

    job_id: str
    location: str = Field(examples=["/v1/jobs/5f0c1b1f6e1e4c2b9d0b8f0f6a3c2d10"])
    edit: ClassEdit


def renaming(store: Store, name: str, patch: ClassPatch) -> ClassEdit:
    """Return the edit that gives a class of CURRENT another name or prompt.

    Raises:
        ClassNotFoundError: there is no such class, or with `swap` no other.
        ClassExistsError: there is a class with the new name, or one that looks like it.
        InvalidRequestError: a class is to be swapped with itself.
        TaskRefusedError: the new name cannot be a class's.
        StoreError: CURRENT cannot be read.
    """
    known, _ = known_classes(store)
    name = named(name)
    record = known_class(known, name)
    new_name = None if patch.name is None else clean_name(patch.name)
    if patch.swap and new_name is not None:
        if new_name == name:
            raise InvalidRequestError(f"{name!r} cannot be swapped with itself")
        return ClassEdit(kind="swap", classes=(name, new_name))
    if new_name == name:
        new_name = None
    if new_name is not None and new_name not in known:
        check_against_known([new_name], [other for other in known if other != name], extend=False)
    prompt = patch.prompt
    if prompt is None and new_name is not None:
        prompt = prompt_for(new_name, was=name, prompt=record.prompt)
    return ClassEdit(kind="rename", classes=(name,), name=new_name, prompt=prompt or record.prompt)


def merging(store: Store, body: ClassMergeBody) -> ClassEdit:
    """Return the edit that makes several classes of CURRENT one.

    Raises:
        ClassNotFoundError: there is no such class.
        ClassExistsError: another class has the new name, or one that looks like it.
        InvalidRequestError: a class is named twice.
        TaskRefusedError: the new name cannot be a class's.
        StoreError: CURRENT cannot be read.
    """
    known, _ = known_classes(store)
    names, new_name = [named(name) for name in body.classes], clean_name(body.name)
    if len(set(names)) < len(names):
        raise InvalidRequestError("a class is named twice")
    first = known_class(known, names[0])
    if new_name not in known:
        check_against_known([new_name], [other for other in known if other not in names], extend=False)
    prompt = body.prompt or prompt_for(new_name, was=first.name, prompt=first.prompt)
    return ClassEdit(kind="merge", classes=tuple(names), name=new_name, prompt=prompt)


def known_classes(store: Store) -> tuple[dict[str, ClassRecord], VersionId]:
    """Return the classes of CURRENT by name, and CURRENT.

    Raises:
        StoreError: CURRENT cannot be read.
    """
    current = store.known_current()
    return {known.name: known for known in store.manifest(current).classes}, current


def named(name: str) -> str:
    """Return the name of a class as a client's path or list has it, as classes are called.

    Raises:
        ClassNotFoundError: no class can have this name.
    """
    try:
        return clean_name(name)
    except TaskRefusedError as error:
        raise ClassNotFoundError(f"no class is known by this name: {error}") from error


def known_class(known: dict[str, ClassRecord], name: str) -> ClassRecord:
    """Return a class by its name.

    Raises:
        ClassNotFoundError: there is no such class.
    """
    if name not in known:
        raise ClassNotFoundError(f"the class {name!r} is not known")
    return known[name]


def queue_edit(store: Store, spool: Spool, jobs: Jobs, edit: ClassEdit, *, reason: str, submitted_by: str) -> JobRecord:
    """Check that CURRENT's classes can be edited so, and queue the job. Synchronous: run it in a thread.

    Args:
        store: the store.
        spool: where the job's note is kept.
        jobs: the queue.
        edit: what is to be done.
        reason: why, in the journal.
        submitted_by: recorded in the journal.

    Raises:
        ClassNotFoundError: there is no such class.
        ClassExistsError: the new name is that of a class that stays.
        BrokerUnavailableError: Redis is gone; the job does not exist.
        StoreError: CURRENT cannot be read.
        SpoolUnusableError: its note cannot be written; the job does not exist.
    """
    jobs.ping()
    known, current = known_classes(store)
    edit.check(known)
    now, job_id = utc_now(), new_job_id()
    job = UpdateJob(
        job_id=job_id,
        task_name=reason or edit.words,
        edit=edit,
        submitted_at=now,
        submitted_by=submitted_by,
        submitted_on=current,
    )
    record = queue_without_images(jobs, spool, job)
    logger.info("edit accepted job_id=%s: %s", job_id, edit.words)
    return record
