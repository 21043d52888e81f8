"""OpenVINO's passes against PyTorch's, which are the slow reference; what is shared, and what happens when it fails."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openvino
import pytest
import torch
from torch import Tensor, nn

from segp_cl.config import LearnerConfig
from segp_cl.models.backbone import Backbone
from segp_cl.runtime.adapters import image_part
from segp_cl.runtime.engines import compiled, openvino_engine
from segp_cl.runtime.engines.compiled import CompiledTower
from segp_cl.runtime.engines.graph import convert, fill_in, weights_of
from segp_cl.runtime.engines.interface import EngineError
from segp_cl.runtime.engines.openvino_engine import OpenVinoEngine
from segp_cl.runtime.engines.torch_engine import TorchEngine
from segp_cl.runtime.passes import CPU_CHUNK
from segp_cl.types import LoraFactors, LoraState
from tests.tolerances import FLOAT32_REORDERED


@pytest.fixture(scope="module")
def graph(tiny_backbone: Backbone) -> openvino.Model:
    return convert(tiny_backbone)


@pytest.fixture
def lora(tiny_backbone: Backbone) -> LoraState:
    """Adapters that move image tower and texts."""
    generator = torch.Generator().manual_seed(3)
    fresh = tiny_backbone.shared_copy().adapt(LearnerConfig(rank=4), None, generator=generator).state()
    moved = {
        target: LoraFactors(a=each.a, b=torch.randn(each.b.shape, generator=generator) * 0.1)
        for target, each in fresh.factors.items()
    }
    return LoraState(rank=fresh.rank, scale=fresh.scale, factors=moved)


def pixels(model: Backbone, count: int) -> Tensor:
    size = model.preprocessing.size
    return torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("count", [1, 2, 3, CPU_CHUNK, 2 * CPU_CHUNK + 1])
def test_features_are_those_of_torch(tiny_backbone: Backbone, graph: openvino.Model, threads: int, count: int) -> None:
    engine = OpenVinoEngine(graph, TorchEngine(), threads=threads)
    images = pixels(tiny_backbone, count)
    run, by_torch = (each.image_pass(tiny_backbone, None) for each in (engine, TorchEngine()))
    assert run.engine == "openvino"
    for given in (images, images / 255):
        with torch.inference_mode():
            assert torch.allclose(run(given), by_torch(given), atol=FLOAT32_REORDERED)


def test_a_version_s_own_weights_are_in_its_pass(
    tiny_backbone: Backbone, graph: openvino.Model, lora: LoraState
) -> None:
    engine, own = OpenVinoEngine(graph, TorchEngine()), image_part(lora)
    assert own is not None
    images = pixels(tiny_backbone, 3)
    with torch.inference_mode():
        found = engine.image_pass(tiny_backbone, own)(images)
        expected = TorchEngine().image_pass(tiny_backbone, own)(images)
        untouched = engine.image_pass(tiny_backbone, None)(images)
    assert torch.allclose(found, expected, atol=FLOAT32_REORDERED)
    assert not torch.allclose(found, untouched, atol=0.01)


def test_towers_with_the_same_adapters_are_compiled_once_and_go_with_the_last_version(
    tiny_backbone: Backbone, graph: openvino.Model, lora: LoraState, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[CompiledTower] = []

    class Counted(CompiledTower):
        def __init__(self, *args: Any, **settings: Any) -> None:
            super().__init__(*args, **settings)
            made.append(self)

    monkeypatch.setattr(openvino_engine, "CompiledTower", Counted)
    engine, own = OpenVinoEngine(graph, TorchEngine()), image_part(lora)
    passes = [engine.image_pass(tiny_backbone, each) for each in (None, own, None, own)]
    assert len(made) == 2
    made.clear()
    del passes
    gc.collect()
    kept = engine.image_pass(tiny_backbone, None)
    assert len(made) == 1
    assert kept.engine == "openvino"


def test_passes_that_overlap_do_not_mix(tiny_backbone: Backbone, graph: openvino.Model) -> None:
    run = OpenVinoEngine(graph, TorchEngine(), threads=2).image_pass(tiny_backbone, None)
    batches = [pixels(tiny_backbone, count) for count in (1, 4, 5, 8) for _ in range(4)]
    alone = [run(batch) for batch in batches]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(run, batches))
    assert all(torch.allclose(one, other, atol=FLOAT32_REORDERED) for one, other in zip(alone, together, strict=True))


def test_answers_stay_when_the_engine_s_memory_is_used_again(tiny_backbone: Backbone, graph: openvino.Model) -> None:
    run = OpenVinoEngine(graph, TorchEngine()).image_pass(tiny_backbone, None)
    first = run(pixels(tiny_backbone, 2))
    before = first.clone()
    run(pixels(tiny_backbone, 2))
    assert torch.equal(first, before)


def _failing(why: str) -> Callable[..., Tensor]:
    def run(self: CompiledTower, images: Tensor) -> Tensor:
        raise RuntimeError(why)

    return run


def test_an_engine_that_fails_at_run_time_gives_way_for_good_and_is_counted_once(
    tiny_backbone: Backbone, graph: openvino.Model, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    reasons: list[str] = []
    run = OpenVinoEngine(graph, TorchEngine(), failed=reasons.append).image_pass(tiny_backbone, None)
    images = pixels(tiny_backbone, 2)
    expected = TorchEngine().image_pass(tiny_backbone, None)(images)
    with monkeypatch.context() as patch:
        patch.setattr(CompiledTower, "_chunk", _failing("out of kernels"))
        assert torch.equal(run(images), expected)
    assert torch.equal(run(images), expected)
    assert run.engine == "torch"
    assert reasons == ["RuntimeError: out of kernels"]
    assert "engine=openvino gives way to torch" in caplog.text


def test_images_that_no_engine_can_run_do_not_cost_the_engine(tiny_backbone: Backbone, graph: openvino.Model) -> None:
    reasons: list[str] = []
    run = OpenVinoEngine(graph, TorchEngine(), failed=reasons.append).image_pass(tiny_backbone, None)
    with pytest.raises(RuntimeError):
        run(torch.zeros(1, 3, 7, 7, dtype=torch.uint8))
    assert run.engine == "openvino"
    assert reasons == []
    assert len(run(pixels(tiny_backbone, 1))) == 1


def test_a_tower_that_cannot_be_compiled_is_run_by_torch(
    tiny_backbone: Backbone, graph: openvino.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: object, **settings: object) -> CompiledTower:
        raise RuntimeError("no memory")

    monkeypatch.setattr(openvino_engine, "CompiledTower", broken)
    reasons: list[str] = []
    run = OpenVinoEngine(graph, TorchEngine(), failed=reasons.append).image_pass(tiny_backbone, None)
    images = pixels(tiny_backbone, 1)
    assert run.engine == "torch"
    assert reasons == ["RuntimeError: no memory"]
    assert torch.equal(run(images), TorchEngine().image_pass(tiny_backbone, None)(images))


@pytest.mark.parametrize("right_until", [0, 2])
def test_a_tower_that_answers_otherwise_than_torch_is_run_by_torch(
    tiny_backbone: Backbone, graph: openvino.Model, monkeypatch: pytest.MonkeyPatch, right_until: int
) -> None:
    """Small towers are compiled twice, and passes of many images take the second: it is compared too."""
    right = CompiledTower._chunk

    def wrong(self: CompiledTower, images: Tensor) -> Tensor:
        return right(self, images if len(images) <= right_until else 1 - images / 255)

    monkeypatch.setattr(CompiledTower, "_chunk", wrong)
    reasons: list[str] = []
    engine = OpenVinoEngine(graph, TorchEngine(), threads=2, failed=reasons.append)
    assert engine.image_pass(tiny_backbone, None).engine == "torch"
    assert len(reasons) == 1
    assert "cosine" in reasons[0]


def test_many_threads_that_meet_a_failure_count_it_once(
    tiny_backbone: Backbone, graph: openvino.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    reasons: list[str] = []
    run = OpenVinoEngine(graph, TorchEngine(), failed=reasons.append).image_pass(tiny_backbone, None)
    met = threading.Barrier(4, timeout=60)

    def fails(self: CompiledTower, images: Tensor) -> Tensor:
        met.wait()
        raise RuntimeError("gone")

    monkeypatch.setattr(CompiledTower, "_chunk", fails)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(run, [pixels(tiny_backbone, 1) for _ in range(4)]))
    assert [len(each) for each in found] == [1, 1, 1, 1]
    assert len(reasons) == 1


def test_a_graph_of_another_tower_is_refused(tiny_backbone: Backbone, graph: openvino.Model) -> None:
    weights = weights_of(tiny_backbone)
    removed = next(iter(weights))
    with pytest.raises(EngineError, match=removed):
        fill_in(graph, {name: each for name, each in weights.items() if name != removed})


def test_a_tower_with_operations_that_cannot_be_converted_is_refused(tiny_backbone: Backbone) -> None:
    class Odd(nn.Module):
        def __init__(self, tower: nn.Module) -> None:
            super().__init__()
            self.tower = tower

        def forward(self, images: Tensor) -> Tensor:
            features: Tensor = self.tower(images) + torch.linalg.eigvalsh(torch.eye(3)).sum()
            return features

    model = tiny_backbone.shared_copy()
    model.image_tower = Odd(model.image_tower)
    with pytest.raises(EngineError, match="cannot be converted"):
        convert(model)


def test_large_towers_are_compiled_once_for_all_batches(
    tiny_backbone: Backbone, graph: openvino.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled = fill_in(graph, weights_of(tiny_backbone))
    images = pixels(tiny_backbone, 8)
    small = CompiledTower(filled, threads=2)
    monkeypatch.setattr(compiled, "SMALL_BYTES", 1000)
    large = CompiledTower(filled, threads=2)
    assert hasattr(small, "_alone")
    assert not hasattr(large, "_alone")
    assert torch.allclose(large(images), small(images), atol=FLOAT32_REORDERED)


SIGNALLED = """
import os, signal, threading
import numpy as np
import openvino
import torch
from openvino import opset13
from segp_cl.runtime.engines.compiled import CompiledTower

images = opset13.parameter([-1, 3, 4, 4], np.float32)
towers = [CompiledTower(openvino.Model([opset13.relu(images)], [images]))]
towers[0](torch.zeros(1, 3, 4, 4))
dropping = threading.Thread(target=towers.clear)
dropping.start()
dropping.join()
seen = []
signal.signal(signal.SIGTERM, lambda *_: seen.append("seen"))
os.kill(os.getpid(), signal.SIGTERM)
print(*seen)
"""


@pytest.mark.slow
def test_signals_arrive_after_a_tower_has_gone_in_another_thread_than_it_was_compiled_in() -> None:
    ran = subprocess.run([sys.executable, "-c", SIGNALLED], capture_output=True, text=True)
    assert (ran.returncode, ran.stdout) == (0, "seen\n"), ran.stderr
