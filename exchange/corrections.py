"""Corrections: images that were answered wrongly, with their right labels, kept in the spool until they are learned.

Each is a folder of its own below `<spool>/corrections/`, named by its number: `correction.json` and `image`. Learning
moves these folders into a job's folder before the job is accepted, so that every correction is in one place at any
moment, and a process that is killed in between neither loses one nor has it learned twice. See docs/adr/0041.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Final, Self

from filelock import FileLock, Timeout
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from exchange.contracts import JobClass, JobRecord, UpdateJob, new_job_id, utc_now
from exchange.jobs import Jobs
from exchange.notes import Note, accept
from exchange.settings import SharedSettings
from exchange.spool import NOTE_FILE, Spool, remove_path, sync_folder, write_synced
from segp_cl.errors import KeepsightError
from segp_cl.prompts import DEFAULT_TEMPLATE, as_prompt

FOLDER: Final = "corrections"
"""Folder of the corrections that wait, in the spool, and of those that a job learns, in the job's folder."""
_DIGITS: Final = 10
_PARTIAL: Final = ".part"
_LOCK_TIMEOUT_S: Final = 10.0


class CorrectionsError(KeepsightError):
    """Base class of the errors of corrections."""


class CorrectionNotFoundError(CorrectionsError):
    """No correction of this number waits: it was learned, removed or has expired, or never was."""


class CorrectionsFullError(CorrectionsError):
    """As many corrections wait as may be kept."""


class CorrectionsBusyError(CorrectionsError):
    """Another process is at the corrections for long."""


class NoCorrectionsError(CorrectionsError):
    """No correction waits, so there is nothing to learn."""


