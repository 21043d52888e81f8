"""A copy that is made while it is sent: of one moment, whatever happens meanwhile, and restored like any other."""

from __future__ import annotations

import io
import json
import tarfile
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest

from model_store.backup import BackupError, restore
from model_store.backup_stream import PIECE_BYTES, backup_pieces
from model_store.store import Store
from tests.unit.model_store.test_backup import content, grow, store

__all__ = ["store"]


def written(pieces: Iterator[bytes], path: Path) -> Path:
    with path.open("wb") as file:
        for piece in pieces:
            file.write(piece)
    return path


def index_of(path: Path) -> dict[str, object]:
    with tarfile.open(path) as archive:
        file = archive.extractfile("backup.json")
        assert file is not None
        return dict(json.load(file))


def test_it_is_restored_as_the_store_that_was_sent(store: Store, tmp_path: Path) -> None:
    version = store.current()
    (store.root / "evaluations" / str(version)).mkdir()
    (store.root / "evaluations" / str(version) / "0a.json").write_text("{}")
    (store.root / "sessions").mkdir()
    (store.root / "sessions" / "a").write_text("{}")
    path = written(backup_pieces(store.root), tmp_path / "copy.tar")
    done = restore(path, tmp_path / "restored")
    lacks = {"sessions/a", "evaluations/a/b.json"}  # what belongs to no version is left behind
    assert content(store.root).keys() - content(tmp_path / "restored").keys() == lacks
    assert done.current == version
    assert content(tmp_path / "restored").items() <= content(store.root).items()
    assert Store(tmp_path / "restored").identity() == store.identity()
    with tarfile.open(path) as archive:
        assert archive.getnames()[-1] == "CURRENT"


def test_what_is_published_or_pruned_meanwhile_is_as_at_the_end(store: Store, tmp_path: Path) -> None:
    old = store.list()[0].version_id
    pieces = backup_pieces(store.root)
    first = next(pieces)
    for _ in range(4):  # the first version is being sent
        first += next(pieces)
    new = grow(store, 3)
    pruning = store.prune(1, who="ada", reason="")
    assert old in pruning.removed
    (tmp_path / "copy.tar").write_bytes(first + b"".join(pieces))
    kept = [manifest.version_id for manifest in store.list()]
    assert set(new) & set(kept)
    assert index_of(tmp_path / "copy.tar") == {"versions": kept, "damaged": {}}
    done = restore(tmp_path / "copy.tar", tmp_path / "restored")
    assert done.written == kept, "without what was sent before it was pruned"
    assert Store(tmp_path / "restored").journal() == store.journal()


def test_a_damaged_version_is_left_out_and_named(store: Store, tmp_path: Path) -> None:
    version = store.list()[1].version_id
    tensors = store.root / "versions" / version / "tensors.safetensors"
    tensors.write_bytes(tensors.read_bytes()[:-1] + b"\0")
    path = written(backup_pieces(store.root), tmp_path / "copy.tar")
    damaged = index_of(path)["damaged"]
    assert isinstance(damaged, dict)
    assert list(damaged) == [version]
    assert version not in restore(path, tmp_path / "restored").written


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_one_that_was_cut_is_not_restored(store: Store, tmp_path: Path, share: float) -> None:
    whole = b"".join(backup_pieces(store.root))
    (tmp_path / "cut.tar").write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(BackupError):
        restore(tmp_path / "cut.tar", tmp_path / "restored")
    assert not (tmp_path / "restored" / "CURRENT").exists()


def test_memory_does_not_grow_with_the_store(store: Store) -> None:
    folder = store.root / "evaluations" / str(store.current())
    folder.mkdir()
    for number in range(30):
        (folder / f"{number:064x}.json").write_bytes(b"x" * 1024 * 1024)
    tracemalloc.start()
    try:
        sent = sum(len(piece) for piece in backup_pieces(store.root))
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert sent > 30 * 1024 * 1024
    assert most < 8 * 1024 * 1024
    assert max(len(piece) for piece in backup_pieces(store.root)) <= PIECE_BYTES


def test_a_folder_that_is_no_store_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BackupError, match="is not a store"):
        next(backup_pieces(tmp_path))


def test_python_reads_it(store: Store) -> None:
    with tarfile.open(fileobj=io.BytesIO(b"".join(backup_pieces(store.root)))) as archive:
        assert {"CURRENT", "journal.jsonl", "gate.json"} <= set(archive.getnames())
