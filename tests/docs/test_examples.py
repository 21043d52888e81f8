"""What the documentation tells a reader to run is run here, against a store and a server of the test's own."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from starlette.testclient import TestClient

from app.main import create_app
from app.metrics import Metrics
from app.settings import Settings
from keepsight.demo.data import digits
from model_store.store import Store
from model_store.types import Provenance, VersionId
from segp_cl.data.decoding import read_pixels
from segp_cl.learn.learner import initial_state
from segp_cl.models.backbone import Backbone
from segp_cl.runtime.classifier import Classifier
from segp_cl.runtime.export import export_onnx
from segp_cl.types import LearnedClass, ModelSpec
from tests.docs.markdown import DOCS, ROOT, blocks, command_lines, read

README = ROOT / "README.md"
URL = "http://127.0.0.1:8000"
DIGITS = ("zero", "one", "two", "three")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the reader is."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def versions(folder: Path, tiny_backbone: Backbone) -> list[VersionId]:
    """Two versions in `var/store`, the second current."""
    store = Store(Path("var/store"))
    blank = initial_state(tiny_backbone)
    prompts = [f"a photo of a {name}." for name in DIGITS]
    with torch.no_grad():
        text = tiny_backbone.text_features(prompts).clone()
    generator = torch.Generator().manual_seed(0)
    prototypes = F.normalize(torch.randn(len(DIGITS), tiny_backbone.raw_dim, generator=generator), dim=-1)
    classes = tuple(LearnedClass(name, prompt, 1, 5) for name, prompt in zip(DIGITS, prompts, strict=True))
    learned = replace(blank, classes=classes, prototypes=prototypes, text_features=text, tasks=1)
    made: list[VersionId] = []
    for state in (blank, learned):
        parent = made[-1] if made else None
        made.append(store.publish(state, parent=parent, provenance=Provenance()).version_id)
        store.promote(made[-1], expected=parent, who="test")
    return made


@pytest.fixture
def client(
    versions: list[VersionId], tiny_spec: ModelSpec, tiny_backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> Iterator[TestClient]:
    """A server on those versions. Nothing answers where its Redis should be."""
    monkeypatch.setattr("app.startup.load_backbone", lambda *_, **__: tiny_backbone)
    settings = Settings(model=tiny_spec.name, device="cpu", threads=1, redis_url="redis://127.0.0.1:1/0")
    with TestClient(create_app(settings), base_url=URL) as client:
        yield client


def readme_curl() -> list[str]:
    return next(words for words in command_lines(README) if words[0] == "curl")


def shape(value: Any) -> Any:
    """Keys and types, not values: what an answer looks like. Of a list, its first element."""
    if isinstance(value, dict):
        return {key: shape(item) for key, item in value.items()}
    if isinstance(value, list):
        return [shape(value[0])] if value else []
    return type(value).__name__


def test_the_readmes_request_gets_an_answer_of_the_shape_that_is_shown(client: TestClient) -> None:
    words = readme_curl()
    fields = dict(words[n + 1].split("=", 1) for n, word in enumerate(words) if word == "-F")
    name = fields.pop("images").removeprefix("@")
    picture = io.BytesIO()
    Image.new("L", (96, 96), 200).save(picture, "PNG")
    answer = client.post(words[-1], files={"images": (Path(name).name, picture.getvalue())}, data=fields)
    assert answer.status_code == 200, answer.text
    shown = json.loads(next(block.text for block in blocks(README) if block.language == "json"))
    seen, expected = shape(answer.json()), shape(shown)
    told = {"unknown": "bool", "unknown_score": "float"}
    assert {name: expected["results"][0][name] for name in told} == told
    expected["results"][0].update(dict.fromkeys(told, "NoneType"))  # no image was held out of this version
    assert seen == expected
    assert len(shown["results"][0]["predictions"]) == int(fields["top_k"])
    assert shown["results"][0]["filename"] == Path(name).name


@pytest.mark.parametrize("short", [False, True])
def test_the_readmes_image_is_one_that_the_demo_writes_and_keeps_back(
    short: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # only the names matter here, so nothing is drawn
    monkeypatch.setattr(Image.Image, "resize", lambda image, *_, **__: image)
    monkeypatch.setattr(Image.Image, "save", lambda _, path: Path(path).touch())
    name = next(word for word in readme_curl() if word.startswith("images=@")).partition("@")[2]
    held_out = [path for task in digits(tmp_path, short=short).tasks for path, _ in task.held_out]
    assert tmp_path / Path(name).relative_to("var/demo/images") in held_out


def test_the_python_of_the_operations_page_runs(
    tiny_backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    store = Store(tmp_path / "store")
    text = tiny_backbone.text_features(["a cat", "a dog"]).clone()
    classes = (LearnedClass("cat", "a cat", 1, 5), LearnedClass("dog", "a dog", 1, 5))
    blank = initial_state(tiny_backbone)
    prototypes = torch.nn.functional.normalize(torch.ones(2, tiny_backbone.raw_dim), dim=1)
    state = replace(blank, classes=classes, prototypes=prototypes, text_features=text, tasks=1)
    version = store.publish(state, parent=None, provenance=Provenance()).version_id
    Path("pets.safetensors").write_bytes(store.in_one_file(version))
    classifier = Classifier(tiny_backbone, state)
    Path("pets.onnx").write_bytes(export_onnx(classifier, tiny_backbone.preprocessing, about={}).data)
    Path("photos/cat").mkdir(parents=True)
    noise = torch.randint(0, 256, (50, 70, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    Image.fromarray(noise.numpy()).save("photos/cat/1.jpg")
    examples = [block.text for block in blocks(DOCS / "operations.md") if block.language == "python"]
    assert len(examples) == 2
    found: dict[str, Any] = {}
    for example in examples:
        exec(compile(example, "operations.md", "exec"), found)
    assert capsys.readouterr().out.startswith(f"['cat', 'dog'] (2, {tiny_backbone.raw_dim})\n")
    pixels = read_pixels(Path("photos/cat/1.jpg").read_bytes(), tiny_backbone.preprocessing)
    assert (found["pixels"][0] == pixels.numpy()).all()
    expected = classifier.class_probabilities(classifier.scores(pixels[None]).fused, "fused")[0]
    assert found["probabilities"] == pytest.approx(expected.numpy(), abs=1e-5)


def test_metrics_that_are_named_exist() -> None:
    metrics = Metrics()
    metrics.requests.labels("GET", "/", "200").inc()
    exported = metrics.render().decode()
    named = set(re.findall(r"`(keepsight_\w+)`", read(DOCS / "operations.md")))
    assert named
    assert {name for name in named if name not in exported} == set()
