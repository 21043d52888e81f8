"""How the model is run, from the settings: what is refused at start, and that threads and layout are as asked for."""

from __future__ import annotations

import asyncio
import importlib.util
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch

from app.metrics import Metrics
from app.serving.batcher import Batcher
from app.settings import Settings
from app.startup import StartupError, configure_base, engine_of, passes_of
from segp_cl.errors import ModelLoadError
from segp_cl.models.backbone import Backbone
from segp_cl.runtime.passes import PassSettings

CPU, GPU = torch.device("cpu"), torch.device("cuda:1")


@pytest.fixture
def model(tiny_backbone: Backbone) -> Backbone:
    """A copy, as its layout and compiler are changed."""
    return tiny_backbone.shared_copy()


def test_by_default_passes_are_eager_and_float32() -> None:
    passes = passes_of(Settings(threads=3), CPU)
    assert passes == PassSettings(warm=(1, 8), threads=3)
    assert passes_of(Settings(threads=3), GPU) == PassSettings(warm=(1, 32), most=32, on_gpu=True)


def test_settings_say_how_passes_are_made() -> None:
    settings = Settings(serving_precision="bfloat16", cuda_graphs=True, max_batch_size=3)
    assert passes_of(settings, GPU) == PassSettings(torch.bfloat16, (1, 2, 3), True, (1, 2, 3), most=3, on_gpu=True)


def test_no_more_images_are_gathered_than_are_cheaper_together() -> None:
    assert passes_of(Settings(), CPU).most == 8
    assert passes_of(Settings(max_batch_size=4), CPU).most == 4
    assert passes_of(Settings(), GPU).most == 32


def test_cuda_graphs_are_refused_on_a_cpu() -> None:
    with pytest.raises(StartupError, match=r"KEEPSIGHT_CUDA_GRAPHS needs a GPU.*runs on cpu"):
        passes_of(Settings(cuda_graphs=True), CPU)


def test_an_engine_that_was_asked_for_and_cannot_be_used_is_told_at_start(
    model: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert engine_of(Settings(), model, Metrics()).name == "torch"
    with pytest.raises(StartupError, match=r"KEEPSIGHT_ENGINE is openvino, .*not installed"):
        engine_of(Settings(engine="openvino"), model, Metrics())


def test_versions_that_torch_has_to_run_are_counted(
    model: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    metrics = Metrics()
    run = engine_of(Settings(engine_cache=tmp_path), model, metrics).image_pass(model, None)
    assert run.engine == "openvino"
    assert run.fall_back("it is told to")
    assert b"keepsight_engine_failures_total 1.0" in metrics.render()


def test_channels_last_images_reach_the_tower(model: Backbone) -> None:
    seen: list[bool] = []
    model.image_tower.register_forward_pre_hook(
        lambda _, inputs: seen.append(inputs[0].is_contiguous(memory_format=torch.channels_last))
    )
    size = model.preprocessing.size
    for channels_last in (False, True):
        configure_base(model, Settings(channels_last=channels_last))
        model.raw_features(torch.rand(2, 3, size, size))
    assert seen == [False, True]


def test_a_compiler_that_does_not_work_is_told_at_start(model: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: Backbone, *, backend: str = "inductor") -> None:
        raise RuntimeError("no working C++ compiler")

    monkeypatch.setattr(Backbone, "compile_towers", broken)
    with pytest.raises(StartupError, match=r"KEEPSIGHT_COMPILE is set, but .*RuntimeError"):
        configure_base(model, Settings(compile=True))


def test_a_torch_that_is_too_old_to_compile_says_so_itself(model: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda module, *, backend: module)
    with pytest.raises(ModelLoadError, match="too old"):
        configure_base(model, Settings(compile=True))


@pytest.fixture
def threads_as_before() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("threads_as_before")
def test_the_batcher_s_thread_runs_with_the_number_of_threads_that_was_set_in_another() -> None:
    def work(key: str, items: Sequence[int]) -> Sequence[int]:
        torch.ones(8).sum()
        return [torch.get_num_threads() for _ in items]

    for threads in (3, 1):
        setting = threading.Thread(target=torch.set_num_threads, args=(threads,))  # as at start: not the loop's thread
        setting.start()
        setting.join()
        batcher: Batcher[str, int, int] = Batcher(work, name="inference", max_batch_size=1)
        assert asyncio.run(batcher.run("", [0])) == [threads]
        batcher.close()
