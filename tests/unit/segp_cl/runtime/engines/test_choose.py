"""Which engine runs: what is installed, what the settings ask for, and what was measured."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch
from torch import Tensor

from segp_cl.config import LearnerConfig
from segp_cl.models.backbone import Backbone
from segp_cl.runtime.adapters import image_part
from segp_cl.runtime.engines import openvino_engine
from segp_cl.runtime.engines.choose import choose_engine
from segp_cl.runtime.engines.compiled import CompiledTower
from segp_cl.runtime.engines.interface import EngineError, EngineUnavailableError
from segp_cl.runtime.engines.openvino_engine import open_engine
from segp_cl.runtime.engines.probing import check, compare_bfloat16
from segp_cl.runtime.engines.torch_engine import TorchEngine
from segp_cl.runtime.passes import PassSettings


def test_openvino_runs_where_it_is_installed(tiny_backbone: Backbone, tmp_path: Path) -> None:
    assert choose_engine(tiny_backbone, cache=tmp_path).name == "openvino"
    assert [path.name for path in tmp_path.glob("*/*.xml")] == ["graph.xml"]
    assert choose_engine(tiny_backbone, cache=tmp_path, wanted="openvino").name == "openvino"
    assert choose_engine(tiny_backbone, cache=tmp_path, wanted="torch").name == "torch"


def test_torch_runs_where_openvino_is_not_installed(
    tiny_backbone: Backbone, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with caplog.at_level("INFO"):
        assert choose_engine(tiny_backbone).name == "torch"
    assert "engine=torch, not openvino: it is not installed" in caplog.text
    with pytest.raises(EngineUnavailableError, match=r"keepsight\[openvino\]"):
        choose_engine(tiny_backbone, wanted="openvino")


def test_torch_runs_what_torch_compiles(tiny_backbone: Backbone) -> None:
    assert choose_engine(tiny_backbone, passes=PassSettings(sizes=(1, 2))).name == "torch"
    with pytest.raises(EngineUnavailableError, match=r"torch\.compile"):
        choose_engine(tiny_backbone, passes=PassSettings(sizes=(1, 2)), wanted="openvino")


@pytest.mark.parametrize("wanted", ["auto", "openvino"])
def test_torch_runs_on_other_devices(tiny_backbone: Backbone, monkeypatch: pytest.MonkeyPatch, wanted: str) -> None:
    monkeypatch.setattr(Backbone, "device", torch.device("cuda"))
    assert choose_engine(tiny_backbone, wanted=wanted).name == "torch"  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("step", "error"),
    [
        ("convert", EngineError("the image tower cannot be converted: no such operation")),
        ("open_engine", OSError("libtbb.so.12: cannot open shared object file")),  # a broken installation
    ],
)
def test_torch_runs_what_openvino_fails_to_open(
    tiny_backbone: Backbone,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    step: str,
    error: Exception,
) -> None:
    def refuse(*_: object, **settings: object) -> None:
        raise error

    monkeypatch.setattr(openvino_engine, step, refuse)
    with caplog.at_level("INFO"):
        assert choose_engine(tiny_backbone).name == "torch"
    assert str(error) in caplog.text
    with pytest.raises(EngineError, match=str(error)):
        choose_engine(tiny_backbone, wanted="openvino")


def test_answers_that_are_no_numbers_are_refused(tiny_backbone: Backbone) -> None:
    def half(images: Tensor) -> Tensor:
        raw = tiny_backbone.raw_features(images).clone()
        raw[-1] = torch.nan
        return raw

    with pytest.raises(EngineError, match="cosine -1"):
        check(tiny_backbone, half, sizes=(2, 3))


def test_a_conversion_that_answers_otherwise_is_refused(
    tiny_backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = CompiledTower._chunk
    monkeypatch.setattr(CompiledTower, "_chunk", lambda self, images: right(self, 1 - images))
    with pytest.raises(EngineError, match="cosine"):
        open_engine(tiny_backbone, TorchEngine())


@pytest.mark.parametrize(("noise", "fast"), [(1e-4, True), (0.1, False)])
def test_bfloat16_is_used_where_it_was_measured_to_answer_the_same(
    tiny_backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, noise: float, fast: bool
) -> None:
    asked: list[torch.dtype] = []
    right = CompiledTower._chunk

    class Cpu(CompiledTower):
        """A CPU with bfloat16, as far as this engine can see."""

        def __init__(self, filled: object, *, threads: int = 1, precision: torch.dtype = torch.float32) -> None:
            super().__init__(filled, threads=threads)
            asked.append(precision)
            self.rough = precision == torch.bfloat16

        def _chunk(self, images: Tensor) -> Tensor:
            raw = right(self, images)
            return raw * (1 + noise * torch.linspace(-1, 1, raw.shape[1])) if self.rough else raw

    monkeypatch.setattr(openvino_engine, "has_bfloat16", lambda: True)
    monkeypatch.setattr(openvino_engine, "CompiledTower", Cpu)
    engine = open_engine(tiny_backbone, TorchEngine(), cache=tmp_path)
    assert asked == [torch.float32, torch.bfloat16]
    run = engine.image_pass(tiny_backbone, None)
    assert run.engine == "openvino"
    assert asked[2:] == [torch.bfloat16 if fast else torch.float32]
    again = open_engine(tiny_backbone, TorchEngine(), cache=tmp_path)  # what was measured is written down
    again.image_pass(tiny_backbone, None)
    assert asked[3:] == asked[2:3]
    plain = open_engine(tiny_backbone, TorchEngine(), cache=tmp_path, precision="float32")
    plain.image_pass(tiny_backbone, None)
    assert asked[4:] == [torch.float32] * 2  # kept apart, for that arithmetic was not measured with it


@pytest.mark.parametrize("same", [True, False])
def test_the_base_model_s_tower_is_compared_once_and_every_other_one_by_itself(
    tiny_backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, same: bool
) -> None:
    open_engine(tiny_backbone, TorchEngine(), cache=tmp_path, precision="float32")
    compared: list[str] = []

    def comparing(model: Backbone, *args: object, **settings: object) -> float:
        compared.append(model.weights_digest)
        return 1.0

    monkeypatch.setattr(openvino_engine, "check", comparing)
    threads = 1 if same else 2  # which compiles it otherwise
    engine = open_engine(tiny_backbone, TorchEngine(), cache=tmp_path, precision="float32", threads=threads)
    own = engine.image_pass(tiny_backbone, None)
    assert own.engine == "openvino"
    assert len(compared) == (0 if same else 1)
    lora = tiny_backbone.shared_copy().adapt(LearnerConfig(rank=2), None, generator=torch.Generator()).state()
    engine.image_pass(tiny_backbone, image_part(lora))
    assert len(compared) == (1 if same else 2)


def test_bfloat16_by_name_needs_a_cpu_that_has_it(tiny_backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openvino_engine, "has_bfloat16", lambda: False)
    with pytest.raises(EngineUnavailableError, match="bfloat16"):
        open_engine(tiny_backbone, TorchEngine(), precision="bfloat16")


def test_a_comparison_counts_pictures_whose_nearest_other_changes() -> None:
    def exact(images: Tensor) -> Tensor:
        return images.mean(dim=(2, 3))

    assert compare_bfloat16(32, exact, exact, count=20).will_do
    found = compare_bfloat16(32, exact, lambda images: exact(images) + 1e-3 * images[:, :, 0, 0], count=40)
    assert 0 < found.same_top1 < 0.998
    assert found.cosine > 0.9999
    assert not found.will_do


def test_a_comparison_that_takes_too_long_decides_for_float32() -> None:
    def exact(images: Tensor) -> Tensor:
        return images.mean(dim=(2, 3))

    found = compare_bfloat16(32, exact, exact, count=40, longest_s=0.0)
    assert found.pictures < 40
    assert found.same_top1 == 1
    assert not found.will_do


def test_a_tower_is_checked_on_every_batch_size(tiny_backbone: Backbone) -> None:
    def wrong_for_three(images: Tensor) -> Tensor:
        raw = tiny_backbone.raw_features(images)
        return raw.flip(1) if len(images) == 3 else raw

    assert check(tiny_backbone, wrong_for_three, sizes=(1, 2)) > 0.99999
    with pytest.raises(EngineError, match=r"expected at least 0\.9999"):
        check(tiny_backbone, wrong_for_three, sizes=(1, 2, 3))
