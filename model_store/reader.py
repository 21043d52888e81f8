"""Reads versions from disk. Takes no lock and changes nothing."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from model_store import codec, policy
from model_store.gate import GATE_FILE, GateSetting, let_through, read_setting, reasons_of
from model_store.journal import read_journal
from model_store.pointer import POINTER_FILE, read_pointer
from model_store.types import (
    MANIFEST_FILE,
    TENSORS_FILE,
    CorruptVersionError,
    DamagedPointerError,
    HeldError,
    JournalEntry,
    Made,
    Manifest,
    NothingToRollBackToError,
    StoreError,
    VersionId,
    VersionNotFoundError,
)
from segp_cl.runtime.golden import GoldenAnswers
from segp_cl.types import LearnerState

logger = logging.getLogger(__name__)

Manifests = list[Manifest]
VersionIds = list[VersionId]
Reasons = tuple[str, ...]
Entries = list[JournalEntry]


@dataclass(frozen=True)
class Survey:
    """All versions, oldest first. A version whose tensors are incomplete is in both."""

    readable: list[Manifest]
    damaged: dict[VersionId, str]


@dataclass(frozen=True)
class Pruning:
    """What `prune` removed, or would remove, with bytes, oldest first; and why each other version stays."""

    removed: dict[VersionId, int]
    kept: dict[VersionId, str]


_Stamp = tuple[int, int, int]
_SETTLES_S = 2.0
"""A file that was changed so short ago is read anew: another change may leave it the same time."""


def _stamp_of(path: str) -> _Stamp | None:
    """Return what changes whenever the file does, or None if that cannot be told."""
    try:
        status = os.stat(path)  # a list of versions asks a thousand times, and a Path takes twice as long
    except OSError:
        return None
    if not 0 < status.st_mtime < time.time() - _SETTLES_S:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


def parents_of(manifests: Mapping[VersionId, Manifest | None]) -> dict[VersionId, VersionId | None]:
    """Return the parent of every version, None also where its manifest cannot be read."""
    return {version: None if manifest is None else manifest.parent for version, manifest in manifests.items()}


@dataclass(frozen=True)
class Content:
    """The content of a version."""

    state: LearnerState
    golden: GoldenAnswers | None


@dataclass(frozen=True)
class VersionFiles:
    """The bytes of a version's two files."""

    manifest: bytes
    tensors: bytes


def decode_version(version_id: VersionId, files: VersionFiles, *, verify: bool = True) -> Content:
    """Return what a version's files hold.

    Args:
        version_id: the folder that they are from.
        files: their bytes.
        verify: check the digests too. Without it only the tensors' names and shapes, and the manifest, are checked.

    Raises:
        CorruptVersionError: a byte of either file is not what was published; names the file.
    """
    manifest = codec.unpack_manifest(files.manifest, version_id)
    if verify and (found := codec.sha256(files.tensors)) != manifest.tensors_sha256:
        problem = f"its SHA-256 is {found}, the manifest says {manifest.tensors_sha256}"
        raise CorruptVersionError(version_id, TENSORS_FILE, problem)
    tensors = codec.unpack(files.tensors, version_id)
    state = codec.decode_state(tensors, manifest)
    if verify:
        found = codec.content_digest(tensors, manifest)
        if found != manifest.content_digest or version_id != policy.version_id_of(manifest.number, found):
            problem = f"the content has the digest {found}, the manifest says {manifest.content_digest}"
            raise CorruptVersionError(version_id, MANIFEST_FILE, problem)
    return Content(state, codec.decode_golden(tensors))