class Correction(BaseModel):
    """An image that was answered wrongly, without the image.

    `label` is right. `taught_as` is the class that the image was taught as, if it was taught under a wrong label.
    `answered` is what it was answered, with `probability`, by the version `answered_by`. `prompt` is that of a class
    that is not known yet, None for one that is. `sha256` and `size` (bytes) are of the encoded image.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    number: int = Field(ge=1)
    label: str = Field(min_length=1)
    taught_as: str | None = None
    prompt: str | None = None
    answered: str | None = None
    probability: float | None = Field(None, ge=0, le=1)
    answered_by: str | None = None
    reason: str = ""
    corrected_by: str
    at: AwareDatetime
    sha256: str
    size: int = Field(ge=1)


@dataclass(frozen=True)
class CorrectionLimits:
    """How much is kept, for how long, and when it is learned by itself.

    Attributes:
        most: corrections that wait at once.
        most_bytes: of their images together.
        kept_s: seconds after which one that was not learned is removed.
        learn_count: learn as soon as so many wait; 0: never by their number.
        learn_after_s: learn once the oldest has waited for so long; 0: never by their age.
    """

    most: int
    most_bytes: int
    kept_s: float
    learn_count: int = 0
    learn_after_s: float = 0.0

    @classmethod
    def of(cls, settings: SharedSettings) -> Self:
        """Return the limits that the settings say."""
        return cls(
            most=settings.corrections_max,
            most_bytes=settings.corrections_max_bytes,
            kept_s=settings.corrections_kept_s,
            learn_count=settings.corrections_learn_count,
            learn_after_s=settings.corrections_learn_after_s,
        )


class Corrections:
    """The corrections that wait. One process at a time is at them; any number may share the spool.

    What a process that was killed left half done is completed or taken back by the next one.

    Args:
        spool: they lie in it.
        limits: what is kept.
    """

    def __init__(self, spool: Spool, limits: CorrectionLimits) -> None:
        self._spool = spool
        self._limits = limits

    def add(
        self,
        image: bytes,
        label: str,
        *,
        corrected_by: str,
        taught_as: str | None = None,
        prompt: str | None = None,
        answered: str | None = None,
        probability: float | None = None,
        answered_by: str | None = None,
        reason: str = "",
        at: datetime | None = None,
    ) -> Correction:
        """Keep a correction; it is on disk when this returns. One of the same image takes the earlier one's place.

        Raises:
            CorrectionsFullError: no more may be kept.
            CorrectionsBusyError: another process is at them for long.
            OSError: it cannot be written; nothing of it is kept.
        """
        now = at or utc_now()
        with self._locked() as folder:
            kept = self._fresh(folder, now)
            digest = sha256(image).hexdigest()
            earlier = [known for known in kept if known.sha256 == digest]
            self._check_room([known for known in kept if known.sha256 != digest], len(image))
            correction = Correction(
                number=_next_number(folder, kept),
                label=label,
                taught_as=taught_as,
                prompt=prompt,
                answered=answered,
                probability=probability,
                answered_by=answered_by,
                reason=reason,
                corrected_by=corrected_by,
                at=now,
                sha256=digest,
                size=len(image),
            )
            _write(folder, correction, image)
            for known in earlier:
                remove_path(_place(folder, known.number))
        return correction

    def waiting(self) -> list[Correction]:
        """Return the corrections that wait, the oldest first. Those that have expired are removed.

        Raises:
            CorrectionsBusyError: another process is at them for long.
        """
        with self._locked() as folder:
            return self._fresh(folder, utc_now())

    def remove(self, number: int) -> None:
        """Remove one, with its image.

        Raises:
            CorrectionNotFoundError: it does not wait.
            CorrectionsBusyError: another process is at them for long.
        """
        with self._locked() as folder:
            place = _place(folder, number)
            if not place.is_dir():
                raise CorrectionNotFoundError(f"no correction of the number {number} waits")
            remove_path(place)

    def clear(self) -> int:
        """Remove all, and return how many there were.

        Raises:
            CorrectionsBusyError: another process is at them for long.
        """
        with self._locked() as folder:
            kept = _read_all(folder)
            for known in kept:
                remove_path(_place(folder, known.number))
            return len(kept)

    def sweep(self, now: datetime) -> bool:
        """Remove those that have expired. Return whether those that wait are to be learned now.

        Raises:
            CorrectionsBusyError: another process is at them for long.
        """
        if not (self._spool.root / FOLDER).is_dir():
            return False
        with self._locked() as folder:
            return self._is_due(self._fresh(folder, now), now)

    def learn(
        self, jobs: Jobs, *, submitted_by: str, submitted_on: str, if_due: datetime | None = None, seed: int = 0
    ) -> JobRecord:
        """Queue one job that learns all that wait. They no longer wait when this returns.

        Args:
            jobs: the queue.
            submitted_by: recorded in the journal.
            submitted_on: what CURRENT names.
            if_due: the time by which they must be due; None: they are learned even if they are not.
            seed: of the job.

        Raises:
            NoCorrectionsError: none waits, or they are not due: another process was faster.
            CorrectionsBusyError: another process is at them for long.
            BrokerUnavailableError: Redis is gone. They wait as before.
            OSError: the job cannot be written. They wait as before.
        """
        jobs.ping()  # before anything is moved
        with self._locked() as folder:
            now = if_due or utc_now()
            kept = self._fresh(folder, now)
            if not kept or (if_due is not None and not self._is_due(kept, now)):
                raise NoCorrectionsError("no correction waits to be learned")
            job_id = new_job_id()
            write_synced(folder / _TAKING, json.dumps({"job_id": job_id}).encode())
            sync_folder(folder)
            try:
                record = self._queue(folder, jobs, job_id, kept, submitted_by, submitted_on, seed)
            except BaseException:
                self._recover(folder)
                raise
            (folder / _TAKING).unlink()
            with contextlib.suppress(OSError):  # the spooled copies are what is learned from
                for known in kept:
                    (_place(self._spool.folder(job_id) / FOLDER, known.number) / _IMAGE).unlink()
        return record

    def _queue(
        self,
        folder: Path,
        jobs: Jobs,
        job_id: str,
        kept: Sequence[Correction],
        submitted_by: str,
        submitted_on: str,
        seed: int,
    ) -> JobRecord:
        prompts = {known.label: known.prompt for known in kept}
        names = sorted(prompts)
        with self._spool.create(job_id) as writer:
            for known in kept:
                writer.add(names.index(known.label), (_place(folder, known.number) / _IMAGE).read_bytes())
            index = writer.close(names)
        taken = self._spool.folder(job_id) / FOLDER
        taken.mkdir(mode=0o700)
        for known in kept:
            _place(folder, known.number).rename(_place(taken, known.number))
        for changed in (taken, taken.parent, folder):
            sync_folder(changed)
        labels = [known.label for known in kept]
        now = utc_now()
        job = UpdateJob(
            job_id=job_id,
            task_name=f"{len(kept)} correction{'s' if len(kept) > 1 else ''}",
            classes=tuple(
                JobClass(
                    name=name, prompt=prompts[name] or as_prompt(DEFAULT_TEMPLATE, name), images=labels.count(name)
                )
                for name in names
            ),
            extend=True,
            corrections=len(kept),
            config={"strategy": "prototypes"},
            dataset_digest=index.digest,
            seed=seed,
            submitted_at=now,
            submitted_by=submitted_by,
            submitted_on=submitted_on,
            instant=True,
        )
        record = JobRecord(job=job, created_at=now)
        accept(jobs, self._spool, Note(record=record))
        return record

    def _is_due(self, kept: Sequence[Correction], now: datetime) -> bool:
        limits = self._limits
        if not kept:
            return False
        by_count = 0 < limits.learn_count <= len(kept)
        return by_count or (0 < limits.learn_after_s <= (now - kept[0].at).total_seconds())

    def _check_room(self, kept: Sequence[Correction], size: int) -> None:
        limits, used = self._limits, sum(known.size for known in kept)
        if len(kept) >= limits.most:
            raise CorrectionsFullError(f"{len(kept)} corrections wait already, and no more are kept; learn them first")
        if used + size > limits.most_bytes:
            raise CorrectionsFullError(
                f"the images of {len(kept)} corrections have {used} bytes, this one {size}, and at most "
                f"{limits.most_bytes} are kept; learn them first"
            )

    def _fresh(self, folder: Path, now: datetime) -> list[Correction]:
        """Return the corrections in the folder, and remove those that have expired."""
        oldest = now - timedelta(seconds=self._limits.kept_s)
        kept = _read_all(folder)
        for known in kept:
            if known.at < oldest:
                remove_path(_place(folder, known.number))
        return [known for known in kept if known.at >= oldest]

    @contextlib.contextmanager
    def _locked(self) -> Iterator[Path]:
        folder = self._spool.root / FOLDER
        folder.mkdir(mode=0o700, exist_ok=True)
        lock = FileLock(folder / "lock")
        try:
            lock.acquire(timeout=_LOCK_TIMEOUT_S, poll_interval=0.01)
        except Timeout as error:
            raise CorrectionsBusyError(
                f"another process is at the corrections for more than {_LOCK_TIMEOUT_S:g} s"
            ) from error
        try:
            self._recover(folder)
            yield folder
        finally:
            lock.release()

    def _recover(self, folder: Path) -> None:
        """Take back what a process left half done: corrections that it has taken for a job that was not accepted."""
        for partial in folder.glob(f"*{_PARTIAL}"):
            remove_path(partial)
        try:
            job_id = str(json.loads((folder / _TAKING).read_bytes())["job_id"])
            of_job = self._spool.folder(job_id)
        except FileNotFoundError:
            return
        except (ValueError, KeyError, TypeError, KeepsightError):  # it was killed before anything was moved
            (folder / _TAKING).unlink()
            return
        if not (of_job / NOTE_FILE).exists():
            taken = of_job / FOLDER
            for place in sorted(taken.iterdir()) if taken.is_dir() else ():
                place.rename(folder / place.name)
            sync_folder(folder)
            self._spool.purge(job_id)
        (folder / _TAKING).unlink()


_TAKING: Final = "taking.json"
_DESCRIPTION: Final = "correction.json"
_IMAGE: Final = "image"


def taken_by(spool: Spool, job_id: str) -> list[Correction]:
    """Return the corrections that a job learns, in the order in which they came.

    Raises:
        SpoolError: `job_id` is no job id.
    """
    return _read_all(spool.folder(job_id) / FOLDER)


def _place(folder: Path, number: int) -> Path:
    return folder / f"{number:0{_DIGITS}d}"


def _read_all(folder: Path) -> list[Correction]:
    """Return all corrections in a folder. What cannot be read is removed: nobody could learn it."""
    found = []
    for place in sorted(folder.iterdir()) if folder.is_dir() else ():
        if place.name.isdecimal():
            try:
                found.append(Correction.model_validate_json((place / _DESCRIPTION).read_bytes()))
            except (FileNotFoundError, ValidationError):
                remove_path(place)
    return found


def _next_number(folder: Path, kept: Sequence[Correction]) -> int:
    """Return a number that none ever had, and remember that it is used."""
    counter = folder / "last"
    last = max([known.number for known in kept], default=0)
    with contextlib.suppress(FileNotFoundError, ValueError):
        last = max(last, int(counter.read_text()))
    new = folder / f"last{_PARTIAL}"
    write_synced(new, str(last + 1).encode())
    new.replace(counter)
    return last + 1


def _write(folder: Path, correction: Correction, image: bytes) -> None:
    place = _place(folder, correction.number)
    partial = place.with_name(place.name + _PARTIAL)
    try:
        partial.mkdir(mode=0o700)
        write_synced(partial / _IMAGE, image)
        write_synced(partial / _DESCRIPTION, correction.model_dump_json().encode())
        sync_folder(partial)
        os.rename(partial, place)
        sync_folder(folder)
    except BaseException:
        remove_path(partial)
        raise
