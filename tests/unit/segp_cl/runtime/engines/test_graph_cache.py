"""Converted models on disk: found again, made again when damaged, and never the end of anything."""

from __future__ import annotations

import os
import stat
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import openvino
import pytest
import torch

from segp_cl.models.backbone import Backbone
from segp_cl.runtime.engines import graph_cache
from segp_cl.runtime.engines.compiled import CompiledTower
from segp_cl.runtime.engines.graph import convert, fill_in, weights_of
from segp_cl.runtime.engines.graph_cache import Converted, key_of, load_or_make
from tests.tolerances import FLOAT32_REORDERED

KEY = "0123456789abcdef"


@dataclass
class Maker:
    graph: openvino.Model
    made: int = field(default=0)

    def __call__(self) -> Converted:
        self.made += 1
        return Converted(self.graph, {"cosine": 1.0})


@pytest.fixture(scope="module")
def graph(tiny_backbone: Backbone) -> openvino.Model:
    return convert(tiny_backbone)


@pytest.fixture
def make(graph: openvino.Model) -> Maker:
    return Maker(graph)


def left_over(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name != KEY)


def test_what_was_made_once_is_found_and_computes_the_same(
    tmp_path: Path, make: Maker, tiny_backbone: Backbone
) -> None:
    load_or_make(tmp_path / "deep" / "cache", KEY, make)
    found = load_or_make(tmp_path / "deep" / "cache", KEY, make)
    assert make.made == 1
    assert found.record == {"cosine": 1.0}
    assert left_over(tmp_path / "deep" / "cache") == []
    weights = weights_of(tiny_backbone)
    size = tiny_backbone.preprocessing.size
    images = torch.rand(2, 3, size, size)
    one, other = (CompiledTower(fill_in(each, weights))(images) for each in (make.graph, found.graph))
    assert torch.allclose(one, other, atol=FLOAT32_REORDERED)


@pytest.mark.parametrize("name", [graph_cache.GRAPH, graph_cache.VALUES, graph_cache.RECORD])
@pytest.mark.parametrize("damage", [lambda data: data[:-1] + bytes([data[-1] ^ 1]), lambda data: b"", None])
def test_what_is_damaged_is_made_again(tmp_path: Path, make: Maker, name: str, damage: object) -> None:
    load_or_make(tmp_path, KEY, make)
    file = tmp_path / KEY / name
    if callable(damage):
        sound = file.read_bytes()
        file.write_bytes(damage(sound))
        if file.read_bytes() == sound:
            pytest.skip("the file is empty already")
    else:
        file.unlink()
    load_or_make(tmp_path, KEY, make)
    assert make.made == 2
    load_or_make(tmp_path, KEY, make)
    assert make.made == 2
    assert left_over(tmp_path) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_keeps_nothing(tmp_path: Path, make: Maker) -> None:
    tmp_path.chmod(stat.S_IRUSR | stat.S_IXUSR)
    assert load_or_make(tmp_path, KEY, make).graph is make.graph


def test_a_folder_that_cannot_be_made_keeps_nothing(
    tmp_path: Path, make: Maker, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    assert load_or_make(tmp_path / "file" / "cache", KEY, make).graph is make.graph
    assert "is not kept" in caplog.text


def test_a_full_disk_keeps_nothing_and_leaves_nothing(
    tmp_path: Path, make: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(graph_cache, "_sync", full)
    assert load_or_make(tmp_path, KEY, make).graph is make.graph
    assert left_over(tmp_path) == []
    assert not (tmp_path / KEY).exists()


def test_several_that_make_it_at_once_leave_one(tmp_path: Path, make: Maker) -> None:
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: load_or_make(tmp_path, KEY, make), range(8)))
    made = make.made
    load_or_make(tmp_path, KEY, make)
    assert make.made == made
    assert left_over(tmp_path) == []


def test_models_with_other_weights_have_other_keys(tiny_backbone: Backbone) -> None:
    other = tiny_backbone.shared_copy()
    other.weights_digest = "f" * 64
    here = key_of(tiny_backbone, bfloat16=False)
    assert here == key_of(tiny_backbone.shared_copy(), bfloat16=False)
    assert here != key_of(other, bfloat16=False)
    assert here != key_of(tiny_backbone, bfloat16=True)
