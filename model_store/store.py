"""Versions on disk: publish, promote, roll back, prune. Safe between threads, processes and crashes.

A store is a folder:

    <root>/CURRENT                     one line, a version id: what is served
    <root>/journal.jsonl               one line per action: who, when, from, to, why
    <root>/gate.json                   what a version must pass before it is promoted; missing: the defaults
    <root>/versions/<version id>/      manifest.json and tensors.safetensors, never changed
    <root>/tmp/                        what is being written or removed; left-overs mean nothing
    <root>/store.lock, lineage.lock, top.lock    locked by the operating system, which releases them when a process dies
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping

from model_store import codec, policy
from model_store.disk import writing
from model_store.gate import GATE_FILE, GatePolicy, differences, reasons_of, write_policy
from model_store.libraries import installed_libraries
from model_store.locking import LOCK_TIMEOUT_S
from model_store.reader import Pruning, parents_of
from model_store.types import (
    PROMOTED_ANYWAY,
    PUT_AGAIN,
    DamagedPointerError,
    Manifest,
    MovedMeanwhileError,
    Provenance,
    StoreError,
    VersionId,
)
from model_store.writer import StoreWriter
from segp_cl.runtime.golden import GoldenAnswers
from segp_cl.types import LearnerState

logger = logging.getLogger(__name__)


class Store(StoreWriter):
    """The versions under one folder, which may be shared by any number of processes.

    Every method that takes a version id raises `InvalidVersionIdError` before it touches the disk. Every method
    that changes something raises `StoreFullError` on a full disk, `StoreError` on another failed write and
    `StoreBusyError` after `LOCK_TIMEOUT_S` of waiting; then CURRENT and the list of versions are as before.

    Args:
        root: created with its folders if it does not exist.
        disk: all writes go through it.
        clock: the time for manifests and journal.
    """

    def publish(
        self,
        state: LearnerState,
        *,
        parent: VersionId | None,
        provenance: Provenance,
        golden: GoldenAnswers | None = None,
    ) -> Manifest:
        """Write a new version without moving CURRENT. Servers replay `golden` before they serve it.

        If the gate's result in `provenance.report` has reasons, the version is held: the journal says so, and
        `promote` refuses it.

        A job publishes once, and once more as an instant version on each parent: if `provenance.job_id` already has
        that version, its manifest is returned and nothing is written. A crash leaves no version or a complete one.

        Raises:
            InvalidStateError: shapes that disagree, or values that are not finite.
            VersionNotFoundError: there is no such parent.
            CorruptVersionError: a parent's manifest is missing or altered.
        """
        tensors, fields = codec.encode_state(state, golden)
        data = codec.pack(tensors)
        with self._locked("publishing"):
            journal = self._reconcile()
            if (done := self._published(provenance, parent)) is not None:
                return self.manifest(done)
            number = policy.next_number(self.version_ids(), journal.entries)
            other = provenance.other_parent
            said = provenance.model_dump(exclude={"who", "reason", "libraries"})
            unnamed = Manifest(
                **fields,
                **said,
                version_id="",
                number=number,
                parent=parent,
                parent_content_digest=None if parent is None else self.manifest(parent).content_digest,
                other_parent_content_digest=None if other is None else self.manifest(other).content_digest,
                created_at=self._clock(),
                libraries=provenance.libraries or installed_libraries(),
                tensors_sha256=codec.sha256(data),
                content_digest="",
                manifest_sha256="",
            )
            digest = codec.content_digest(tensors, unnamed)
            version_id = policy.version_id_of(number, digest)
            blank = unnamed.model_copy(update={"version_id": version_id, "content_digest": digest})
            written = codec.pack_manifest(blank)
            manifest = codec.unpack_manifest(written, version_id)
            self._write_version(version_id, data, written)
            lines = [policy.Line("publish", parent, version_id, provenance.reason)]
            if reasons := reasons_of(manifest):
                lines.append(policy.Line("hold", parent, version_id, "; ".join(reasons)))
            try:
                self._append(journal, lines, provenance.who)
            except StoreError:
                with contextlib.suppress(OSError):
                    self._take_away(version_id)
                raise
        logger.info("published version %s", version_id)
        return manifest

    def promote(
        self,
        version_id: VersionId,
        *,
        expected: VersionId | None,
        who: str,
        reason: str = "",
        after_moves: int | None = None,
        anyway: bool = False,
    ) -> None:
        """Make `version_id` CURRENT if CURRENT is `expected` (None: not set). Does nothing if it already is CURRENT.

        With `anyway` a held version is promoted too, and is not held any more.

        With `after_moves`, what `moves` returned when this was asked for, a caller that was stopped for a while does
        not move CURRENT against a move that came after it.

        Raises:
            VersionNotFoundError: there is no such version.
            CorruptVersionError: the version fails verification.
            HeldError: the gate held the version, and `anyway` is not set.
            ConflictError: CURRENT is neither `expected` nor `version_id`, or was moved since `after_moves`.
        """
        policy.check_version_id(version_id)
        with self._locked("promoting"):
            actual = self.current()
            if version_id == actual:
                return
            policy.check_expected(expected, actual)
            self._check_not_moved(after_moves, actual)
            if not anyway:
                self.check_not_held(version_id)
            elif self.held(self.manifest(version_id)):
                reason = f"{PROMOTED_ANYWAY}{reason}"
            self._move("promote", actual, version_id, who, reason)

    def rollback(
        self,
        version_id: VersionId | None,
        *,
        who: str,
        reason: str,
        expected: VersionId | None = None,
        after_moves: int | None = None,
    ) -> VersionId:
        """Make a version CURRENT again; None: the parent of CURRENT.

        This works even if CURRENT or its parent cannot be read; see `rollback_target`. Does nothing if the version
        already is CURRENT.

        Args:
            version_id: the version to go to.
            who: recorded in the journal.
            reason: recorded in the journal.
            expected: what CURRENT must be; None: anything.
            after_moves: as in `promote`.

        Returns:
            The version in CURRENT now.

        Raises:
            VersionNotFoundError: there is no such version.
            NothingToRollBackToError: no version was named, and there is none before CURRENT.
            HeldError: the gate held the version, and it was never served, so this would not be a way back.
            CorruptVersionError: the version fails verification. Nothing moved.
            ConflictError: CURRENT is not `expected`, or was moved since `after_moves`.
        """
        if version_id is not None:
            policy.check_version_id(version_id)
        with self._locked("rolling back"):
            actual = self.readable_current()
            if expected is not None:
                policy.check_expected(expected, actual)
            if version_id is None:
                version_id = self.rollback_target()
            if version_id != actual:
                self._check_not_moved(after_moves, actual)
                self.check_not_held(version_id)
                self._move("rollback", actual, version_id, who, reason)
        return version_id

    def prune(
        self,
        keep: int,
        *,
        who: str = "keepsight",
        reason: str = "",
        needed: Callable[[], Mapping[VersionId, str]] = dict,
        dry_run: bool = False,
    ) -> Pruning:
        """Remove old versions. `policy.why_kept` says which stay; pinned and unreadable versions stay too.

        Args:
            keep: how many steps back stay possible, at least 1.
            who: recorded in the journal.
            reason: recorded in the journal.
            needed: returns what else stays, and why. It is called under the store's lock, so that nothing is published
                between its answer and the removal.
            dry_run: remove nothing.

        Raises:
            ValueError: `keep` is below 1.
            CorruptVersionError: CURRENT or one of its ancestors cannot be read, so it is not known what is needed.
            StoreError: the journal is damaged, so it is not known what is pinned.
        """
        with self._locked("pruning"):
            journal = self._reconcile()
            if journal.damaged:
                raise StoreError(f"{self._journal}: lines {journal.damaged} cannot be read, pins may be among them")
            lineage, manifests = self.lineage(), self._manifests()
            kept = {
                **{version: "cannot be read" for version, manifest in manifests.items() if manifest is None},
                **dict(needed()),
                # their tasks may still be trained on it
                **dict.fromkeys(policy.stood_on(lineage), "instant versions stand on it"),
                **dict.fromkeys(policy.pinned_versions(journal.entries), "pinned"),
                **policy.why_kept(parents_of(manifests), current=self.current(), keep=keep),
            }
            removed: dict[VersionId, int] = {}
            for version_id in manifests:
                if version_id in kept:
                    continue
                size = self.size(version_id)
                if not dry_run:
                    with writing(f"removing version {version_id}"):
                        self._take_away(version_id)
                    journal = self._record(journal, "prune", version_id, None, who, reason)
                removed[version_id] = size
        return Pruning(removed, {version: why for version, why in kept.items() if version in manifests})

    def pin(self, version_id: VersionId, *, who: str, reason: str = "") -> None:
        """Keep a version from being pruned.

        Raises:
            VersionNotFoundError: there is no such version.
            CorruptVersionError: its manifest is missing or altered.
        """
        policy.check_version_id(version_id)
        with self._locked("pinning"):
            self.manifest(version_id)
            journal = self._reconcile()
            if version_id not in policy.pinned_versions(journal.entries):
                self._record(journal, "pin", None, version_id, who, reason)

    def unpin(self, version_id: VersionId, *, who: str, reason: str = "") -> None:
        """Let a version be pruned again. Does nothing if it is not pinned."""
        policy.check_version_id(version_id)
        with self._locked("unpinning"):
            journal = self._reconcile()
            if version_id in policy.pinned_versions(journal.entries):
                self._record(journal, "unpin", version_id, None, who, reason)

    def change_gate(self, changes: Mapping[str, object], *, who: str, reason: str = "") -> GatePolicy:
        """Change fields of the gate's policy (None: back to the default), and record in the journal who did.

        A damaged file is replaced: the changes apply to the defaults. The policy judges versions that are published
        from now on; what was held stays held.

        Returns:
            The policy in force now.

        Raises:
            ValidationError: a field is unknown, or a value is out of range. Nothing was changed.
        """
        with self._locked("changing the gate"):
            setting = self.gate()
            after = setting.policy.changed(changes)
            said = differences(setting.policy, after)
            if said or setting.source == "damaged":
                why = "; ".join(part for part in (said or "the damaged file was replaced", reason) if part)
                self._replace_policy(self.root / GATE_FILE, write_policy(after), who, why)
        if said:
            logger.info("the gate was changed by %s: %s", who, said)
        return after

    def _published(self, provenance: Provenance, parent: VersionId | None) -> VersionId | None:
        if provenance.job_id is None:
            return None
        if provenance.made not in PUT_AGAIN:
            return self.version_of_job(provenance.job_id)
        made = self.made_of_job(provenance.job_id, provenance.made)
        return next((manifest.version_id for manifest in made if manifest.parent == parent), None)

    def _check_not_moved(self, after_moves: int | None, actual: VersionId | None) -> None:
        if after_moves is not None and self.moves() != after_moves:
            raise MovedMeanwhileError(actual)

    @contextlib.contextmanager
    def lineage_lock(self, timeout_s: float = -1) -> Iterator[None]:
        """Hold the lock of one update at a time, from reading CURRENT to promoting its child, across all processes.

        The operating system releases it when the holder dies. It does not keep an operator from rolling back
        meanwhile; `promote` detects that by its `expected`.

        Args:
            timeout_s: how long to wait; negative: for ever.

        Raises:
            StoreBusyError: another update held the lock for that long.
        """
        with self._file_lock("lineage.lock", timeout_s, "another update held the lock of this store's lineage"):
            yield

    @contextlib.contextmanager
    def top_lock(self, timeout_s: float = -1) -> Iterator[None]:
        """Hold the lock of whoever puts a version on top of CURRENT, for seconds. Taken inside `lineage_lock`, if both.

        Args:
            timeout_s: how long to wait; negative: for ever.

        Raises:
            StoreBusyError: another process held the lock for that long.
        """
        with self._file_lock("top.lock", timeout_s, "another process was putting a version on top of CURRENT"):
            yield


def bootstrap(
    store: Store,
    state: LearnerState,
    *,
    provenance: Provenance | None = None,
    golden: GoldenAnswers | None = None,
    timeout_s: float = LOCK_TIMEOUT_S,
) -> VersionId:
    """Publish and promote `state` as the first version, unless the store has a CURRENT. Safe to call concurrently.

    Returns:
        CURRENT: the new version, or the one that was there.

    Raises:
        DamagedPointerError: CURRENT cannot be read; or the store has versions but no CURRENT, and no interrupted
            bootstrap explains them. An operator must choose the one to serve, by a rollback to it.
        StoreBusyError: another process held the lineage lock for `timeout_s`.
    """
    provenance = provenance or Provenance()
    if (current := store.current()) is not None:
        return current
    with store.lineage_lock(timeout_s):
        if (current := store.current()) is not None:
            return current
        present = store.list()
        if any(manifest.parent or manifest.tasks != state.tasks for manifest in present):
            raise DamagedPointerError(f"{store.root} has versions but no CURRENT; roll back to the version to serve")
        same = [manifest for manifest in present if manifest.weights_digest == state.weights_digest]
        first = same[-1] if same else store.publish(state, parent=None, provenance=provenance, golden=golden)
        store.promote(first.version_id, expected=None, who=provenance.who, reason=provenance.reason)
    return first.version_id
