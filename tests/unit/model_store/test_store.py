"""What the store promises to whoever publishes, promotes, rolls back and prunes."""

from __future__ import annotations

import errno
import json
import logging
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from importlib.metadata import version as installed
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock

from model_store import codec
from model_store.disk import Disk
from model_store.store import Store, bootstrap
from model_store.types import (
    ConflictError,
    CorruptVersionError,
    DatasetRecord,
    InvalidStateError,
    InvalidVersionIdError,
    Manifest,
    NothingToRollBackToError,
    PreprocessingRecord,
    Provenance,
    StoreBusyError,
    StoreError,
    VersionId,
    VersionNotFoundError,
)
from segp_cl.types import LearnedClass, LearnerState, LoraFactors, LoraState, ModelSpec

UNKNOWN = "000099-0123456789ab"
NOBODY = Provenance(libraries={"torch": "2.6.0"})


def learned(classes: int = 2, *, seed: int = 0) -> LearnerState:
    generator = torch.Generator().manual_seed(seed)
    return LearnerState(
        model=ModelSpec("compact"),
        weights_digest="a" * 64,
        classes=tuple(LearnedClass(f"c{n}", f"a photo of a c{n}.", 1, 20) for n in range(classes)),
        prototypes=torch.randn(classes, 8, generator=generator),
        text_features=torch.randn(classes, 4, generator=generator),
        lora=LoraState(2, 1.0, {"x": LoraFactors(torch.randn(2, 8, generator=generator), torch.ones(4, 2))}),
        fusion_weight=2.5,
        tasks=1 if classes else 0,
    )


@pytest.fixture
def store(tmp_path: Path) -> Store:
    seconds = count()
    return Store(tmp_path / "store", clock=lambda: datetime(2026, 3, 1, tzinfo=UTC) + timedelta(seconds=next(seconds)))


def grow(store: Store, length: int) -> list[VersionId]:
    """A chain of promoted versions, behind CURRENT if there is one."""
    chain: list[VersionId] = []
    for _ in range(length):
        parent = store.current()
        manifest = store.publish(learned(seed=len(store.list())), parent=parent, provenance=NOBODY)
        store.promote(manifest.version_id, expected=parent, who="worker")
        chain.append(manifest.version_id)
    return chain


def flip(path: Path, position: int = -5) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 0x10
    path.write_bytes(bytes(data))


def moves(store: Store) -> list[tuple[str, VersionId | None, VersionId | None]]:
    return [(entry.action, entry.from_, entry.to) for entry in store.journal()]


def test_an_empty_store_has_no_current_and_no_versions(store: Store) -> None:
    assert store.current() is None
    assert store.list() == []
    assert store.lineage() == []
    assert store.journal() == []


def test_a_published_version_is_two_files_and_not_current(store: Store) -> None:
    manifest = store.publish(learned(), parent=None, provenance=NOBODY)
    folder = store.root / "versions" / manifest.version_id
    assert sorted(path.name for path in folder.iterdir()) == ["manifest.json", "tensors.safetensors"]
    assert manifest.version_id == f"000001-{manifest.content_digest[:12]}"
    assert store.current() is None
    assert store.list() == [store.manifest(manifest.version_id)] == [manifest]
    assert [*(store.root / "tmp").iterdir()] == []


def test_an_opened_version_is_the_published_state(store: Store) -> None:
    state = learned(3, seed=5)
    manifest = store.publish(state, parent=None, provenance=NOBODY)
    for verify in (True, False):
        back = store.open(manifest.version_id, verify=verify)
        assert back.classes == state.classes
        assert torch.equal(back.prototypes, state.prototypes)
        assert torch.equal(back.text_features, state.text_features)
        assert back.lora is not None
        assert state.lora is not None
        assert torch.equal(back.lora.factors["x"].a, state.lora.factors["x"].a)