class StoreReader:
    """Reads the versions under one folder, which other processes may be changing.

    Every method that takes a version id raises `InvalidVersionIdError` before it touches the disk.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._versions = root / "versions"
        self._pointer = root / POINTER_FILE
        self._journal = root / "journal.jsonl"
        self._known: dict[VersionId, tuple[_Stamp, Manifest]] = {}
        self._complete: dict[VersionId, _Stamp] = {}

    def identity(self) -> str:
        """Return this store's id, wherever it is mounted: 16 hex digits of the SHA-256 of its journal's first line.

        Where the journal is lost, the oldest version stands in for it.

        Raises:
            StoreError: nothing was ever published here.
        """
        try:
            with self._journal.open("rb") as journal:
                first = journal.readline()
        except OSError:
            first = b""
        if not first.endswith(b"\n"):
            oldest = next(iter(self.version_ids()), None)
            if oldest is None:
                raise StoreError(f"{self.root} is empty: it has no first version yet")
            first = oldest.encode()
        return codec.sha256(first)[:16]

    def check_writable(self) -> None:
        """Look whether the store's disk takes writes; one that is not there yet is not asked.

        Raises:
            StoreError: it is mounted read-only, as the system does by itself after an error of the disk.
        """
        with contextlib.suppress(OSError):
            if os.statvfs(self.root).f_flag & os.ST_RDONLY:
                raise StoreError(f"{self.root} is mounted read-only")

    def current(self) -> VersionId | None:
        """Return the version in CURRENT, which is served, or None if nothing was ever promoted.

        Raises:
            DamagedPointerError: CURRENT cannot be read, or does not hold a version id.
        """
        return read_pointer(self._pointer)

    def known_current(self) -> VersionId:
        """Return the version in CURRENT, which there is from the start.

        Raises:
            DamagedPointerError: CURRENT cannot be read, or is gone.
        """
        current = self.current()
        if current is None:
            raise DamagedPointerError(f"{self.root} has no CURRENT, so there is nothing to teach or to edit")
        return current

    def readable_current(self) -> VersionId | None:
        """Return the version in CURRENT, or None also if it does not hold a version id."""
        try:
            return self.current()
        except DamagedPointerError:
            return None

    def served_before(self) -> VersionIds:
        """Return the versions that CURRENT has named, as the journal says, the last one first.

        What to serve while CURRENT is damaged is read from here, and never guessed.
        """
        return policy.served_before(self.journal(), self.version_ids())

    def manifest(self, version_id: VersionId) -> Manifest:
        """Return a version's manifest after checking its digest.

        Manifests never change, and one of a thousand classes takes milliseconds to parse. So each is parsed once while
        its file stays the same.

        Raises:
            VersionNotFoundError: there is no such version.
            CorruptVersionError: the manifest is missing or altered.
        """
        stamp = _stamp_of(f"{self._versions}/{policy.check_version_id(version_id)}/{MANIFEST_FILE}")
        known = self._known.get(version_id)
        if known is not None and known[0] == stamp:
            return known[1]
        manifest = codec.unpack_manifest(self._read(version_id, MANIFEST_FILE), version_id)
        if stamp is not None:
            self._known[version_id] = (stamp, manifest)
        return manifest

    def list(self) -> Manifests:
        """Return the manifests of all versions, oldest first. An unreadable one is logged and left out."""
        return self.survey().readable

    def survey(self) -> Survey:
        """Return the manifests of all versions, oldest first, and why the others are damaged.

        Tensors are not read, which would take long; only that they are there and complete is checked.
        """
        found, ids = Survey([], {}), self.version_ids()
        for gone in (self._known.keys() | self._complete.keys()) - set(ids):
            self._known.pop(gone, None)
            self._complete.pop(gone, None)
        for version_id in ids:
            try:
                found.readable.append(self.manifest(version_id))
                if problem := self._incomplete(version_id):
                    found.damaged[version_id] = f"{TENSORS_FILE}: {problem}"
            except VersionNotFoundError:
                continue  # pruned since the folder was listed
            except CorruptVersionError as error:
                logger.warning("%s", error)
                found.damaged[version_id] = f"{error.file}: {error.problem}"
        return found

    def lineage(self, version_id: VersionId | None = None) -> Manifests:
        """Return a version (None: CURRENT), its parent, its parent's parent, ... as far as they are present.

        Raises:
            VersionNotFoundError: there is no such version.
            CorruptVersionError: a manifest on the way is missing or altered.
        """
        here = self.current() if version_id is None else version_id
        chain: dict[VersionId, Manifest] = {}
        while here is not None and here not in chain:
            try:
                chain[here] = self.manifest(here)
            except VersionNotFoundError:
                if not chain:
                    raise
                break
            here = chain[here].parent
        return [*chain.values()]

    def common_ancestor(self, ours: VersionId, theirs: VersionId) -> VersionId:
        """Return the version that two others were both begun on; see `policy.common_ancestor`.

        Raises:
            VersionNotFoundError: there is no such version.
            CorruptVersionError: the manifest of one of the two is missing or altered.
            NoCommonAncestorError: there is none, or more than one, or one of the two contains the other.
        """
        asked = {version: self.manifest(version).parents for version in (ours, theirs)}
        return policy.common_ancestor(ours, theirs, {m.version_id: m.parents for m in self.list()} | asked)

    def rollback_target(self) -> VersionId:
        """Return the target of a rollback that names no version: the parent of CURRENT.

        Where CURRENT or its parent is damaged or gone, it is the newest version before it that can be read.

        Raises:
            NothingToRollBackToError: CURRENT is not set, or there is no readable version before it.
        """
        current = self.readable_current()
        parents = {manifest.version_id: manifest.parent for manifest in self.list()}
        for target in policy.rollback_targets(current, parents, self.served_before()):
            try:
                self.verify(target)
            except StoreError as error:
                logger.warning("cannot roll back to %s: %s", target, error)
                continue
            return target
        if current is None:
            raise NothingToRollBackToError("CURRENT is not set, so there is nothing to roll back")
        if current in parents and parents[current] is None:
            raise NothingToRollBackToError(f"version {current} is the first, so there is nothing before it")
        raise NothingToRollBackToError(f"there is no readable version before {current}")

    def open(self, version_id: VersionId, verify: bool = True) -> LearnerState:
        """Return the state in a version; see `read`."""
        return self.read(version_id, verify).state

    def read(self, version_id: VersionId, verify: bool = True) -> Content:
        """Return the state in a version, and its golden answers.

        Args:
            version_id: any version, promoted or not.
            verify: check the digests too (milliseconds per megabyte). Without it only the tensors' names and
                shapes, and the manifest, are checked.

        Raises:
            VersionNotFoundError: there is no such version.
            CorruptVersionError: a byte of either file is not what was published; names the file.
        """
        return decode_version(version_id, self.files_of(version_id), verify=verify)

    def files_of(self, version_id: VersionId) -> VersionFiles:
        """Return the bytes of a version, unchecked.

        Raises:
            VersionNotFoundError: there is no such version.
            CorruptVersionError: a file is missing or cannot be read.
        """
        manifest = self._read(version_id, MANIFEST_FILE)
        return VersionFiles(manifest, self._read(version_id, TENSORS_FILE))

    def bytes_of(self, version_id: VersionId) -> int | None:
        """Return the size of a version's files; None if one is missing."""
        folder = self._versions / policy.check_version_id(version_id)
        try:
            return sum((folder / file).stat().st_size for file in (MANIFEST_FILE, TENSORS_FILE))
        except OSError:
            return None

    def verify(self, version_id: VersionId) -> None:
        """Check every byte of a version.

        Raises:
            VersionNotFoundError: there is no such version.
            CorruptVersionError: a byte of either file is not what was published; names the file.
        """
        self.open(version_id)

    def in_one_file(self, version_id: VersionId) -> bytes:
        """Return a version as one safetensors file: its tensors, and its manifest as the metadata `manifest`.

        Raises:
            VersionNotFoundError: there is no such version.
            CorruptVersionError: a byte of either file is not what was published; names the file.
        """
        files = self.files_of(version_id)
        decode_version(version_id, files)
        return codec.pack(codec.unpack(files.tensors, version_id), {"manifest": files.manifest.decode()})

    def size(self, version_id: VersionId) -> int:
        """Return the bytes of a version's files; 0 where there is none."""
        total = 0
        for file in (MANIFEST_FILE, TENSORS_FILE):
            with contextlib.suppress(OSError):
                total += (self._versions / policy.check_version_id(version_id) / file).stat().st_size
        return total

    def journal(self) -> Entries:
        """Return all actions, oldest first. An unreadable line, or a whole unreadable file, is logged and left out."""
        try:
            return [*read_journal(self._journal).entries]
        except StoreError as error:
            logger.warning("%s", error)
            return []

    def moves(self) -> int:
        """Return how often CURRENT was moved, so that a caller can tell later whether it was moved since."""
        return policy.moves_in(self.journal())

    def pinned(self) -> frozenset[VersionId]:
        """Return the pinned versions, which `prune` never removes."""
        return policy.pinned_versions(self.journal())

    def gate(self) -> GateSetting:
        """Return the gate's policy. A missing or damaged file means the defaults; a damaged one is logged."""
        return read_setting(self.root / GATE_FILE)

    def held(self, *manifests: Manifest) -> dict[VersionId, Reasons]:
        """Return those of the versions that are held, with the gate's reasons. The journal is read once.

        A version to which CURRENT was moved once is not held: an operator has decided.
        """
        judged = {manifest.version_id: reasons_of(manifest) for manifest in manifests}
        if not any(judged.values()):
            return {}
        free = let_through(self.journal()) | {self.readable_current()}
        return {version: reasons for version, reasons in judged.items() if reasons and version not in free}

    def check_not_held(self, version_id: VersionId) -> None:
        """Check that the gate does not keep a version from being served.

        Raises:
            HeldError: it does; the message has its reasons.
            VersionNotFoundError: there is no such version.
            CorruptVersionError: the manifest is missing or altered.
        """
        if reasons := self.held(self.manifest(version_id)).get(version_id):
            raise HeldError(version_id, reasons)

    def version_of_job(self, job_id: str) -> VersionId | None:
        """Return the version that a job has published, or None. Its instant versions do not count."""
        found = (manifest for manifest in self._of_job(job_id) if not manifest.is_instant)
        return next((manifest.version_id for manifest in found), None)

    def instants_of_job(self, job_id: str) -> Manifests:
        """Return the instant versions of a job, the oldest first: one for each version that it was put on."""
        return [manifest for manifest in self._of_job(job_id) if manifest.is_instant]

    def made_of_job(self, job_id: str, made: Made) -> Manifests:
        """Return what a job has made in one way, such as its instant versions: one a parent, the oldest first."""
        return [manifest for manifest in self._of_job(job_id) if manifest.made == made]

    def _of_job(self, job_id: str) -> Iterator[Manifest]:
        """Yield the manifests of a job's versions, oldest first. The others are not parsed, which takes long."""
        wanted = json.dumps(job_id).encode()
        for version_id in self.version_ids():
            try:
                data = self._read(version_id, MANIFEST_FILE)
                if wanted in data and (manifest := codec.unpack_manifest(data, version_id)).job_id == job_id:
                    yield manifest
            except VersionNotFoundError:
                continue  # pruned since the folder was listed
            except CorruptVersionError as error:
                logger.warning("%s", error)

    def version_ids(self) -> tuple[VersionId, ...]:
        """Return the ids of all versions, oldest first."""
        try:
            names = [path.name for path in self._versions.iterdir() if policy.is_version_id(path.name)]
        except FileNotFoundError:
            return ()
        except OSError as error:
            raise StoreError(f"{self._versions} cannot be read: {error.strerror}") from error
        return tuple(sorted(names, key=lambda name: (policy.number_of(name), name)))

    def _incomplete(self, version_id: VersionId) -> str | None:
        """Return why a version's tensors are not complete, or None; looked at once while their file stays the same."""
        stamp = _stamp_of(f"{self._versions}/{version_id}/{TENSORS_FILE}")
        if stamp is not None and self._complete.get(version_id) == stamp:
            return None
        problem = codec.incomplete(self._versions / version_id / TENSORS_FILE)
        if problem is None and stamp is not None:
            self._complete[version_id] = stamp
        return problem

    def _manifests(self, version_ids: Iterable[VersionId] | None = None) -> dict[VersionId, Manifest | None]:
        """Return the manifests of these versions (None: of all, oldest first), or None where one cannot be read."""
        found: dict[VersionId, Manifest | None] = {}
        for version_id in self.version_ids() if version_ids is None else version_ids:
            try:
                found[version_id] = self.manifest(version_id)
            except VersionNotFoundError:
                continue  # pruned since the folder was listed
            except CorruptVersionError as error:
                logger.warning("%s", error)
                found[version_id] = None
        return found

    def _read(self, version_id: VersionId, file: str) -> bytes:
        folder = self._versions / policy.check_version_id(version_id)
        try:
            return (folder / file).read_bytes()
        except FileNotFoundError as error:
            if folder.is_dir():
                raise CorruptVersionError(version_id, file, "missing") from error
            raise VersionNotFoundError(version_id) from error
        except (OSError, MemoryError) as error:
            raise CorruptVersionError(version_id, file, f"cannot be read: {error}") from error
