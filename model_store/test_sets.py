"""Test sets: labelled images that an operator stores to measure versions on. Apart from learning. Needs no torch.

They lie beside the versions, until their time is over or somebody removes them:

    <root>/test-sets/<name>.json      the record of a set; a set without a record is none
    <root>/test-sets/<folder>/        its images under numbers, as they came, and index.json
    <root>/test-sets/.<folder>/       one that is being written; a left-over means nothing
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Final

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from model_store import policy
from model_store.disk import Disk, writing
from model_store.evaluations import Evaluations
from model_store.journal import Journal, read_journal
from model_store.locking import Locking, utc_now
from model_store.types import (
    Action,
    CorruptTestSetError,
    ExistingTestSetError,
    InvalidTestSetNameError,
    JournalEntry,
    NoRoomForTestSetError,
    NoSuchTestSetError,
    StoreError,
)

logger = logging.getLogger(__name__)

FOLDER: Final = "test-sets"
INDEX_FILE: Final = "index.json"
ABANDONED_AFTER: Final = timedelta(hours=1)
"""Age of a set that is still being written after which its writer is taken for dead."""
NAME_PATTERN: Final = "[a-z0-9][a-z0-9._-]{0,63}"
"""What the name of a test set is, as a regular expression."""
_NAME: Final = re.compile(NAME_PATTERN)
_SUFFIX: Final = re.compile(r"\.[a-z0-9]{1,8}")
_DIGEST_DIGITS: Final = 12


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class StoredTestSet(_Record):
    """The record of a test set.

    Attributes:
        name: its name.
        digest: SHA-256 over its classes and the labels and checksums of its images.
        folder: the name of the folder with its images.
        images: how many there are.
        bytes: their size together.
        images_per_class: how many each class has.
        who: who stored it.
        reason: why.
        added_at: when it was stored.
        expires_at: when its time is over.
    """

    name: str
    digest: str
    folder: str
    images: int = Field(ge=1)
    bytes: int = Field(ge=0)
    images_per_class: dict[str, int]
    who: str
    reason: str = ""
    added_at: AwareDatetime
    expires_at: AwareDatetime

    @property
    def reference(self) -> str:
        """What the journal calls this set: its name and the beginning of its digest."""
        return f"{self.name}@{self.digest[:_DIGEST_DIGITS]}"


class RemovedTestSet(_Record):
    """The receipt for a test set that was removed: what was removed, when, by whom and why."""

    name: str
    digest: str
    images: int
    bytes: int
    removed_at: AwareDatetime
    who: str
    reason: str


class _Index(_Record):
    classes: tuple[str, ...]
    files: tuple[str, ...]
    labels: tuple[int, ...]
    checksums: tuple[str, ...]


@dataclass(frozen=True)
class SourceImage:
    """An image that is to be stored: its file, which stays where it is, and the position of its class."""

    path: Path
    label: int


@dataclass(frozen=True)
class ImagesOfSet:
    """The images of a test set, by number: `files[i]` shows `classes[labels[i]]` and has the SHA-256 `checksums[i]`."""

    classes: tuple[str, ...]
    files: tuple[Path, ...]
    labels: tuple[int, ...]
    checksums: tuple[str, ...]


@dataclass(frozen=True)
class Limits:
    """How much may be stored.

    Attributes:
        sets: most sets.
        bytes: most bytes of all sets together.
        images: most images of one set.
    """

    sets: int = 20
    bytes: int = 2 << 30
    images: int = 10_000


def check_name(text: str) -> str:
    """Return `text` if it may be the name of a test set.

    Raises:
        InvalidTestSetNameError: it is anything else, such as a path.
    """
    if not _NAME.fullmatch(text):
        raise InvalidTestSetNameError(text)
    return text


class StoredTestSets(Locking):
    """The test sets of one store, which may be shared by any number of processes.

    Every method that changes something raises `StoreFullError` on a full disk, `StoreError` on another failed write and
    `StoreBusyError` after waiting too long; then the sets are as before.

    Args:
        root: the store's.
        limits: how much may be stored.
        disk: all writes go through it.
        clock: the time for records and journal, which also decides whose time is over.
    """

    def __init__(
        self,
        root: Path,
        limits: Limits | None = None,
        *,
        disk: Disk | None = None,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        super().__init__(root, disk=disk, clock=clock)
        self._limits = limits or Limits()
        self._folder = root / FOLDER
        self._evaluations = Evaluations(root, disk=self._disk)

    def all(self) -> list[StoredTestSet]:
        """Return the sets whose time is not over, by name. One that cannot be read is logged and left out."""
        now = self._clock()
        return [found for found in self._records().values() if found.expires_at > now]

    def get(self, name: str) -> StoredTestSet:
        """Return one set.

        Raises:
            InvalidTestSetNameError: that is no name.
            NoSuchTestSetError: there is no such set, or its time is over.
            CorruptTestSetError: its record cannot be read.
        """
        found = self._record(check_name(name))
        if found is None or found.expires_at <= self._clock():
            raise NoSuchTestSetError(name)
        return found

    def read(self, test_set: StoredTestSet, numbers: Iterable[int] | None = None) -> ImagesOfSet:
        """Return a set's images, after comparing those with these `numbers` (None: all) with their checksums.

        Raises:
            NoSuchTestSetError: it was removed or replaced meanwhile.
            CorruptTestSetError: a file is missing or altered.
        """
        folder = self._folder / test_set.folder
        try:
            index = _Index.model_validate_json((folder / INDEX_FILE).read_bytes())
        except FileNotFoundError as error:
            raise NoSuchTestSetError(test_set.name) from error
        except (OSError, ValidationError) as error:
            raise CorruptTestSetError(test_set.name, INDEX_FILE, "cannot be read") from error
        if _digest(index.classes, index.labels, index.checksums) != test_set.digest:
            raise CorruptTestSetError(test_set.name, INDEX_FILE, "does not match the set's digest")
        files = tuple(folder / file for file in index.files)
        for number in range(len(files)) if numbers is None else numbers:
            try:
                found = sha256(files[number].read_bytes()).hexdigest()
            except OSError as error:
                raise CorruptTestSetError(test_set.name, files[number].name, "missing or unreadable") from error
            if found != index.checksums[number]:
                raise CorruptTestSetError(test_set.name, files[number].name, "altered")
        return ImagesOfSet(index.classes, files, index.labels, index.checksums)

    def put(
        self,
        name: str,
        classes: Sequence[str],
        images: Sequence[SourceImage],
        *,
        who: str,
        lifetime: timedelta,
        reason: str = "",
        replace: bool = True,
    ) -> StoredTestSet:
        """Store a set of images, which replaces the one of that name as a whole. Images are copied as they are.

        Args:
            name: its name.
            classes: the names that labels point at.
            images: at least one.
            who: recorded with the set and in the journal.
            lifetime: how long the set is kept.
            reason: recorded in the journal.
            replace: whether another set of that name may be replaced. The same images may always be stored again.

        Raises:
            InvalidTestSetNameError: that is no name.
            ExistingTestSetError: there is another set of that name, and it was not to be replaced.
            NoRoomForTestSetError: the set, or all of them together, would be larger than is allowed.
        """
        check_name(name)
        size = sum(image.path.stat().st_size for image in images)
        self._check_room(name, len(images), size)  # before anything is copied
        rows = sorted((image.label, sha256(image.path.read_bytes()).hexdigest(), image.path) for image in images)
        labels, checksums = tuple(row[0] for row in rows), tuple(row[1] for row in rows)
        digest = _digest(classes, labels, checksums)
        now = self._clock()
        record = StoredTestSet(
            name=name,
            digest=digest,
            folder=f"{name}-{digest[:_DIGEST_DIGITS]}-{uuid.uuid4().hex[:12]}",
            images=len(rows),
            bytes=size,
            images_per_class={label: labels.count(at) for at, label in enumerate(classes) if at in labels},
            who=who,
            reason=reason,
            added_at=now,
            expires_at=now + lifetime,
        )
        part = self._folder / f".{record.folder}"
        try:
            with writing(f"storing the test set {name}"):
                self._write(part, classes, rows)
            with self._locked("storing a test set"):
                before = self._record_or_none(name)
                if before is not None and before.digest != digest and not replace:
                    raise ExistingTestSetError(name)
                self._check_room(name, len(rows), size)
                self._put(part, record, before)
        except BaseException:
            with contextlib.suppress(OSError):
                self._disk.remove(part)
            raise
        self._tidy_quietly()
        logger.info("test set %s was stored by %s: %d images, %d bytes", record.reference, who, len(rows), size)
        return record

    def remove(self, name: str, *, who: str, reason: str = "") -> RemovedTestSet:
        """Remove a set, its images and what versions answered to them, and return the receipt.

        The receipt is a line of the journal too. If this is interrupted after that line, the next change or the next
        sweep completes the removal.

        Raises:
            InvalidTestSetNameError: that is no name.
            NoSuchTestSetError: there is no such set.
        """
        check_name(name)
        with self._locked("removing a test set"):
            journal = self._reconcile()
            found = self._record_or_none(name) or self._damaged(name, journal)
            if found is None:
                raise NoSuchTestSetError(name)
            line = policy.Line("remove_test_set", found.reference, None, _receipt_text(found, reason))
            self._append(journal, [line], who)
            try:
                with writing(f"removing the test set {name}"):
                    self._take_away(found)
            except StoreError:
                with contextlib.suppress(OSError):
                    self._disk.append(self._journal, b"", at=journal.size)
                raise
            self._tidy()
        logger.info("test set %s was removed by %s", found.reference, who)
        return RemovedTestSet(
            name=name,
            digest=found.digest,
            images=found.images,
            bytes=found.bytes,
            removed_at=self._clock(),
            who=who,
            reason=reason,
        )

    def sweep(self) -> list[RemovedTestSet]:
        """Remove the sets whose time is over, complete interrupted removals, and remove what belongs to no set."""
        if not self._folder.is_dir():
            return []
        now = self._clock()
        over = [found.name for found in self._records().values() if found.expires_at <= now]
        removed = []
        for name in over:
            with contextlib.suppress(NoSuchTestSetError):  # another process was faster
                removed.append(self.remove(name, who="store", reason="its time is over"))
        if self._left_over() or self._unexplained(read_journal(self._journal)):
            with self._locked("sweeping test sets"):
                self._reconcile()
                self._tidy()
        return removed

    # --- writing --------------------------------------------------------------------------------------------------

    def _write(self, folder: Path, classes: Sequence[str], rows: Sequence[tuple[int, str, Path]]) -> None:
        self._disk.make_folder(self._folder)
        self._disk.make_folder(folder)
        files = []
        for number, (_, checksum, path) in enumerate(rows):
            data = path.read_bytes()
            if sha256(data).hexdigest() != checksum:
                raise StoreError(f"an image of the test set was changed while it was stored: {path.name}")
            suffix = path.suffix.lower()
            files.append(f"{number:07d}{suffix if _SUFFIX.fullmatch(suffix) else ''}")
            self._disk.write_file(folder / files[-1], data)
        index = {
            "classes": list(classes),
            "files": files,
            "labels": [label for label, _, _ in rows],
            "checksums": [checksum for _, checksum, _ in rows],
        }
        self._disk.write_file(folder / INDEX_FILE, json.dumps(index).encode())
        self._disk.sync_folder(folder)

    def _put(self, part: Path, record: StoredTestSet, before: StoredTestSet | None) -> None:
        journal = self._reconcile()
        new = self._folder / f".{record.name}.json-{uuid.uuid4().hex}"
        folder = self._folder / record.folder
        try:
            with writing(f"storing the test set {record.name}"):
                self._disk.write_file(new, (record.model_dump_json() + "\n").encode())
                self._disk.rename(part, folder)
                self._disk.sync_folder(self._folder)
            line = policy.Line(
                "put_test_set",
                None if before is None else before.reference,
                record.reference,
                _receipt_text(record, record.reason),
            )
            self._append(journal, [line], record.who)
            try:
                with writing(f"storing the test set {record.name}"):
                    self._disk.rename(new, self._path(record.name))
            except StoreError:
                with contextlib.suppress(OSError):
                    self._disk.append(self._journal, b"", at=journal.size)
                raise
        except StoreError:
            for path in (new, folder):
                with contextlib.suppress(OSError):
                    self._disk.remove(path)
            raise
        with contextlib.suppress(OSError):  # it is there for all readers; only a power failure could undo it
            self._disk.sync_folder(self._folder)

    def _take_away(self, found: StoredTestSet) -> None:
        self._disk.remove(self._path(found.name))
        self._disk.sync_folder(self._folder)

    def _tidy_quietly(self) -> None:
        try:
            with self._locked("tidying up test sets"):
                self._tidy()
        except StoreError as error:  # the next sweep tries again
            logger.warning("%s", error)

    def _tidy(self) -> None:
        """Remove what belongs to no set. What cannot be removed is logged, and tried again by the next sweep."""
        for path in self._left_over():
            try:
                self._disk.remove(path)
            except OSError as error:
                logger.warning("%s could not be removed: %s", path, error.strerror)

    def _left_over(self) -> list[Path]:
        records = self._records()
        if len(records) < len(self._record_files()):
            return []  # one cannot be read, so it is not known what belongs to it
        needed = {f"{name}.json" for name in records} | {found.folder for found in records.values()}
        now = self._clock()
        left = [
            path
            for path in self._folder.iterdir()
            if path.name not in needed and (not path.name.startswith(".") or now - _changed_at(path) > ABANDONED_AFTER)
        ]
        versions = {path.name for path in (self.root / "versions").glob("*")}
        return left + self._evaluations.left_over(versions, {found.digest for found in records.values()})

    # --- the journal ----------------------------------------------------------------------------------------------

    def _reconcile(self) -> Journal:
        """Complete removals that were interrupted, and explain in the journal what else is not as it says."""
        journal = read_journal(self._journal)
        for found in self._records().values():
            last = _last_lines(journal.entries).get(found.name)
            if last is not None and last.action == "remove_test_set" and last.from_ == found.reference:
                with writing(f"removing the test set {found.name}"):
                    self._take_away(found)
        return self._append(journal, self._unexplained(journal), "store")

    def _unexplained(self, journal: Journal) -> list[policy.Line]:
        lasts = _last_lines(journal.entries)
        said = {name: line.to for name, line in lasts.items()}
        there: dict[str, str | None] = {name: found.reference for name, found in self._records().items()}
        lines = []
        for name in sorted(said.keys() | there.keys()):
            before, now = said.get(name), there.get(name)
            if before == now or (now is None and self._path(name).exists()):
                continue
            action: Action = "remove_test_set" if now is None else "put_test_set"
            lines.append(policy.Line(action, before, now, "a change was not completed, or was made by hand"))
        return lines

    # --- reading --------------------------------------------------------------------------------------------------

    def _damaged(self, name: str, journal: Journal) -> StoredTestSet | None:
        """Return what stands for a set whose record cannot be read, so that it can be removed; None: there is none."""
        if not self._path(name).exists():
            return None
        last = _last_lines(journal.entries).get(name)
        digest = (last.to if last is not None and last.to else "").partition("@")[2]
        now = self._clock()
        return StoredTestSet.model_construct(
            name=name,
            digest=digest,
            folder="",
            images=0,
            bytes=0,
            images_per_class={},
            who="",
            added_at=now,
            expires_at=now,
        )

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.json"

    def _record_files(self) -> list[Path]:
        try:
            names = sorted(os.listdir(self._folder))
        except FileNotFoundError:
            return []
        except OSError as error:
            raise StoreError(f"{self._folder} cannot be read: {error.strerror}") from error
        return [
            self._folder / name
            for name in names
            if name.endswith(".json") and _NAME.fullmatch(name.removesuffix(".json"))
        ]

    def _records(self) -> dict[str, StoredTestSet]:
        found: dict[str, StoredTestSet] = {}
        for path in self._record_files():
            name = path.name.removesuffix(".json")
            if (record := self._record_or_none(name)) is not None:
                found[name] = record
        return found

    def _record_or_none(self, name: str) -> StoredTestSet | None:
        try:
            return self._record(name)
        except CorruptTestSetError as error:
            logger.warning("%s", error)
            return None

    def _record(self, name: str) -> StoredTestSet | None:
        path = self._path(name)
        try:
            found = StoredTestSet.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValidationError) as error:
            raise CorruptTestSetError(name, path.name, "cannot be read") from error
        if found.name != name or Path(found.folder).name != found.folder or not found.folder.startswith(f"{name}-"):
            raise CorruptTestSetError(name, path.name, "is not the record of this set")
        return found

    def _check_room(self, name: str, images: int, size: int) -> None:
        """Check that a set may be stored in place of the one of that name.

        Raises:
            NoRoomForTestSetError: it may not.
        """
        others = [found for found in self._records().values() if found.name != name]
        in_all = size + sum(found.bytes for found in others)
        limits = self._limits
        if images > limits.images:
            raise NoRoomForTestSetError(f"the test set has {images} images; at most {limits.images} are allowed")
        if len(others) + 1 > limits.sets:
            raise NoRoomForTestSetError(f"there are {len(others)} other test sets; at most {limits.sets} are allowed")
        if in_all > limits.bytes:
            raise NoRoomForTestSetError(
                f"all test sets would have {in_all} bytes together; at most {limits.bytes} are allowed"
            )


def _digest(classes: Sequence[str], labels: Sequence[int], checksums: Sequence[str]) -> str:
    images = [list(pair) for pair in zip(labels, checksums, strict=True)]
    described = {"classes": list(classes), "images": images}
    return sha256(json.dumps(described, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _last_lines(entries: Iterable[JournalEntry]) -> dict[str, JournalEntry]:
    """Return the last line about each test set, by its name."""
    lasts: dict[str, JournalEntry] = {}
    for entry in entries:
        if entry.action in ("put_test_set", "remove_test_set"):
            lasts[(entry.to or entry.from_ or "").partition("@")[0]] = entry
    return lasts


def _receipt_text(found: StoredTestSet, reason: str) -> str:
    counts = f"{found.images} images, {found.bytes} bytes"
    return f"{counts}: {reason}" if reason else counts


def _changed_at(path: Path) -> datetime:
    try:
        return datetime.fromtimestamp(path.stat().st_mtime, UTC)
    except OSError:  # its writer has just renamed or removed it
        return datetime.max.replace(tzinfo=UTC)