def test_a_manifest_says_where_the_version_comes_from(store: Store) -> None:
    parent = store.publish(learned(0), parent=None, provenance=NOBODY)
    said = {
        "preprocessing": PreprocessingRecord(size=160, mean=(0.5,) * 3, std=(0.25,) * 3, interpolation="bicubic"),
        "strategy": "segp",
        "settings": {"rank": 16, "learning_rate": 0.003},
        "seed": 7,
        "job_id": "job-7",
        "dataset": DatasetRecord(
            name="digits", digest="d" * 64, images_per_class={"one": 16}, holdout_per_class={"one": 4}
        ),
        "evaluation": {"fused": 0.875},
        "report": {"seconds": {"train": 1.5}},
    }
    manifest = store.publish(learned(), parent=parent.version_id, provenance=Provenance(**said))
    on_disk = store.manifest(manifest.version_id)
    assert {name: getattr(on_disk, name) for name in said} == said
    assert on_disk.number == 2
    assert on_disk.parent == parent.version_id
    assert on_disk.parent_content_digest == parent.content_digest
    assert [known.name for known in on_disk.classes] == ["c0", "c1"]
    assert on_disk.lora is not None
    assert on_disk.lora.adapted == ("x",)
    assert on_disk.libraries["torch"] == installed("torch")
    assert set(on_disk.libraries) == {
        "keepsight", "numpy", "open_clip_torch", "pillow", "timm", "torch", "transformers"
    }  # fmt: skip


def test_learning_the_same_on_the_same_parent_gives_the_same_content_digest(tmp_path: Path) -> None:
    digests = []
    for name, job in (("a", "job-1"), ("b", "job-2")):
        store = Store(tmp_path / name)
        first = store.publish(learned(0), parent=None, provenance=NOBODY).version_id
        for n in range(1 if name == "a" else 2):  # numbers differ, content does not
            provenance = NOBODY.model_copy(update={"job_id": f"{job}-{n}", "report": {"seconds": n}, "seed": 3})
            digests.append(store.publish(learned(), parent=first, provenance=provenance).content_digest)
    assert len(digests) == 3
    assert len(set(digests)) == 1


def test_the_same_state_on_another_parent_has_another_content_digest(store: Store) -> None:
    one = store.publish(learned(0), parent=None, provenance=NOBODY)
    two = store.publish(learned(2), parent=one.version_id, provenance=NOBODY)
    three = store.publish(learned(2), parent=two.version_id, provenance=NOBODY)
    assert two.content_digest != three.content_digest
    assert two.tensors_sha256 == three.tensors_sha256


def test_publishing_under_an_unknown_parent_writes_nothing(store: Store) -> None:
    with pytest.raises(VersionNotFoundError, match=UNKNOWN):
        store.publish(learned(), parent=UNKNOWN, provenance=NOBODY)
    assert store.list() == []


def test_a_state_with_numbers_that_are_not_finite_is_not_published(store: Store) -> None:
    state = replace(learned(), text_features=torch.full((2, 4), torch.nan))
    with pytest.raises(InvalidStateError, match="text_features"):
        store.publish(state, parent=None, provenance=NOBODY)
    assert store.list() == []
    assert store.journal() == []


def test_a_job_publishes_once(store: Store) -> None:
    job = NOBODY.model_copy(update={"job_id": "job-1"})
    assert store.version_of_job("job-1") is None
    first = store.publish(learned(seed=1), parent=None, provenance=job)
    again = store.publish(learned(seed=2), parent=None, provenance=job)
    assert again == first
    assert store.version_of_job("job-1") == first.version_id
    assert store.version_of_job("job-2") is None
    assert len(store.list()) == 1


