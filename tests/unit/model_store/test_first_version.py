"""Version 1 is the base model before any task, made by whichever process comes first."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from model_store.first_version import make_first_version
from model_store.store import Store
from model_store.types import Provenance, StoreError
from segp_cl.learn.learner import initial_state
from segp_cl.models.backbone import Backbone
from segp_cl.runtime.classifier import Classifier
from segp_cl.runtime.golden import replay
from tests.contract.states import learned


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def test_an_empty_store_gets_the_base_model_as_it_is(store: Store, tiny_backbone: Backbone) -> None:
    version = make_first_version(store, tiny_backbone)
    assert store.current() == version
    content = store.read(version)
    assert (content.state.classes, content.state.tasks, content.state.lora) == ((), 0, None)
    assert content.state.weights_digest == tiny_backbone.weights_digest
    manifest = store.manifest(version)
    assert manifest.parent is None
    assert manifest.preprocessing is not None
    assert manifest.preprocessing.size == tiny_backbone.preprocessing.size
    assert store.journal()[-1].reason == "the base model, before any task"
    assert content.golden is not None
    replay(Classifier(tiny_backbone, content.state), content.golden, tiny_backbone.preprocessing.size)


def test_a_store_that_has_a_current_is_left_as_it_is(store: Store, tiny_backbone: Backbone) -> None:
    first = make_first_version(store, tiny_backbone)
    later = store.publish(initial_state(tiny_backbone), parent=first, provenance=Provenance()).version_id
    store.promote(later, expected=first, who="test", reason="")
    lines = len(store.journal())
    assert make_first_version(store, tiny_backbone) == later
    assert len(store.journal()) == lines


def test_of_many_that_race_one_makes_it(store: Store, tiny_backbone: Backbone) -> None:
    with ThreadPoolExecutor(4) as pool:
        made = set(pool.map(lambda _: make_first_version(Store(store.root), tiny_backbone), range(8)))
    assert made == {store.current()}
    assert len(store.list()) == 1


def test_which_of_several_versions_is_current_is_not_guessed(store: Store, tiny_backbone: Backbone) -> None:
    first = make_first_version(store, tiny_backbone)
    store.publish(learned(1), parent=first, provenance=Provenance())
    (store.root / "CURRENT").unlink()
    with pytest.raises(StoreError, match="no CURRENT; roll back"):
        make_first_version(store, tiny_backbone)
