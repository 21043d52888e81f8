"""Versions in memory: which are loaded, which are kept, and that each answers as it did when it was published."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from app.serving import live_model
from app.serving.live_model import Loader
from model_store.store import Store
from model_store.types import CorruptVersionError, Provenance, VersionId, VersionNotFoundError
from segp_cl.learn.learner import initial_state
from segp_cl.models.backbone import Backbone
from segp_cl.runtime.classifier import Classifier
from segp_cl.runtime.engines.guarded import GuardedPass
from segp_cl.runtime.engines.interface import Engine, EngineName, Pass, ServableModel
from segp_cl.runtime.engines.torch_engine import TorchEngine
from segp_cl.runtime.golden import GoldenAnswersError, record
from segp_cl.runtime.passes import PassSettings
from segp_cl.types import LearnerState, LoraState

Publish = Callable[[float], VersionId]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def publish(store: Store, tiny_backbone: Backbone) -> Publish:
    def make(fusion_weight: float) -> VersionId:
        state = replace(initial_state(tiny_backbone), fusion_weight=float(fusion_weight))
        return store.publish(state, parent=None, provenance=Provenance(who="test")).version_id

    return make


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The fusion weight of every classifier that is made."""
    weights: list[float] = []

    def counted(base: Backbone, state: LearnerState, *, engine: Engine, keep_sums: bool) -> Classifier:
        weights.append(state.fusion_weight)
        return Classifier(base, state, engine=engine, keep_sums=keep_sums)

    monkeypatch.setattr(live_model, "Classifier", counted)
    return weights


def test_the_last_versions_stay_and_the_one_before_them_is_loaded_again(
    store: Store, tiny_backbone: Backbone, publish: Publish, made: list[float]
) -> None:
    one, two, three = publish(1), publish(2), publish(3)
    load = Loader(store, tiny_backbone, warm=2)
    first = load(one)
    load(two)
    assert load(one) is first
    load(three)  # two was used longest ago
    assert load(one) is first
    load(two)
    assert made == [1, 2, 3, 2]


def test_damaged_files_are_refused(store: Store, tiny_backbone: Backbone, publish: Publish) -> None:
    one = publish(1)
    tensors = store.root / "versions" / one / "tensors.safetensors"
    sound = tensors.read_bytes()
    tensors.chmod(0o644)
    tensors.write_bytes(sound[:-1] + bytes([sound[-1] ^ 1]))
    with pytest.raises(CorruptVersionError):
        Loader(store, tiny_backbone, warm=1)(one)


def test_a_version_that_answers_otherwise_than_when_it_was_published_is_refused(
    store: Store, tiny_backbone: Backbone
) -> None:
    state = initial_state(tiny_backbone)
    checks = record(Classifier(tiny_backbone, state), tiny_backbone.preprocessing.size)
    sound = store.publish(state, parent=None, provenance=Provenance(who="test"), golden=checks).version_id
    wrong = replace(checks, raw=-checks.raw)
    other = store.publish(state, parent=None, provenance=Provenance(who="test"), golden=wrong).version_id
    load = Loader(store, tiny_backbone, warm=2)
    assert load(sound).version_id == sound
    with pytest.raises(GoldenAnswersError, match="image tower"):
        load(other)


def test_a_kept_version_is_asked_again_and_forgotten_if_it_answers_otherwise(
    store: Store, tiny_backbone: Backbone, made: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    state = initial_state(tiny_backbone)
    checks = record(Classifier(tiny_backbone, state), tiny_backbone.preprocessing.size)
    version = store.publish(state, parent=None, provenance=Provenance(who="test"), golden=checks).version_id
    load = Loader(store, tiny_backbone, warm=2)
    kept = load(version)
    head = kept.classifier._model.head  # type: ignore[attr-defined]
    with monkeypatch.context() as patch:
        patch.setattr(head, "forward", lambda raw: torch.ones(len(raw), 16))
        with pytest.raises(GoldenAnswersError, match="projection"):
            load(version)
    assert load(version) is not kept
    assert len(made) == 2


def test_a_version_that_is_not_there_is_refused(store: Store, tiny_backbone: Backbone) -> None:
    with pytest.raises(VersionNotFoundError):
        Loader(store, tiny_backbone, warm=1)("000009-0123456789ab")


def test_what_is_loaded_answers(store: Store, tiny_backbone: Backbone, publish: Publish) -> None:
    served = Loader(store, tiny_backbone, warm=1)(publish(1))
    size = served.preprocessing.size
    assert served.classifier.features(torch.zeros(1, 3, size, size)).image.shape[0] == 1


def test_a_version_is_run_with_every_batch_size_that_is_to_be_warm(
    store: Store, tiny_backbone: Backbone, publish: Publish
) -> None:
    one, model = publish(1), tiny_backbone.shared_copy()
    batches: list[int] = []
    model.image_tower.register_forward_pre_hook(lambda _, inputs: batches.append(len(inputs[0])))
    load = Loader(store, model, warm=1, engine=TorchEngine(PassSettings(warm=(1, 3))))
    load(one)
    assert batches[:2] == [1, 3]
    loaded = len(batches)
    load(one)
    assert len(batches) == loaded


class Wrong:
    """An engine whose features are not the model's, until PyTorch takes over."""

    name: EngineName = "openvino"
    warm: tuple[int, ...] = ()
    passes_ahead = 0

    def __init__(self) -> None:
        self.failed: list[str] = []

    def image_pass(self, base: ServableModel, lora: LoraState | None) -> Pass:
        by_torch = TorchEngine().image_pass(base, lora)
        return GuardedPass("openvino", lambda pixels: -by_torch(pixels), lambda: by_torch, self.failed.append)


def test_an_engine_that_does_not_give_the_golden_answers_gives_way_to_torch(
    store: Store, tiny_backbone: Backbone
) -> None:
    state = initial_state(tiny_backbone)
    checks = record(Classifier(tiny_backbone, state), tiny_backbone.preprocessing.size)
    sound = store.publish(state, parent=None, provenance=Provenance(who="test"), golden=checks).version_id
    wrong = replace(checks, raw=-2 * checks.raw.flip(0))
    other = store.publish(state, parent=None, provenance=Provenance(who="test"), golden=wrong).version_id
    engine = Wrong()
    load = Loader(store, tiny_backbone, warm=2, engine=engine)
    served = load(sound)
    assert served.classifier.engine == "torch"
    assert len(engine.failed) == 1
    assert "image tower" in engine.failed[0]
    with pytest.raises(GoldenAnswersError):  # neither gives these
        load(other)
