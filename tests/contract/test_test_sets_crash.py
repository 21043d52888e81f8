"""The writer of a test set is killed at every thing it does to the disk: the set is the old one or the new one."""

from __future__ import annotations

import shutil
from datetime import timedelta
from itertools import count, pairwise
from pathlib import Path

import pytest

from model_store.journal import read_journal
from model_store.store import Store, bootstrap
from model_store.test_sets import SourceImage, StoredTestSets
from model_store.types import CorruptTestSetError, NoSuchTestSetError
from tests.contract.states import learned
from tests.contract.test_store_crash import KILLED, MortalDisk, in_a_child

pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")


def images(folder: Path, *contents: str) -> list[SourceImage]:
    folder.mkdir(exist_ok=True)
    for content in contents:
        (folder / f"{content}.png").write_text(content)
    return [SourceImage(folder / f"{content}.png", 0) for content in contents]


def put(root: Path, sent: list[SourceImage], disk: MortalDisk | None = None) -> None:
    sets = StoredTestSets(root, disk=disk)
    sets.put("street", ("cat",), sent, who="ann", lifetime=timedelta(days=1))


def remove(root: Path, disk: MortalDisk | None = None) -> None:
    StoredTestSets(root, disk=disk).remove("street", who="ann", reason="asked for")


def content(root: Path) -> list[str] | None:
    """What the set holds, every byte checked; None if there is no set."""
    sets = StoredTestSets(root)
    try:
        return sorted(path.read_text() for path in sets.read(sets.get("street")).files)
    except NoSuchTestSetError:
        return None


def said(root: Path) -> str | None:
    """What the journal says that the set is."""
    entries = read_journal(root / "journal.jsonl")
    assert entries.damaged == ()
    lines = [line for line in entries.entries if line.action in ("put_test_set", "remove_test_set")]
    for before, after in pairwise(lines):
        assert after.from_ == before.to
    return lines[-1].to if lines else None


def check_goes_on(root: Path, sent: list[SourceImage]) -> None:
    """The next change succeeds, the journal agrees with the disk, and the next sweep leaves nothing besides."""
    put(root, sent)
    sets = StoredTestSets(root)
    stored = sets.get("street")
    assert said(root) == stored.reference
    for left in (root / "test-sets").glob(".*"):  # a writer that died an hour ago
        shutil.rmtree(left) if left.is_dir() else left.unlink()
    sets.sweep()
    assert sorted(path.name for path in (root / "test-sets").iterdir()) == sorted([stored.folder, "street.json"])


@pytest.mark.parametrize("power_cut", [False, True], ids=["kill", "power cut"])
@pytest.mark.parametrize("work", ["replace", "remove"])
def test_a_set_whose_writer_is_killed_is_the_old_one_or_the_new_one(tmp_path: Path, work: str, power_cut: bool) -> None:
    old, new = images(tmp_path / "old", "a", "b"), images(tmp_path / "new", "c", "d", "e")
    bootstrap(Store(tmp_path / "template"), learned(1))
    put(tmp_path / "template", old)
    wanted = ["c", "d", "e"] if work == "replace" else None
    seen = set()
    for last in count(1):
        root = tmp_path / str(last)
        shutil.copytree(tmp_path / "template", root)
        disk = MortalDisk(last, power_cut=power_cut)

        def change(store: Store, disk: MortalDisk = disk) -> None:
            put(store.root, new, disk) if work == "replace" else remove(store.root, disk)

        left = disk.left
        status = in_a_child(change, root, disk)
        assert status in (0, KILLED), (last, left)
        found = content(root)
        assert found in (["a", "b"], wanted)
        receipt = said(root) is None
        seen.add(found == wanted)
        StoredTestSets(root).sweep()
        if work == "remove" and receipt:
            assert content(root) is None, "there is a receipt, so the next sweep completes the removal"
        assert (said(root) is None) == (content(root) is None)
        check_goes_on(root, old)
        if status == 0:
            break
    assert last > (15 if work == "replace" else 4), "the disk was not in the way of every write"
    assert seen == {False, True}


def test_no_image_is_half_there_while_a_set_is_replaced(tmp_path: Path) -> None:
    """A reader that holds the old record finds all of its images, or learns that it is gone."""
    bootstrap(Store(tmp_path / "store"), learned(1))
    put(tmp_path / "store", images(tmp_path / "old", "a", "b"))
    sets = StoredTestSets(tmp_path / "store")
    before = sets.get("street")
    put(tmp_path / "store", images(tmp_path / "new", "c"))
    with pytest.raises((NoSuchTestSetError, CorruptTestSetError)):
        sets.read(before)
    assert content(tmp_path / "store") == ["c"]
