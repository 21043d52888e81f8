"""Files that are damaged, gone or not allowed: what can be read is read, and a rollback finds its way."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from model_store.store import Store, bootstrap
from model_store.types import (
    CorruptVersionError,
    DamagedPointerError,
    MovedMeanwhileError,
    NothingToRollBackToError,
    StoreBusyError,
    StoreError,
    VersionId,
)
from tests.unit.model_store.test_store import NOBODY, flip, grow, learned


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def as_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()
    (path / "junk").write_text("x")


def as_a_link_to_itself(path: Path) -> None:
    path.unlink()
    path.symlink_to(path)


DAMAGE: dict[str, Callable[[Path], object]] = {
    "garbage": lambda path: path.write_bytes(b"\xff\xfe\x00garbage" * 1000),
    "empty": lambda path: path.write_bytes(b""),
    "a path": lambda path: path.write_text("../../etc/passwd\n"),
    "two lines": lambda path: path.write_text("000001-0123456789ab\n000002-0123456789ab\n"),
    "a folder": as_a_folder,
    "a link to itself": as_a_link_to_itself,
}


@pytest.mark.parametrize("how", DAMAGE)
def test_a_damaged_current_is_told_and_a_rollback_repairs_it(store: Store, how: str) -> None:
    first, second = grow(store, 2)
    DAMAGE[how](store.root / "CURRENT")
    with pytest.raises(DamagedPointerError, match="roll back to a named version"):
        store.current()
    assert store.readable_current() is None
    assert store.served_before() == [second, first]
    assert [manifest.version_id for manifest in store.list()] == [first, second]
    with pytest.raises(DamagedPointerError):
        bootstrap(store, learned(0))
    with pytest.raises(DamagedPointerError):
        store.promote(first, expected=second, who="ann")
    assert store.rollback(None, who="ann", reason="repair") == second
    assert store.current() == second
    assert store.rollback(None, who="ann", reason="") == first


@pytest.mark.parametrize("file", ["manifest.json", "tensors.safetensors"])
@pytest.mark.parametrize("how", ["flipped", "cut", "empty", "gone", "a folder"])
def test_a_damaged_version_is_listed_with_its_reason_and_rolled_back_from_and_past(
    store: Store, file: str, how: str
) -> None:
    first, second, third = grow(store, 3)
    for version_id in (second, third):
        path = store.root / "versions" / version_id / file
        if how == "flipped":
            flip(path)
        elif how == "cut":
            os.truncate(path, path.stat().st_size // 2)
        elif how == "empty":
            path.write_bytes(b"")
        elif how == "gone":
            path.unlink()
        else:
            as_a_folder(path)
    damaged = store.survey().damaged
    if (file, how) == ("tensors.safetensors", "flipped"):  # only its checksum shows it, which a list does not compute
        assert damaged == {}
    else:
        assert set(damaged) == {second, third}
        assert all(reason.startswith(file) for reason in damaged.values())
    with pytest.raises(CorruptVersionError):
        store.open(third)
    assert store.rollback_target() == first
    assert store.rollback(None, who="ann", reason="") == first
    with pytest.raises(NothingToRollBackToError):
        store.rollback_target()


def test_versions_that_are_gone_are_rolled_back_past(store: Store) -> None:
    first, second, third = grow(store, 3)
    for version_id in (second, third):
        shutil.rmtree(store.root / "versions" / version_id)
    assert store.current() == third
    assert store.survey().damaged == {}
    assert store.rollback(None, who="ann", reason="") == first


@pytest.mark.parametrize("how", ["gone", "a folder", "garbage", "cut"])
def test_a_damaged_journal_keeps_nothing_from_being_read(store: Store, how: str) -> None:
    first, second = grow(store, 2)
    identity, journal = store.identity(), store.root / "journal.jsonl"
    if how == "gone":
        journal.unlink()
    elif how == "a folder":
        as_a_folder(journal)
    elif how == "garbage":
        journal.write_bytes(b"\xff" * 100 + b"\n" + journal.read_bytes())
    else:
        os.truncate(journal, journal.stat().st_size - 10)
    assert store.current() == second
    assert len(store.list()) == 2
    assert len(store.identity()) == len(identity)
    assert store.pinned() == frozenset()
    assert store.rollback_target() == first
    if how == "a folder":
        with pytest.raises(StoreError, match="cannot be read"):
            store.rollback(None, who="ann", reason="")
        assert store.current() == second
    else:
        assert store.rollback(None, who="ann", reason="") == first


def test_a_store_whose_folders_are_gone_is_empty_and_not_an_error_to_read(store: Store) -> None:
    grow(store, 1)
    shutil.rmtree(store.root / "versions")
    assert store.list() == []
    assert store.served_before() == []
    with pytest.raises(NothingToRollBackToError):
        store.rollback_target()


def test_junk_in_the_temporary_folder_and_no_temporary_folder_at_all_do_no_harm(store: Store) -> None:
    (first,) = grow(store, 1)
    (store.root / "tmp" / "junk" / "deep").mkdir(parents=True)
    (store.root / "tmp" / "CURRENT-1").write_text("x")
    (second,) = grow(store, 1)
    assert list((store.root / "tmp").iterdir()) == []
    shutil.rmtree(store.root / "tmp")
    assert store.rollback(None, who="ann", reason="") == first
    shutil.rmtree(store.root / "tmp")
    store.publish(learned(seed=9), parent=second, provenance=NOBODY)


def test_a_lock_file_that_is_removed_while_it_is_held_lets_nobody_write_over_another(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = grow(store, 2)
    real = store.verify

    def removing(version_id: VersionId) -> None:
        (store.root / "store.lock").unlink()
        monkeypatch.setattr(store, "verify", real)
        other = Store(store.root)
        done = threading.Thread(target=lambda: other.pin(first, who="bob"))
        done.start()
        done.join()
        real(version_id)

    monkeypatch.setattr(store, "verify", removing)
    with pytest.raises(StoreBusyError, match="removed while it was held"):
        store.rollback(first, who="ann", reason="")
    assert store.current() == second
    assert [entry.action for entry in store.journal()][-1] == "pin"
    assert store.rollback(first, who="ann", reason="") == first


def test_a_mover_that_was_stopped_does_not_move_current_against_a_newer_move(store: Store) -> None:
    first, second = grow(store, 2)
    asked = store.moves()
    store.rollback(first, who="bob", reason="bad")
    store.promote(second, expected=first, who="bob")
    third = store.publish(learned(seed=7), parent=second, provenance=NOBODY).version_id
    with pytest.raises(MovedMeanwhileError, match="was moved"):
        store.promote(third, expected=second, who="ann", after_moves=asked)
    with pytest.raises(MovedMeanwhileError, match="was moved"):
        store.rollback(first, who="ann", reason="", after_moves=asked)
    assert store.current() == second
    store.promote(third, expected=second, who="ann", after_moves=store.moves())
    assert store.current() == third
