"""Looks after the store's versions: which of them are still needed, and whether they are what was published."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch

from exchange.contracts import UpdateJob
from exchange.notes import read_note
from exchange.roster import Roster
from exchange.spool import Spool, SpoolError
from model_store import policy
from model_store.reader import StoreReader
from model_store.types import CorruptVersionError, StoreError, VersionId, VersionNotFoundError
from segp_cl.errors import IncompatibleStateError
from segp_cl.models.backbone import Backbone
from segp_cl.runtime.classifier import Classifier
from segp_cl.runtime.golden import GoldenAnswersError, replay
from segp_cl.runtime.process import yield_to_others


def needed_versions(store: StoreReader, spool: Spool, roster: Roster) -> dict[VersionId, str]:
    """Return the versions that a server or a job needs, and why.

    A server needs what it serves and what it has prepared. A job that waits or runs needs the versions that it names. A
    task that names none is trained on what CURRENT named at some time since it was accepted, or below that, where
    instant versions stand on it. Jobs are known by their notes, which outlive the broker's memory.

    Raises:
        BrokerUnavailableError: the broker does not answer, so it is not known what is served.
        StoreError: a job's note cannot be read, so it is not known what it needs.
    """
    needed: dict[VersionId, str] = {}
    for job in _jobs(spool):
        needed |= dict.fromkeys(_needed_by(job, store), f"job {job.job_id} needs it")
    for server in roster.servers():
        for version, what in ((server.report.prepared, "has prepared"), (server.report.serving, "serves")):
            if version is not None:
                needed[version] = f"server {server.report.id} {what} it"
    if (move := roster.move()) is not None and move.state == "preparing":
        needed[move.version_id] = "servers are moving to it"
    return needed


def _jobs(spool: Spool) -> Iterator[UpdateJob]:
    for job_id in spool.folders():
        try:
            note = read_note(spool, job_id)
        except SpoolError as error:
            raise StoreError(f"{error}, so it is not known which versions it needs") from error
        if note is not None and not note.record.state.terminal:
            yield note.record.job


def _needed_by(job: UpdateJob, store: StoreReader) -> set[VersionId]:
    if job.merges is not None:
        parents = {manifest.version_id: manifest.parents for manifest in store.list()}
        return {*job.merges, *policy.needed_to_merge(*job.merges, parents)}
    if job.evaluates is not None:
        return set(job.evaluates)
    if job.dry_run:
        return set()
    if job.parent is not None:
        return {job.parent}
    needed = set() if job.submitted_on is None else {job.submitted_on}
    for version in policy.current_since(store.journal(), job.submitted_at):
        try:
            needed |= {version, *policy.stood_on(store.lineage(version))}
        except (VersionNotFoundError, CorruptVersionError):  # nothing can be learned on it
            needed.add(version)
    return needed


@dataclass(frozen=True)
class Verified:
    """What was found of one version. `answers` are `unknown` where there is nothing to compare with, or no model."""

    files: Literal["intact", "damaged"]
    answers: Literal["same", "different", "unknown"]
    problem: str | None = None

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong with it."""
        return self.files == "intact" and self.answers != "different"


class Verifier:
    """Verifies versions on a server's base model, in a thread of low priority.

    A version shares all but its adapted weights with the base model, and is let go when it was verified.
    """

    def __init__(self, store: StoreReader, base: Backbone) -> None:
        self._store = store
        self._base = base
        self._lock = threading.Lock()

    def __call__(self, version_id: VersionId) -> Verified:
        """Check every byte of a version, and its golden answers.

        Raises:
            VersionNotFoundError: there is no such version.
        """
        yield_to_others()
        torch.set_num_threads(1)  # of this thread
        with self._lock:
            try:
                content = self._store.read(version_id)
            except CorruptVersionError as error:
                return Verified("damaged", "unknown", str(error))
            if content.golden is None:
                return Verified("intact", "unknown")
            try:
                replay(Classifier(self._base, content.state), content.golden, self._base.preprocessing.size)
            except IncompatibleStateError as error:
                return Verified("intact", "unknown", str(error))
            except GoldenAnswersError as error:
                return Verified("intact", "different", str(error))
            return Verified("intact", "same")
