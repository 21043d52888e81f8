"""Turns an uploaded archive, or the test or val split of one, into a stored test set."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Self

from pydantic import BaseModel, ConfigDict, Field

from app.intake.entry_names import Encoding
from app.intake.keeping import keeping
from app.intake.limits import IntakeLimits, always_wanted
from app.intake.names import check_against_known
from app.intake.receive import Upload
from app.intake.take_in import take_in_test_set
from app.settings import Settings
from exchange.contracts import ValidationReport, new_job_id
from exchange.spool import Spool, SpoolIndex, SpoolWriter
from model_store.store import Store
from model_store.test_sets import SourceImage, StoredTestSet, StoredTestSets, check_name

logger = logging.getLogger(__name__)

MAX_DAYS = 36_500.0


class SetForm(BaseModel):
    """The fields of an uploaded test set besides the archive."""

    model_config = ConfigDict(extra="forbid")

    reason: str = Field("", max_length=1000, description="Kept with the set and in the journal.")
    days: float | None = Field(
        None, gt=0, le=MAX_DAYS, allow_inf_nan=False, description="Days that it is kept. Default: the setting's."
    )
    encoding: Encoding = None


@dataclass(frozen=True)
class Kept:
    """A test set that was stored. `unknown` are its labels that the current version does not know."""

    record: StoredTestSet
    validation: ValidationReport
    unknown: tuple[str, ...]


@dataclass(frozen=True)
class Keeper:
    """Stores spooled images as test sets. `days` is how long one is kept unless its sender says."""

    sets: StoredTestSets
    days: float
    max_images: int

    @classmethod
    def of(cls, sets: StoredTestSets, settings: Settings) -> Self:
        """Return the keeper that the settings describe."""
        return cls(sets, settings.test_set_days, settings.max_test_set_images)

    def keep(
        self, name: str, index: SpoolIndex, *, who: str, reason: str, days: float | None = None, replace: bool = True
    ) -> StoredTestSet:
        """Store the images of a spooled folder; see `StoredTestSets.put` for what may be wrong."""
        images = [SourceImage(path, label) for path, label in zip(index.files, index.labels, strict=True)]
        lifetime = timedelta(days=self.days if days is None else days)
        return self.sets.put(name, index.classes, images, who=who, lifetime=lifetime, reason=reason, replace=replace)


@contextmanager
def spooled_aside(spool: Spool) -> Iterator[SpoolWriter]:
    """Yield a writer of a folder in the spool that is removed in the end, whatever becomes of it."""
    folder = new_job_id()
    try:
        with keeping(), spool.create(folder) as writer:
            yield writer
    finally:
        with contextlib.suppress(OSError):  # a sweeper removes what is left of it
            spool.purge(folder)


def keep_upload(
    name: str,
    form: SetForm,
    upload: Upload,
    *,
    keeper: Keeper,
    store: Store,
    spool: Spool,
    limits: IntakeLimits,
    who: str,
    check: Callable[[], None] = always_wanted,
) -> Kept:
    """Store an uploaded archive as a test set, which replaces the one of that name. Synchronous: run it in a thread.

    `check` raises when the upload is no longer wanted. If this fails, nothing of the upload is left.

    Raises:
        InvalidTestSetNameError: that is no name.
        ArchiveError, TaskRefusedError: the upload is refused.
        ClassExistsError: a label differs from a known class only by its spelling.
        NoRoomForTestSetError: it is larger than a test set may be, or there is no room beside the others.
        SpoolFullError, SpoolUnusableError, StoreError: it cannot be written.
    """
    check_name(name)
    current = store.readable_current()
    known = () if current is None else tuple(c.name for c in store.manifest(current).classes)

    def check_names(names: Sequence[str]) -> None:
        check_against_known(names, known, extend=True)

    with spooled_aside(spool) as writer:
        taken = take_in_test_set(
            upload.file,
            upload.size,
            writer,
            limits=limits,
            max_images=keeper.max_images,
            check_names=check_names,
            encoding=form.encoding,
            check=check,
        )
        check()
        assert taken.test_set is not None
        record = keeper.keep(name, taken.test_set, who=who, reason=form.reason, days=form.days)
    return Kept(record, taken.report, tuple(label for label, _ in taken.classes if label not in known))