def test_publishing_parses_as_few_manifests_however_many_there_are(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = NOBODY.model_copy(update={"job_id": "job-1"})
    parsed: list[str] = []
    unpack = codec.unpack_manifest

    def counted(data: bytes, version_id: str) -> Manifest:
        parsed.append(version_id)
        return unpack(data, version_id)

    monkeypatch.setattr(codec, "unpack_manifest", counted)
    parent = store.publish(learned(), parent=None, provenance=NOBODY).version_id
    counts = []
    for seed in range(1, 6):
        parsed.clear()
        parent = store.publish(learned(seed=seed), parent=parent, provenance=NOBODY).version_id
        counts.append(len(parsed))
    assert len(set(counts)) == 1
    parsed.clear()
    assert store.publish(learned(seed=7), parent=parent, provenance=job).job_id == "job-1"
    assert len(parsed) == counts[0]
    assert store.version_of_job("job-1") in parsed


def test_promote_moves_current_and_says_who_and_why(store: Store) -> None:
    one = store.publish(learned(), parent=None, provenance=NOBODY).version_id
    store.promote(one, expected=None, who="ann", reason="first")
    assert store.current() == one
    assert (store.root / "CURRENT").read_text() == f"{one}\n"
    last = store.journal()[-1]
    assert (last.action, last.from_, last.to, last.who, last.reason) == ("promote", None, one, "ann", "first")
    line = json.loads((store.root / "journal.jsonl").read_text().splitlines()[-1])
    assert line["from"] is None
    assert line["to"] == one


def test_promote_with_a_wrong_expectation_moves_nothing(store: Store) -> None:
    one, two = grow(store, 2)
    three = store.publish(learned(seed=9), parent=one, provenance=NOBODY).version_id
    lines = moves(store)
    for expected in (None, one):
        with pytest.raises(ConflictError) as caught:
            store.promote(three, expected=expected, who="worker")
        assert (caught.value.expected, caught.value.actual) == (expected, two)
    assert store.current() == two
    assert moves(store) == lines


def test_a_move_that_the_disk_refuses_at_the_last_step_leaves_no_line(store: Store) -> None:
    (one,) = grow(store, 1)
    two = store.publish(learned(), parent=one, provenance=NOBODY).version_id
    before = (store.root / "journal.jsonl").read_bytes()

    class StubbornDisk(Disk):
        def rename(self, source: Path, target: Path) -> None:
            raise OSError(errno.EIO, "input/output error", str(target))

    with pytest.raises(StoreError, match=f"moving CURRENT to {two} was not done"):
        Store(store.root, disk=StubbornDisk()).promote(two, expected=one, who="worker")
    assert store.current() == one
    assert (store.root / "journal.jsonl").read_bytes() == before
    assert [*(store.root / "tmp").iterdir()] == []


def test_promoting_what_is_current_is_fine_and_writes_no_line(store: Store) -> None:
    one, two = grow(store, 2)
    lines = moves(store)
    store.promote(two, expected=one, who="worker", reason="a job that is run again")
    assert store.current() == two
    assert moves(store) == lines


def test_rollback_goes_to_the_parent_and_on_to_its_parent(store: Store) -> None:
    one, two, _ = grow(store, 3)
    assert store.rollback(None, who="ann", reason="worse") == two
    assert store.rollback(None, who="ann", reason="worse still") == one
    assert store.current() == one
    with pytest.raises(NothingToRollBackToError, match="is the first"):
        store.rollback(None, who="ann", reason="no more")
    assert [(entry.action, entry.reason) for entry in store.journal()[-2:]] == [
        ("rollback", "worse"),
        ("rollback", "worse still"),
    ]


def test_rollback_to_a_named_version_and_forward_again(store: Store) -> None:
    one, _, three = grow(store, 3)
    assert store.rollback(one, who="ann", reason="r") == one
    assert store.rollback(three, who="ann", reason="r", expected=one) == three
    with pytest.raises(ConflictError):
        store.rollback(one, who="ann", reason="r", expected=one)
    assert store.current() == three


def test_rollback_of_an_empty_store_says_that_there_is_nothing(store: Store) -> None:
    with pytest.raises(NothingToRollBackToError, match="CURRENT is not set"):
        store.rollback(None, who="ann", reason="r")


CALLS: dict[str, Callable[[Store, str], Any]] = {
    "promote": lambda store, version: store.promote(version, expected=store.current(), who="ann"),
    "rollback": lambda store, version: store.rollback(version, who="ann", reason="r"),
    "open": lambda store, version: store.open(version),
    "verify": lambda store, version: store.verify(version),
    "manifest": lambda store, version: store.manifest(version),
    "lineage": lambda store, version: store.lineage(version),
    "pin": lambda store, version: store.pin(version, who="ann"),
    "publish": lambda store, version: store.publish(learned(), parent=version, provenance=NOBODY),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
def test_an_unknown_version_is_not_found_and_nothing_moves(store: Store, call: Callable[[Store, str], Any]) -> None:
    (one,) = grow(store, 1)
    lines = moves(store)
    with pytest.raises(VersionNotFoundError) as caught:
        call(store, UNKNOWN)
    assert caught.value.version_id == UNKNOWN
    assert store.current() == one
    assert moves(store) == lines


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
@pytest.mark.parametrize("text", ["../../secret", "", "000001", "000001-0123456789ab/../../../secret"])
def test_what_is_no_version_id_is_refused_before_the_disk_is_touched(
    store: Store, call: Callable[[Store, str], Any], text: str
) -> None:
    grow(store, 1)
    secret = store.root.parent / "secret"
    secret.mkdir()
    shutil.copytree(store.root / "versions" / str(store.current()), secret, dirs_exist_ok=True)
    with pytest.raises(InvalidVersionIdError):
        call(store, text)


@pytest.mark.parametrize("file", ["manifest.json", "tensors.safetensors"])
@pytest.mark.parametrize("harm", ["flip", "cut", "empty", "missing"])
@pytest.mark.parametrize("call", ["promote", "rollback", "open", "verify"])
def test_a_corrupt_version_is_named_with_its_file_and_nothing_moves(
    store: Store, file: str, harm: str, call: str
) -> None:
    one, two = grow(store, 2)
    store.rollback(one, who="ann", reason="r")
    lines = moves(store)
    path = store.root / "versions" / two / file
    if harm == "flip":
        flip(path)
    elif harm == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[: len(path.read_bytes()) // 2 if harm == "cut" else 0])
    with pytest.raises(CorruptVersionError, match=file) as caught:
        CALLS[call](store, two)
    assert (caught.value.version_id, caught.value.file) == (two, file)
    assert store.current() == one
    assert moves(store) == lines
    store.verify(one)


def test_every_flipped_byte_of_the_tensors_is_noticed(store: Store) -> None:
    (one,) = grow(store, 1)
    path = store.root / "versions" / one / "tensors.safetensors"
    for position in range(0, path.stat().st_size, 7):
        flip(path, position)
        with pytest.raises(CorruptVersionError, match=r"tensors\.safetensors: its SHA-256 is"):
            store.verify(one)
        flip(path, position)
    store.verify(one)


def test_a_version_under_another_versions_name_is_corrupt(store: Store) -> None:
    one, two = grow(store, 2)
    shutil.rmtree(store.root / "versions" / one)
    shutil.copytree(store.root / "versions" / two, store.root / "versions" / one)
    with pytest.raises(CorruptVersionError, match=f"it is the manifest of version {two}"):
        store.rollback(one, who="ann", reason="r")


def test_whole_files_of_another_version_are_noticed(store: Store) -> None:
    one, two = grow(store, 2)
    name = "tensors.safetensors"
    shutil.copy(store.root / "versions" / one / name, store.root / "versions" / two / name)
    with pytest.raises(CorruptVersionError, match=name):
        store.verify(two)


def test_list_leaves_a_corrupt_version_out_and_says_so(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    one, two, three = grow(store, 3)
    flip(store.root / "versions" / two / "manifest.json")
    with caplog.at_level(logging.WARNING):
        assert [manifest.version_id for manifest in store.list()] == [one, three]
    assert f"version {two} is corrupt: manifest.json" in caplog.text


def test_list_ignores_what_is_no_version(store: Store) -> None:
    (one,) = grow(store, 1)
    (store.root / "versions" / ".DS_Store").write_bytes(b"x")
    (store.root / "versions" / "000002-half").mkdir()
    assert [manifest.version_id for manifest in store.list()] == [one]


def test_lineage_goes_from_a_version_to_the_first(store: Store) -> None:
    one, two, three = grow(store, 3)
    assert [manifest.version_id for manifest in store.lineage()] == [three, two, one]
    assert [manifest.version_id for manifest in store.lineage(two)] == [two, one]


def test_a_current_that_is_no_version_id_is_reported_and_a_rollback_repairs_it(store: Store) -> None:
    one, _ = grow(store, 2)
    (store.root / "CURRENT").write_text("../../elsewhere\n")
    with pytest.raises(StoreError, match="roll back to a named version"):
        store.current()
    assert store.rollback(one, who="ann", reason="repair") == one
    assert store.current() == one


def test_prune_keeps_the_way_back_and_removes_the_rest(store: Store) -> None:
    versions = grow(store, 6)
    assert [*store.prune(2).removed] == versions[:3]
    assert [manifest.version_id for manifest in store.list()] == versions[3:]
    assert [manifest.version_id for manifest in store.lineage()] == versions[:2:-1]
    assert [(entry.action, entry.from_) for entry in store.journal()[-3:]] == [("prune", v) for v in versions[:3]]
    assert store.rollback(None, who="ann", reason="r") == versions[4]
    assert [*(store.root / "tmp").iterdir()] == []
    assert [*store.prune(2).removed] == []


def test_prune_keeps_pinned_versions_until_they_are_unpinned(store: Store) -> None:
    versions = grow(store, 5)
    store.pin(versions[0], who="ann", reason="the paper's")
    store.pin(versions[0], who="ann", reason="again")
    assert store.pinned() == {versions[0]}
    assert [*store.prune(1).removed] == versions[1:3]
    store.unpin(versions[0], who="ann")
    store.unpin(versions[0], who="ann")
    assert store.pinned() == frozenset()
    assert [*store.prune(1).removed] == [versions[0]]
    assert [entry.action for entry in store.journal()].count("pin") == 1


def test_a_number_is_not_used_again_after_a_prune(store: Store) -> None:
    one = grow(store, 1)[0]
    for seed in (5, 6, 7):
        store.publish(learned(seed=seed), parent=one, provenance=NOBODY)
    shutil.rmtree(store.root / "versions" / store.list()[-1].version_id)
    assert store.publish(learned(seed=8), parent=one, provenance=NOBODY).number == 5


def test_prune_keeps_a_version_that_is_published_and_not_promoted_yet(store: Store) -> None:
    versions = grow(store, 4)
    store.rollback(versions[1], who="ann", reason="r")
    fresh = store.publish(learned(seed=50), parent=versions[1], provenance=NOBODY).version_id
    assert [*store.prune(1).removed] == versions[2:]
    assert {manifest.version_id for manifest in store.list()} == {*versions[:2], fresh}


def test_rollback_without_a_version_before_says_so(store: Store) -> None:
    versions = grow(store, 4)
    store.prune(1)
    store.rollback(None, who="ann", reason="r")
    with pytest.raises(NothingToRollBackToError, match=f"no readable version before {versions[2]}"):
        store.rollback(None, who="ann", reason="r")
    assert store.current() == versions[2]


def test_prune_leaves_a_corrupt_version_to_the_operator(store: Store) -> None:
    versions = grow(store, 3)
    branch = store.publish(learned(seed=40), parent=versions[0], provenance=NOBODY).version_id
    grow(store, 3)
    flip(store.root / "versions" / branch / "manifest.json")
    assert branch not in store.prune(1).removed
    assert (store.root / "versions" / branch).is_dir()


def test_prune_refuses_while_the_way_back_cannot_be_read(store: Store) -> None:
    versions = grow(store, 4)
    flip(store.root / "versions" / versions[2] / "manifest.json")
    with pytest.raises(CorruptVersionError, match=versions[2]):
        store.prune(1)
    assert all((store.root / "versions" / version).is_dir() for version in versions)


def test_prune_refuses_while_the_journal_is_damaged(store: Store) -> None:
    versions = grow(store, 4)
    store.pin(versions[0], who="ann")
    path = store.root / "journal.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"pin"', b'"pxn"'))
    with pytest.raises(StoreError, match="pins may be among them"):
        store.prune(1)
    assert len(store.list()) == 4
    assert store.rollback(None, who="ann", reason="still works") == versions[2]


def test_a_lost_journal_is_written_anew_from_the_disk(store: Store) -> None:
    one, two = grow(store, 2)
    (store.root / "journal.jsonl").unlink()
    store.rollback(one, who="ann", reason="r")
    assert moves(store) == [
        ("publish", None, one),
        ("publish", one, two),
        ("recover", None, two),
        ("rollback", two, one),
    ]
    assert [entry.who for entry in store.journal()] == ["store"] * 3 + ["ann"]


def test_bootstrap_makes_the_first_version_once(store: Store) -> None:
    provenance = NOBODY.model_copy(update={"reason": "first start"})
    one = bootstrap(store, learned(0), provenance=provenance)
    assert store.current() == one
    assert store.open(one).classes == ()
    assert bootstrap(store, learned(0, seed=9)) == one
    assert len(store.list()) == 1
    assert store.journal()[-1].reason == "first start"


def test_bootstrap_goes_on_where_an_interrupted_one_ended(store: Store) -> None:
    left = store.publish(learned(0), parent=None, provenance=NOBODY).version_id
    assert bootstrap(store, learned(0)) == left
    assert store.current() == left


def test_bootstrap_does_not_guess_which_of_several_versions_is_current(store: Store) -> None:
    grow(store, 2)
    (store.root / "CURRENT").unlink()
    with pytest.raises(StoreError, match="no CURRENT; roll back"):
        bootstrap(store, learned(0))
    assert len(store.list()) == 2


def test_the_lineage_lock_is_held_by_one_and_given_back_after_an_error(store: Store) -> None:
    other = Store(store.root)

    def fail_while_another_waits() -> None:
        with store.lineage_lock():
            with pytest.raises(StoreBusyError, match="another update"), other.lineage_lock(timeout_s=0.02):
                pytest.fail("two hold the lock")
            raise ArithmeticError

    with pytest.raises(ArithmeticError):
        fail_while_another_waits()
    with other.lineage_lock(timeout_s=0.02):
        assert other.publish(learned(), parent=None, provenance=NOBODY).number == 1


def test_changing_a_store_gives_up_when_another_process_keeps_its_lock(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    (one,) = grow(store, 1)
    monkeypatch.setattr("model_store.locking.LOCK_TIMEOUT_S", 0.02)
    with (
        FileLock(store.root / "store.lock"),
        pytest.raises(StoreBusyError, match="promoting waited"),
    ):
        Store(store.root).promote(one, expected=None, who="ann")


def test_reading_and_opening_a_store_that_is_there_writes_nothing(store: Store) -> None:
    (one,) = grow(store, 1)

    class ReadOnlyDisk(Disk):
        def open(self, path: Path, flags: int) -> int:
            raise OSError(errno.EROFS, "read-only", str(path))

        def make_folder(self, path: Path) -> None:
            raise OSError(errno.EROFS, "read-only", str(path))

    reader = Store(store.root, disk=ReadOnlyDisk())
    assert reader.current() == one
    assert reader.open(one).tasks == 1
    assert [manifest.version_id for manifest in reader.list()] == [one]
    assert bootstrap(reader, learned(0)) == one
    with pytest.raises(StoreError, match="read-only"):
        reader.publish(learned(), parent=one, provenance=NOBODY)


def test_a_manifest_is_parsed_once_while_its_file_stays_and_anew_once_it_changes(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = store.publish(learned(), parent=None, provenance=NOBODY).version_id
    path = store.root / "versions" / version / "manifest.json"
    parsed: list[VersionId] = []
    unpack = codec.unpack_manifest

    def counting(data: bytes, version_id: VersionId) -> Manifest:
        parsed.append(version_id)
        return unpack(data, version_id)

    monkeypatch.setattr(codec, "unpack_manifest", counting)
    for _ in range(3):
        store.manifest(version)
    assert len(parsed) == 3, "it was written a moment ago, so a change may leave it the same time"
    long_ago = path.stat().st_mtime - 3600
    os.utime(path, (long_ago, long_ago))
    first = store.manifest(version)
    assert [store.manifest(version), *store.list(), *store.lineage(version)] == [first] * 3
    assert len(parsed) == 4
    tensors = path.with_name("tensors.safetensors")
    os.utime(tensors, (long_ago, long_ago))
    assert [store.survey().damaged for _ in range(2)] == [{}, {}]
    tensors.write_bytes(tensors.read_bytes()[:-1])
    os.utime(tensors, (long_ago, long_ago))
    assert list(store.survey().damaged) == [version], "its size is another"
    data = path.read_bytes()
    path.write_bytes(data[::-1])
    os.utime(path, (long_ago + 1, long_ago + 1))
    with pytest.raises(CorruptVersionError):
        store.manifest(version)
    path.write_bytes(data)
    os.utime(path, (long_ago, long_ago))
    assert store.manifest(version) == first
    shutil.rmtree(path.parent)
    with pytest.raises(VersionNotFoundError):
        store.manifest(version)
    assert store.list() == []
