"""Test sets are stored whole or not at all, are bounded, and leave nothing but a receipt when they are removed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path

import pytest

from model_store.evaluations import Evaluations, PathAnswers, StoredEvaluation
from model_store.journal import read_journal
from model_store.store import Store, bootstrap
from model_store.test_sets import Limits, SourceImage, StoredTestSet, StoredTestSets
from model_store.types import (
    CorruptTestSetError,
    ExistingTestSetError,
    InvalidTestSetNameError,
    JournalEntry,
    NoRoomForTestSetError,
    NoSuchTestSetError,
)
from tests.contract.states import learned

YEAR = timedelta(days=365)


class Clock:
    def __init__(self) -> None:
        self.now = datetime(2026, 11, 27, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def root(tmp_path: Path) -> Path:
    store = Store(tmp_path / "store")
    bootstrap(store, learned(2))
    return store.root


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def sets(root: Path, clock: Clock) -> StoredTestSets:
    return StoredTestSets(root, Limits(sets=2, bytes=1000, images=6), clock=clock)


def pictures(folder: Path, *contents: bytes) -> list[SourceImage]:
    """Write files, of which the first half is of class 0 and the rest of class 1."""
    folder.mkdir(exist_ok=True)
    made = []
    for at, data in enumerate(contents):
        path = folder / f"{sha256(data).hexdigest()[:8]}.PNG"
        path.write_bytes(data)
        made.append(SourceImage(path, int(at >= len(contents) / 2)))
    return made


def put(sets: StoredTestSets, folder: Path, name: str = "street", *contents: bytes, **options: bool) -> StoredTestSet:
    images = pictures(folder, *(contents or (b"one", b"two", b"three", b"four")))
    return sets.put(name, ("cat", "dog"), images, who="ann", lifetime=YEAR, reason="field study", **options)


def lines(root: Path) -> list[JournalEntry]:
    entries = read_journal(root / "journal.jsonl").entries
    return [entry for entry in entries if entry.action in ("put_test_set", "remove_test_set")]


def evaluation_of(stored: StoredTestSet, version: str) -> StoredEvaluation:
    return StoredEvaluation(
        version_id=version,
        test_set=stored.name,
        digest=stored.digest,
        at=stored.added_at,
        seconds=0.1,
        images_in_all=stored.images,
        results={},
        names=("cat",),
        known=1,
        numbers=(0,),
        labels=(0,),
        answers=PathAnswers(text=(0,), visual=(0,), fused=(None,)),
        probability=(0.5,),
        unknown=None,
        label_sets=None,
    )


def test_a_set_is_read_back_as_it_was_sent(sets: StoredTestSets, tmp_path: Path) -> None:
    stored = put(sets, tmp_path / "a")
    assert sets.all() == [stored] == [sets.get("street")]
    assert (stored.images, stored.bytes, stored.images_per_class) == (4, 15, {"cat": 2, "dog": 2})
    found = sets.read(stored)
    contents = [
        (found.classes[label], path.read_bytes()) for label, path in zip(found.labels, found.files, strict=True)
    ]
    assert sorted(contents) == [("cat", b"one"), ("cat", b"two"), ("dog", b"four"), ("dog", b"three")]
    assert [sha256(path.read_bytes()).hexdigest() for path in found.files] == list(found.checksums)
    assert {path.name for path in found.files} == {"0000000.png", "0000001.png", "0000002.png", "0000003.png"}


def test_the_order_of_images_changes_no_digest_and_a_label_does(sets: StoredTestSets, tmp_path: Path) -> None:
    images = pictures(tmp_path / "a", b"one", b"two", b"three")

    def digest(chosen: list[SourceImage]) -> str:
        return sets.put("street", ("cat", "dog"), chosen, who="ann", lifetime=YEAR).digest

    assert digest(images) == digest(images[::-1])
    assert digest(images) != digest([SourceImage(images[0].path, 1), *images[1:]])


def test_a_set_replaces_the_one_of_its_name_as_a_whole(sets: StoredTestSets, root: Path, tmp_path: Path) -> None:
    first = put(sets, tmp_path / "a")
    second = put(sets, tmp_path / "b", "street", b"five", b"six")
    assert sets.all() == [second]
    assert sorted(path.name for path in (root / "test-sets").iterdir()) == sorted([second.folder, "street.json"])
    with pytest.raises(NoSuchTestSetError):
        sets.read(first)
    assert [(line.from_, line.to) for line in lines(root)] == [
        (None, first.reference),
        (first.reference, second.reference),
    ]


def test_a_set_that_is_not_to_be_replaced_stays(sets: StoredTestSets, tmp_path: Path) -> None:
    first = put(sets, tmp_path / "a")
    with pytest.raises(ExistingTestSetError):
        put(sets, tmp_path / "b", "street", b"five", replace=False)
    assert sets.get("street") == first
    again = put(sets, tmp_path / "a", replace=False)  # the same images, as when an answer was lost
    assert again.digest == first.digest


@pytest.mark.parametrize("name", ["", "../up", "a/b", "A", ".hidden", "a" * 65, "caf\u00e9", "a b", "con\n"])
def test_a_name_that_could_be_a_path_is_refused(sets: StoredTestSets, tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidTestSetNameError):
        put(sets, tmp_path / "a", name)
    with pytest.raises(InvalidTestSetNameError):
        sets.get(name)
    with pytest.raises(InvalidTestSetNameError):
        sets.remove(name, who="ann")


def test_more_than_is_allowed_is_refused_and_nothing_of_it_is_left(
    sets: StoredTestSets, root: Path, tmp_path: Path
) -> None:
    put(sets, tmp_path / "a", "one", b"x" * 600)
    before = sorted((root / "test-sets").rglob("*"))
    with pytest.raises(NoRoomForTestSetError, match="1001 bytes together; at most 1000"):
        put(sets, tmp_path / "b", "two", b"y" * 401)
    with pytest.raises(NoRoomForTestSetError, match="7 images; at most 6"):
        put(sets, tmp_path / "b", "two", *(bytes([at]) for at in range(7)))
    put(sets, tmp_path / "c", "two", b"z")
    with pytest.raises(NoRoomForTestSetError, match="2 other test sets; at most 2"):
        put(sets, tmp_path / "c", "three", b"z")
    sets.remove("two", who="ann")
    assert sorted((root / "test-sets").rglob("*")) == before
    put(sets, tmp_path / "d", "one", b"y" * 999)  # in place of its own 600 bytes


def test_a_removed_set_leaves_a_receipt_and_nothing_else(sets: StoredTestSets, root: Path, tmp_path: Path) -> None:
    stored, kept = put(sets, tmp_path / "a"), put(sets, tmp_path / "b", "other", b"five")
    version = Store(root).current()
    assert version is not None
    evaluations = Evaluations(root)
    for found in (stored, kept):
        evaluations.save(evaluation_of(found, version))
    receipt = sets.remove("street", who="bob", reason="the person asked for it")
    assert (receipt.name, receipt.digest, receipt.images, receipt.bytes) == ("street", stored.digest, 4, 15)
    assert (receipt.who, receipt.reason) == ("bob", "the person asked for it")
    last = lines(root)[-1]
    assert (last.action, last.from_, last.to, last.who) == ("remove_test_set", stored.reference, None, "bob")
    assert last.reason == "4 images, 15 bytes: the person asked for it"
    assert not any(stored.digest[:12] in path.name for path in root.rglob("*"))
    assert evaluations.get(version, stored.digest) is None
    assert evaluations.get(version, kept.digest) is not None
    with pytest.raises(NoSuchTestSetError):
        sets.remove("street", who="bob")


def test_a_set_whose_time_is_over_is_not_used_and_is_swept(
    sets: StoredTestSets, root: Path, clock: Clock, tmp_path: Path
) -> None:
    stored = put(sets, tmp_path / "a")
    assert sets.sweep() == []
    clock.now += YEAR
    assert sets.all() == []
    with pytest.raises(NoSuchTestSetError):
        sets.get("street")
    (receipt,) = sets.sweep()
    assert (receipt.digest, receipt.who, receipt.reason) == (stored.digest, "store", "its time is over")
    assert list((root / "test-sets").iterdir()) == []
    assert sets.sweep() == []


def test_a_sweep_removes_what_dead_writers_left_and_not_what_is_being_written(
    sets: StoredTestSets, root: Path, clock: Clock, tmp_path: Path
) -> None:
    put(sets, tmp_path / "a")
    part, orphan = root / "test-sets" / ".other-1", root / "test-sets" / "street-000000000000-1"
    part.mkdir()
    orphan.mkdir()
    clock.now = datetime.now(UTC)
    sets.sweep()
    assert part.exists()
    assert not orphan.exists()
    clock.now += timedelta(hours=2)
    sets.sweep()
    assert not part.exists()
    assert len(sets.all()) == 1


def test_a_change_that_nobody_wrote_down_is_explained_by_the_next(
    sets: StoredTestSets, root: Path, tmp_path: Path
) -> None:
    stored = put(sets, tmp_path / "a")
    (root / "test-sets" / "street.json").unlink()
    put(sets, tmp_path / "b", "other", b"x")
    assert [(line.action, line.from_, line.to, line.who) for line in lines(root)[1:2]] == [
        ("remove_test_set", stored.reference, None, "store")
    ]


def test_an_altered_image_is_found_and_only_where_it_is_looked_at(sets: StoredTestSets, tmp_path: Path) -> None:
    stored = put(sets, tmp_path / "a")
    sets.read(stored).files[2].write_bytes(b"else")
    with pytest.raises(CorruptTestSetError, match=r"street is corrupt: 0000002\.png: altered"):
        sets.read(stored)
    sets.read(stored, numbers=[0, 1, 3])


def test_a_damaged_record_hides_no_other_set_and_can_be_removed(
    sets: StoredTestSets, root: Path, tmp_path: Path
) -> None:
    put(sets, tmp_path / "a")
    other = put(sets, tmp_path / "b", "other", b"x")
    (root / "test-sets" / "street.json").write_text("{}")
    assert sets.all() == [other]
    with pytest.raises(CorruptTestSetError):
        sets.get("street")
    sets.sweep()  # what belongs to the damaged one is not known, so nothing is removed
    assert len(list((root / "test-sets").iterdir())) == 4
    receipt = sets.remove("street", who="ann")
    assert (receipt.images, receipt.bytes) == (0, 0)
    assert sorted(path.name for path in (root / "test-sets").iterdir()) == sorted([other.folder, "other.json"])


def test_an_evaluation_with_columns_of_unequal_length_is_refused(sets: StoredTestSets, tmp_path: Path) -> None:
    good = evaluation_of(put(sets, tmp_path / "a"), "000001-0123456789ab")
    with pytest.raises(ValueError, match="expected 1 rows in every column"):
        StoredEvaluation.model_validate(good.model_dump() | {"labels": (0, 0)})
    assert good.answers_by_number() == {0: ("cat", None)}
    assert not good.is_whole


def test_a_damaged_evaluation_counts_as_none(sets: StoredTestSets, root: Path, tmp_path: Path) -> None:
    stored = put(sets, tmp_path / "a")
    version = Store(root).current()
    assert version is not None
    evaluations = Evaluations(root)
    assert evaluations.get(version, stored.digest) is None
    evaluations.save(evaluation_of(stored, version))
    found = evaluations.get(version, stored.digest)
    assert found is not None
    assert found.test_set == "street"
    evaluations.path(version, stored.digest).write_text("{")
    assert evaluations.get(version, stored.digest) is None
