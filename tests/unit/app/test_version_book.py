"""All versions as people look at them: what differs between two of them is said in their own names."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from app.version_book import VersionBook, changes_between
from model_store.store import Store, bootstrap
from model_store.types import Provenance, VersionId
from segp_cl.class_edits import ClassEdit
from segp_cl.types import LearnedClass
from tests.contract.states import learned


def publish(store: Store, classes: dict[str, int], edit: ClassEdit | None = None) -> VersionId:
    known = tuple(LearnedClass(name, f"a {name}.", 1, images) for name, images in classes.items())
    state = replace(
        learned(len(known)),
        classes=known,
        tasks=1,
        prototypes=torch.ones(len(known), 8),
        text_features=torch.ones(len(known), 4),
    )
    made = Provenance(libraries={}, made="edited" if edit else "trained", edit=edit)
    parent = store.current()
    version = store.publish(state, parent=parent, provenance=made).version_id
    store.promote(version, expected=parent, who="ann")
    return version


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = Store(tmp_path / "store")
    bootstrap(made, learned(0))
    return made


def test_a_damaged_version_is_told_and_not_listed(store: Store) -> None:
    version = publish(store, {"cat": 3})
    first = VersionBook(store).read()
    assert [line.manifest.number for line in first.lines] == [2, 1]
    assert first.current == version
    assert [line.in_lineage for line in first.lines] == [True, True]
    path = store.root / "versions" / version / "manifest.json"
    path.write_bytes(path.read_bytes()[:-5])
    again = VersionBook(store).read()
    assert list(again.damaged) == [version]
    assert [line.manifest.number for line in again.lines] == [1]


def test_what_differs_is_said_with_renames_and_merges_followed(store: Store) -> None:
    first = publish(store, {"cat": 3, "dog": 4, "cow": 5})
    rename = ClassEdit(kind="rename", classes=("cat",), name="puss", prompt="a puss.")
    publish(store, {"puss": 3, "dog": 4, "cow": 5}, rename)
    merge = ClassEdit(kind="merge", classes=("dog", "cow"), name="pet", prompt="a pet.")
    publish(store, {"puss": 3, "pet": 9}, merge)
    last = publish(store, {"puss": 8, "pet": 9, "owl": 2})
    book = VersionBook(store).read()
    manifests = [line.manifest for line in book.lines]
    changes = changes_between(manifests, book.line(first).manifest, book.line(last).manifest)
    assert changes.added == ("owl",)
    assert changes.removed == ()
    assert changes.renamed == (("cat", "puss"), ("dog", "pet"), ("cow", "pet"))
    assert changes.more_images == (("puss", 3, 8),), "a merged class has the images of its parts"
    assert len(changes.steps) == 3
    assert [step.number for step in changes.steps] == [3, 4, 5]
    back = changes_between(manifests, book.line(last).manifest, book.line(first).manifest)
    assert back.steps == (), "the first was not made of the last"
