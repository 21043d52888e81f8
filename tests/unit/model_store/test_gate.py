"""The gate's policy on disk, and versions that it holds."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path

import pytest
from pydantic import ValidationError

from model_store.disk import Disk
from model_store.gate import GATE_FILE, GatePolicy
from model_store.store import Store, bootstrap
from model_store.types import HeldError, Provenance, StoreError, VersionId
from tests.contract.states import learned

WHY = ("own classes: 0 of 16 images are right", "old classes: 3 of 80 are right")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def first(store: Store) -> VersionId:
    return bootstrap(store, learned(0))


def publish(store: Store, parent: VersionId, reasons: Sequence[str], classes: int = 1) -> VersionId:
    report = {"gate": {"enabled": True, "checks": [], "held_because": list(reasons)}}
    return store.publish(learned(classes), parent=parent, provenance=Provenance(who="ann", report=report)).version_id


def test_the_policy_is_the_defaults_until_it_is_changed(store: Store, first: VersionId) -> None:
    setting = store.gate()
    assert (setting.policy, setting.source, setting.problem) == (GatePolicy(), "defaults", None)
    changed = store.change_gate({"min_accuracy": 0.5, "check_flat": False}, who="ada", reason="strict")
    assert (changed.min_accuracy, changed.check_flat) == (0.5, False)
    assert store.gate().policy == changed
    assert store.gate().source == "file"
    last = store.journal()[-1]
    assert (last.action, last.from_, last.to, last.who) == ("gate", None, None, "ada")
    assert last.reason == "min_accuracy 0.2 -> 0.5, check_flat true -> false; strict"
    assert store.change_gate({"min_accuracy": None}, who="ada").min_accuracy == 0.2
    assert store.gate().policy.check_flat is False


def test_a_change_that_changes_nothing_is_not_written(store: Store, first: VersionId) -> None:
    before = store.journal()
    store.change_gate({"min_accuracy": 0.2}, who="ada")
    assert store.journal() == before
    assert not (store.root / GATE_FILE).exists()


@pytest.mark.parametrize(
    "changes",
    [{"min_accurracy": 0.5}, {"min_accuracy": 1.5}, {"enabled": "no"}, {"few_images": 1.5}, {"max_drop": float("nan")}],
)
def test_what_is_unknown_or_out_of_range_is_refused(store: Store, first: VersionId, changes: dict[str, object]) -> None:
    before = store.journal()
    with pytest.raises(ValidationError):
        store.change_gate(changes, who="ada")
    assert store.journal() == before
    assert store.gate().source == "defaults"


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"\xff", b'{"enabled": false, "typo": 1}', b'{"max_drop": 7}', b" " * 70_000, b"[" * 60_000],
)
def test_a_damaged_file_means_the_defaults_and_is_told(
    store: Store, first: VersionId, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    (store.root / GATE_FILE).write_bytes(content)
    with caplog.at_level(logging.WARNING):
        setting = store.gate()
    assert (setting.policy, setting.source) == (GatePolicy(), "damaged")
    assert setting.problem is not None
    assert GATE_FILE in setting.problem
    assert "defaults are used" in caplog.text
    store.change_gate({}, who="ada")
    assert store.gate().source == "file"
    assert store.journal()[-1].reason == "the damaged file was replaced"


def test_a_write_that_fails_leaves_policy_and_journal_as_they_were(
    store: Store, first: VersionId, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.change_gate({"min_accuracy": 0.4}, who="ada")
    before = store.journal()
    whole = Disk.rename

    def fail(self: Disk, source: Path, target: Path) -> None:
        if target.name == GATE_FILE:
            raise OSError(5, "Input/output error")
        whole(self, source, target)

    with monkeypatch.context() as patch:
        patch.setattr(Disk, "rename", fail)
        with pytest.raises(StoreError):
            store.change_gate({"min_accuracy": 0.6}, who="ada")
    assert store.gate().policy.min_accuracy == 0.4
    assert store.journal() == before
    assert list((store.root / "tmp").iterdir()) == []


def test_a_version_that_did_not_pass_is_held_and_the_journal_says_why(store: Store, first: VersionId) -> None:
    passed = publish(store, first, ())
    held = publish(store, first, WHY, classes=2)
    assert store.held(*store.list()) == {held: WHY}
    last = store.journal()[-1]
    assert (last.action, last.from_, last.to, last.who, last.reason) == ("hold", first, held, "ann", "; ".join(WHY))
    assert [entry.to for entry in store.journal() if entry.action == "hold"] == [held]
    for move in (
        lambda: store.promote(held, expected=first, who="ada"),
        lambda: store.rollback(held, who="ada", reason="back"),
    ):
        with pytest.raises(HeldError, match="own classes: 0 of 16") as caught:
            move()
        assert caught.value.reasons == WHY
    assert store.current() == first
    store.promote(passed, expected=first, who="ada")


def test_a_held_version_that_was_promoted_anyway_is_free_ever_after(store: Store, first: VersionId) -> None:
    held = publish(store, first, WHY)
    store.promote(held, expected=first, who="ada", reason="it is a test", anyway=True)
    assert store.journal()[-1].reason == "held, promoted anyway: it is a test"
    assert store.held(*store.list()) == {}
    store.rollback(first, who="ada", reason="no")
    store.promote(held, expected=first, who="ada")
    store.rollback(first, who="ada", reason="no")
    assert store.rollback(held, who="ada", reason="yes") == held


def test_anyway_is_not_mentioned_where_nothing_is_held(store: Store, first: VersionId) -> None:
    passed = publish(store, first, ())
    store.promote(passed, expected=first, who="ada", reason="fine", anyway=True)
    assert store.journal()[-1].reason == "fine"


@pytest.mark.parametrize("lost", ["both lines", "the line of the hold"])
def test_a_hold_without_its_line_is_held_and_gets_its_line(store: Store, first: VersionId, lost: str) -> None:
    """The process may end between the version's rename and the journal, or while it writes the second line."""
    held = publish(store, first, WHY)
    path = store.root / "journal.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    assert json.loads(lines[-1])["action"] == "hold"
    path.write_bytes(b"".join(lines[: -2 if lost == "both lines" else -1]))
    with pytest.raises(HeldError):
        store.promote(held, expected=first, who="ada")
    store.pin(first, who="ada")
    holds = [entry for entry in store.journal() if entry.action == "hold"]
    assert [(entry.to, entry.who, entry.reason) for entry in holds] == [(held, "store", "; ".join(WHY))]


def test_a_version_of_a_release_without_a_gate_is_not_held(store: Store, first: VersionId) -> None:
    for report in (None, {}, {"gate": None}, {"gate": {"held_because": None}}):
        version = store.publish(
            learned(1), parent=first, provenance=Provenance.model_validate({"report": report})
        ).version_id
        store.check_not_held(version)
