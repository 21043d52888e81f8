"""The store's rules, without I/O: valid version ids, what may be pruned, what the journal must explain."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import takewhile

from model_store.types import (
    PUT_AGAIN,
    Action,
    ConflictError,
    InvalidVersionIdError,
    JournalEntry,
    Manifest,
    NoCommonAncestorError,
    VersionId,
)

DIGEST_DIGITS = 12

_VERSION_ID = re.compile(r"[0-9]{6,12}-[0-9a-f]{12}")
MOVES = ("promote", "rollback", "recover")
"""The actions of journal lines that say where CURRENT is."""
NOTHING_HELD: Mapping[VersionId, str] = {}


def check_version_id(text: str) -> VersionId:
    """Return `text` if it is a valid version id.

    Raises:
        InvalidVersionIdError: it is anything else, such as a path.
    """
    if not _VERSION_ID.fullmatch(text):
        raise InvalidVersionIdError(text)
    return text


def is_version_id(text: str) -> bool:
    """Return whether `text` is a valid version id."""
    return _VERSION_ID.fullmatch(text) is not None


def number_of(version_id: VersionId) -> int:
    """Return the number in a valid version id."""
    return int(version_id.partition("-")[0])


def version_id_of(number: int, content_digest: str) -> VersionId:
    """Return the id of version `number` (from 1) with this content digest (hex)."""
    return check_version_id(f"{number:06d}-{content_digest[:DIGEST_DIGITS]}")


def next_number(present: Iterable[VersionId], entries: Iterable[JournalEntry]) -> int:
    """Return one more than the highest number of any present or journalled version: numbers are never reused."""
    named = (version for entry in entries for version in (entry.from_, entry.to) if version and is_version_id(version))
    return max((number_of(version) for version in (*present, *named)), default=0) + 1


def ancestors(version_id: VersionId, parents: Mapping[VersionId, VersionId | None]) -> tuple[VersionId, ...]:
    """Return the parent, grandparent, ... of a version, as far as they are in `parents` (of the present versions).

    Ends at the first version and at one that was pruned. A parent always has a lower number; one that does not is
    not followed, so that no content of a store causes an endless loop.
    """
    chain: list[VersionId] = []
    here = version_id
    while (parent := parents.get(here)) is not None and parent in parents and number_of(parent) < number_of(here):
        chain.append(parent)
        here = parent
    return tuple(chain)


def learned_in(version_id: VersionId, parents: Mapping[VersionId, Sequence[VersionId]]) -> frozenset[VersionId]:
    """Return the version and all that it was made of, by every parent, as far as they are in `parents`."""
    found: set[VersionId] = set()
    here = [version_id]
    while here:
        version = here.pop()
        if version in parents and version not in found:
            found.add(version)
            here += parents[version]
    return frozenset(found)


def common_ancestor(ours: VersionId, theirs: VersionId, parents: Mapping[VersionId, Sequence[VersionId]]) -> VersionId:
    """Return the version that two others were both begun on: of what both contain, the one that contains the rest.

    Raises:
        NoCommonAncestorError: there is none, since it was pruned or the two were merged crosswise before; or one of the
            two contains the other, so there is nothing to merge.
    """
    mine, other = learned_in(ours, parents), learned_in(theirs, parents)
    if theirs in mine or ours in other:
        inner, outer = (theirs, ours) if theirs in mine else (ours, theirs)
        what = "the same version was named twice" if ours == theirs else f"{outer} contains {inner} already"
        raise NoCommonAncestorError(f"there is nothing to merge: {what}")
    common = mine & other
    found = [version for version in common if common <= learned_in(version, parents)]
    if not found:
        why = (
            "more than one version is the last that both contain" if common else "no version that both contain is left"
        )
        raise NoCommonAncestorError(f"{ours} and {theirs} cannot be merged: {why}")
    return found[0]


def why_kept(
    parents: Mapping[VersionId, VersionId | None], *, current: VersionId | None, keep: int
) -> dict[VersionId, str]:
    """Return the versions that stay whatever else needs them, and why.

    These are CURRENT; its nearest `keep` ancestors (so that at least `keep` steps back remain possible); and the `keep`
    newest versions by number (one of them may be published and not promoted yet).

    Args:
        parents: the parent of every present version.
        current: the version in CURRENT.
        keep: at least 1.

    Raises:
        ValueError: `keep` is below 1.
    """
    if keep < 1:
        raise ValueError(f"keep is {keep}, expected at least 1: a rollback needs the version before")
    kept = dict.fromkeys(sorted(parents, key=age)[-keep:], f"one of the {keep} newest")
    if current is not None:
        kept |= dict.fromkeys(ancestors(current, parents)[:keep], f"one of the {keep} before CURRENT")
        kept[current] = "CURRENT"
    return {version: why for version, why in kept.items() if version in parents}


def stood_on(lineage: Sequence[Manifest]) -> tuple[VersionId, ...]:
    """Return the instant versions that a lineage begins with, edits above and between them, and what they stand on.

    Args:
        lineage: a version, its parent, and so on.
    """
    above = enumerate(takewhile(lambda manifest: manifest.made in PUT_AGAIN, lineage))
    lowest = max((at for at, manifest in above if manifest.is_instant), default=-2)
    return tuple(manifest.version_id for manifest in lineage[: lowest + 2])


def needed_to_merge(
    ours: VersionId, theirs: VersionId, parents: Mapping[VersionId, Sequence[VersionId]]
) -> frozenset[VersionId]:
    """Return the two versions, the last that both contain, and what lies between: without these it cannot be found."""
    both = learned_in(ours, parents) | learned_in(theirs, parents)
    try:
        ancestor = common_ancestor(ours, theirs, parents)
    except NoCommonAncestorError:
        return both
    return both - learned_in(ancestor, parents) | {ancestor}


def current_since(entries: Iterable[JournalEntry], moment: datetime) -> frozenset[VersionId]:
    """Return the versions that CURRENT named at `moment` or later."""
    named: set[VersionId] = set()
    for entry in entries:
        if entry.action in MOVES:
            if entry.at <= moment:
                named.clear()
            if entry.to is not None:
                named.add(entry.to)
    return frozenset(named)


def check_expected(expected: VersionId | None, actual: VersionId | None) -> None:
    """Check that CURRENT is what the caller expected, before it is replaced.

    Raises:
        ConflictError: it is not.
    """
    if expected != actual:
        raise ConflictError(expected, actual)


def served_before(entries: Iterable[JournalEntry], present: Collection[VersionId]) -> list[VersionId]:
    """Return the present versions that CURRENT was moved to, the last one first."""
    named = [entry.to for entry in entries if entry.action in MOVES and entry.to is not None]
    return [version for version in dict.fromkeys(reversed(named)) if version in present]


def rollback_targets(
    current: VersionId | None, parents: Mapping[VersionId, VersionId | None], served: Sequence[VersionId]
) -> tuple[VersionId, ...]:
    """Return where a rollback that names no version may go: the best first, the others where that is damaged.

    That is the parent of CURRENT, and its parent, as far as the lineage can be read; then the versions before CURRENT
    that were served, the last one first. Where CURRENT itself cannot be read, it is the versions that were served.

    Args:
        current: the version in CURRENT; None if it is not set or cannot be read.
        parents: the parent of every version whose manifest can be read.
        served: the present versions that were CURRENT, the last one first.
    """
    if current is None:
        return tuple(served)
    if current in parents and parents[current] is None:
        return ()
    lineage = ancestors(current, parents)
    return (*lineage, *(v for v in served if v not in lineage and number_of(v) < number_of(current)))


def moves_in(entries: Iterable[JournalEntry]) -> int:
    """Return the number of promotions and rollbacks, completed or not."""
    return sum(entry.action in ("promote", "rollback") for entry in entries)


def pinned_versions(entries: Iterable[JournalEntry]) -> frozenset[VersionId]:
    """Return the versions that were pinned, and neither unpinned nor pruned since."""
    pinned: set[VersionId] = set()
    for entry in entries:
        if entry.action == "pin" and entry.to is not None:
            pinned.add(entry.to)
        elif entry.action in ("unpin", "prune") and entry.from_ is not None:
            pinned.discard(entry.from_)
    return frozenset(pinned)


@dataclass(frozen=True)
class Line:
    """A journal line without its author and time."""

    action: Action
    from_: VersionId | None
    to: VersionId | None
    reason: str


def not_surely_explained(entries: Sequence[JournalEntry], present: Sequence[VersionId]) -> tuple[VersionId, ...]:
    """Return the present versions of which the journal may say too little, so that their manifests must be read.

    Those are the ones that it does not name, and the last one if its line is the last: a process that was interrupted
    may have written that a version was published, and not why it is held.
    """
    known = _published(entries)
    if entries and entries[-1].action == "publish":
        known.discard(entries[-1].to or "")
    return tuple(version for version in present if version not in known)


def _published(entries: Sequence[JournalEntry]) -> set[VersionId]:
    """Return the versions that were published and not pruned since."""
    known: set[VersionId] = set()
    for entry in entries:
        if entry.action == "publish" and entry.to is not None:
            known.add(entry.to)
        elif entry.action == "prune" and entry.from_ is not None:
            known.discard(entry.from_)
    return known


def unexplained(
    entries: Sequence[JournalEntry],
    parents: Mapping[VersionId, VersionId | None],
    current: VersionId | None,
    held: Mapping[VersionId, str] = NOTHING_HELD,
) -> tuple[Line, ...]:
    """Return the lines that make the journal agree with the disk again, after a process was interrupted.

    The disk is authoritative. A move is written to the journal before CURRENT is replaced, so that who and why are
    never lost; if the process ended between the two, the move did not happen and a `recover` line says so. A publish
    or prune is written after the folder was added or removed.

    Args:
        entries: the journal, oldest first.
        parents: the present versions, with the parent of those that are `not_surely_explained` (None if its manifest
            cannot be read).
        current: the version in CURRENT.
        held: why the gate held those, as their manifests say.
    """
    known = _published(entries)
    known_held = {entry.to for entry in entries if entry.action == "hold"}
    said = next((entry.to for entry in reversed(entries) if entry.action in MOVES), None)
    appeared = sorted(parents.keys() - known, key=age)
    gone = sorted(known - parents.keys(), key=age)
    lines = [
        Line("publish", parents[version], version, "found on disk without a line in the journal")
        for version in appeared
    ]
    lines += [
        Line("hold", parents[version], version, held[version])
        for version in sorted(held.keys() & parents.keys() - known_held, key=age)
    ]
    lines += [Line("prune", version, None, "in the journal, and no longer on disk") for version in gone]
    if said != current:
        lines.append(Line("recover", said, current, "the move to `from` was not completed, or CURRENT was set by hand"))
    return tuple(lines)


def age(version_id: VersionId) -> tuple[int, VersionId]:
    """Return a key that sorts versions by number, the oldest first."""
    return (number_of(version_id), version_id) if is_version_id(version_id) else (0, version_id)
