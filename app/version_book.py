"""All versions of a store as people look at them: lineage, what each is, and what differs between two."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from exchange.contracts import GateCheck, GateResult
from model_store.gate import REPORT_KEY
from model_store.naming import Naming, translate
from model_store.store import Store
from model_store.types import (
    Manifest,
    VersionId,
    VersionNotFoundError,
)


@dataclass(frozen=True)
class VersionLine:
    """A version in the list. `held_because` is empty unless the gate holds it."""

    manifest: Manifest
    is_current: bool
    pinned: bool
    held_because: tuple[str, ...]
    in_lineage: bool

    @property
    def accuracy(self) -> float | None:
        """The fused accuracy that was measured when it was made."""
        overall = (self.manifest.evaluation or {}).get("overall")
        value = overall.get("fused") if isinstance(overall, dict) else None
        return float(value) if isinstance(value, int | float) else None

    @property
    def shown_as(self) -> str:
        """How it was made, or `held`; `first` of a version that nothing made."""
        return "held" if self.held_because else self.manifest.made or "first"

    @property
    def dataset_name(self) -> str | None:
        """The name of what was taught; None where nothing says it."""
        return None if self.manifest.dataset is None else self.manifest.dataset.name

    @property
    def held_by(self) -> tuple[GateCheck | str, ...]:
        """What holds it: the check of each reason, or the reason itself where no check has it."""
        gate = gate_of(self.manifest) if self.held_because else None
        checks = {} if gate is None else {check.reason: check for check in gate.checks if check.passed is False}
        return tuple(checks.get(reason, reason) for reason in self.held_because)


@dataclass(frozen=True)
class Book:
    """All versions, newest first, the damaged ones with what is wrong, and CURRENT."""

    lines: tuple[VersionLine, ...]
    damaged: Mapping[VersionId, str]
    current: VersionId | None

    def line(self, version_id: VersionId) -> VersionLine:
        """Return a version.

        Raises:
            VersionNotFoundError: there is no such version, or it is damaged.
        """
        for line in self.lines:
            if line.manifest.version_id == version_id:
                return line
        raise VersionNotFoundError(version_id)


def lineage_of(manifests: Iterable[Manifest], version_id: VersionId | None) -> tuple[Manifest, ...]:
    """Return a version, its parent, and so on, as far as they are among the manifests."""
    known = {manifest.version_id: manifest for manifest in manifests}
    chain: dict[VersionId, Manifest] = {}
    while version_id is not None and version_id in known and version_id not in chain:
        chain[version_id] = known[version_id]
        version_id = known[version_id].parent
    return tuple(chain.values())


class VersionBook:
    """Reads the versions of a store. Thread-safe."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def read(self) -> Book:
        """Return all versions. Reads the store: run it in a thread."""
        survey = self._store.survey()
        found = {m.version_id: m for m in survey.readable if m.version_id not in survey.damaged}
        current, pinned = self._store.readable_current(), self._store.pinned()
        held = self._store.held(*found.values())
        above = {manifest.version_id for manifest in lineage_of(found.values(), current)}
        lines = [
            VersionLine(
                manifest,
                is_current=version == current,
                pinned=version in pinned,
                held_because=held.get(version, ()),
                in_lineage=version in above,
            )
            for version, manifest in found.items()
        ]
        return Book(tuple(reversed(lines)), survey.damaged, current)


def gate_of(manifest: Manifest) -> GateResult | None:
    """Return what the gate found when a version was made; None for one that it did not judge."""
    found = (manifest.report or {}).get(REPORT_KEY)
    return None if found is None else GateResult.model_validate(found)


@dataclass(frozen=True)
class Changes:
    """What differs between two versions, the older first. Classes have the names of the version that has them."""

    added: tuple[str, ...]
    removed: tuple[str, ...]
    renamed: tuple[tuple[str, str], ...]
    more_images: tuple[tuple[str, int, int], ...]
    new_prompts: tuple[tuple[str, str, str], ...]
    settings: tuple[tuple[str, object, object], ...]
    steps: tuple[Manifest, ...]


def changes_between(manifests: Iterable[Manifest], older: Manifest, newer: Manifest) -> Changes:
    """Return what differs between two versions, and the versions between them if one was made of the other."""
    every = tuple(manifests)
    before, after = lineage_of(every, older.version_id), lineage_of(every, newer.version_id)
    was = {known.name: known for known in older.classes}
    now = {known.name: known for known in newer.classes}
    called = translate(was, Naming.of(before), Naming.of(after))
    both = {old: called[old] for old in was if called[old] in now}
    renamed_to = set(both.values())
    images: Counter[str] = Counter()
    for old, new in both.items():
        images[new] += was[old].images  # of a merged class, what its parts had together
    versions = [manifest.version_id for manifest in after]
    steps = after[: versions.index(older.version_id)] if older.version_id in versions else ()
    names = sorted({*older.settings, *newer.settings})
    return Changes(
        added=tuple(name for name in now if name not in renamed_to),
        removed=tuple(name for name in was if name not in both),
        renamed=tuple((old, new) for old, new in both.items() if old != new),
        more_images=tuple(
            (name, count, now[name].images) for name, count in images.items() if count != now[name].images
        ),
        new_prompts=tuple(
            (new, was[old].prompt, now[new].prompt)
            for old, new in both.items()
            if was[old].prompt != now[new].prompt and old == new
        ),
        settings=tuple(
            (name, older.settings.get(name), newer.settings.get(name))
            for name in names
            if older.settings.get(name) != newer.settings.get(name)
        ),
        steps=tuple(reversed(steps)),
    )
