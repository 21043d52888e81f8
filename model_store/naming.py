"""What a class is called in another version: names are followed through the edits of lineages. Needs no torch.

A test set is labelled once, by the names of its day. A version that came from a rename, or from before one, has other
names for the same classes, and its answers are measured by those. A swap is left out on purpose: it says that two
classes were taught under each other's names, and a test set's labels were right before it as they are after it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cached_property
from typing import Self

from model_store import policy
from model_store.reader import StoreReader
from model_store.types import CorruptVersionError, JournalEntry, Manifest, VersionId, VersionNotFoundError
from segp_cl.class_edits import ClassEdit


@dataclass(frozen=True)
class _Step:
    version: VersionId | None
    made_at: datetime | None
    edit: ClassEdit | None


@dataclass(frozen=True)
class Naming:
    """How a version names its classes, and the edits by which it came to do so, oldest first."""

    classes: frozenset[str]
    steps: tuple[_Step, ...]

    @classmethod
    def of(cls, lineage: Sequence[Manifest]) -> Self:
        """Return the naming of the first version of a lineage: a version, its parent, and so on."""
        names = frozenset(known.name for known in lineage[0].classes) if lineage else frozenset()
        steps = [_Step(manifest.version_id, manifest.created_at, manifest.edit) for manifest in lineage]
        return cls(names, tuple(reversed(steps)))

    def then(self, classes: Collection[str], edit: ClassEdit | None) -> Naming:
        """Return that of a version that is about to be published on this one."""
        return replace(self, classes=frozenset(classes), steps=(*self.steps, _Step(None, None, edit)))


def translate(
    names: Iterable[str], source: Naming | None, target: Naming, *, since: datetime | None = None
) -> dict[str, str]:
    """Return what the target calls the classes that the source calls by these names. Other names stay as they are.

    Names go back to the last version that both lineages contain, and from there through the edits of the target. Of a
    merged class it cannot be told which of its parts an older version would call it, so its name stays.

    Args:
        names: the names.
        source: whose names they are; None: it is not known.
        target: who is to understand them.
        since: without a common version, edits of the target that were made before are passed over.
    """
    back, forth = _apart(source, target, since)
    if not back and not forth:
        return {name: name for name in names}
    involved = {name for edit in (*back, *forth) for name in (*edit.classes, edit.name) if name is not None}
    found: dict[str, str] = {}
    for name in names:
        before = [known for known in involved | {name} if _fate(known, back) == name] or [name]
        after = {_fate(known, forth) for known in before}
        known = after & target.classes
        # where the lineages do not decide between several classes, the name itself does
        found[name] = known.pop() if len(known) == 1 else name
    return found


class Namings:
    """How the versions of a store name their classes: journal and lineages are read once, while they are asked for."""

    def __init__(self, store: StoreReader) -> None:
        self._store = store
        self._known: dict[VersionId, Naming] = {}

    @cached_property
    def _moves(self) -> list[JournalEntry]:
        return [entry for entry in self._store.journal() if entry.action in policy.MOVES]

    def of(self, version: VersionId) -> Naming:
        """Return how a version names its classes. Where a version before it is damaged, no earlier edit is known.

        Raises:
            VersionNotFoundError: there is no such version.
            CorruptVersionError: its manifest is damaged.
        """
        if version not in self._known:
            self._known[version] = Naming.of(known_lineage(self._store, version))
        return self._known[version]

    def as_far_as_known(self, version: VersionId | None) -> Naming:
        """Return the same, and that of no classes where the version is pruned or damaged, or there is none."""
        try:
            return Naming.of(()) if version is None else self.of(version)
        except (VersionNotFoundError, CorruptVersionError):
            return Naming.of(())

    def current(self) -> Naming:
        """Return how CURRENT names its classes, as far as that is known."""
        return self.as_far_as_known(self._store.readable_current())

    def at(self, moment: datetime) -> Naming | None:
        """Return how the version that was CURRENT at a moment named its classes; None where it cannot be read."""
        before = [entry.to for entry in self._moves if entry.at <= moment]
        if not before or before[-1] is None:
            return None
        try:
            return self.of(before[-1])
        except (VersionNotFoundError, CorruptVersionError):
            return None


def known_lineage(store: StoreReader, version: VersionId) -> Sequence[Manifest]:
    """Return a version, its parent, and so on; the version alone where one before it is damaged.

    Raises:
        VersionNotFoundError: there is no such version.
        CorruptVersionError: its manifest is damaged.
    """
    try:
        return store.lineage(version)
    except CorruptVersionError:
        return [store.manifest(version)]


def _apart(source: Naming | None, target: Naming, since: datetime | None) -> tuple[list[ClassEdit], list[ClassEdit]]:
    """Return the edits of both since the last version that they have in common, oldest first."""
    ours = [step.version for step in target.steps]
    theirs = [] if source is None else [step.version for step in source.steps]
    shared = next((version for version in reversed(theirs) if version is not None and version in ours), None)
    if source is None or shared is None:
        after = [step for step in target.steps if since is None or step.made_at is None or step.made_at > since]
        return [], _edits(after)
    return _edits(source.steps[theirs.index(shared) + 1 :]), _edits(target.steps[ours.index(shared) + 1 :])


def _edits(steps: Iterable[_Step]) -> list[ClassEdit]:
    return [step.edit for step in steps if step.edit is not None and step.edit.kind in ("rename", "merge")]


def _fate(name: str, edits: Iterable[ClassEdit]) -> str:
    for edit in edits:
        if name in edit.classes and edit.name is not None:
            name = edit.name
    return name
