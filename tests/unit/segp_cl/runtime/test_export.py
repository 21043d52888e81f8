"""A version as an ONNX model: the same answers, from the same pixels, for every kind of image tower."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from segp_cl.config import LearnerConfig
from segp_cl.data.image_sets import TensorImages
from segp_cl.data.preprocessing import Preprocessing
from segp_cl.learn.learner import initial_state, learn_task
from segp_cl.models.backbone import Backbone
from segp_cl.models.clip import split_visual
from segp_cl.models.load import load_backbone
from segp_cl.runtime import export
from segp_cl.runtime.classifier import Classifier, NoClassesError
from segp_cl.runtime.export import Exported, ExportedAnswers, ExportError, export_onnx, service_answers
from segp_cl.types import LearnedClass, LearnerState, ModelSpec, Task, TaskClass
from segp_cl.unknown import share_less_strange
from tests.unit.segp_cl.models.test_backbone import resnet, timm_with, vit

SIZE = 32
QUICK = LearnerConfig(epochs=1, align_steps=5)


def learned(base: Backbone, *, tasks: int = 2, images: int = 20) -> LearnerState:
    """Two classes a task, of pictures that differ in brightness."""
    state = initial_state(base)
    size = base.preprocessing.size
    generator = torch.Generator().manual_seed(0)
    for number in range(tasks):
        noise = torch.rand(2 * images, 3, size, size, generator=generator) * 0.4
        labels = [0] * images + [1] * images
        pixels = noise + torch.tensor(labels)[:, None, None, None] * 0.3 + 0.1 * number
        names = (f"dark {number}", f"bright {number}")
        classes = tuple(TaskClass(name, f"a photo of {name}.") for name in names)
        source = TensorImages((pixels.clamp(0, 1) * 255).to(torch.uint8), labels)
        task = Task(f"task {number}", classes, source)
        state = learn_task(state, task, config=QUICK, generator=generator, backbone=base).state
    return state


def pixels_of(base: Backbone, count: int, seed: int = 7) -> torch.Tensor:
    size = base.preprocessing.size
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, size, size), generator=generator, dtype=torch.uint8)


def answers(data: bytes, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return {
        name: torch.from_numpy(value)
        for name, value in zip(names, session.run(names, {"pixels": pixels.numpy()}), strict=True)
    }


@pytest.fixture(scope="module")
def state(tiny_backbone: Backbone) -> LearnerState:
    return learned(tiny_backbone)


@pytest.fixture(scope="module")
def classifier(tiny_backbone: Backbone, state: LearnerState) -> Classifier:
    return Classifier(tiny_backbone, state)


@pytest.fixture(scope="module")
def exported(classifier: Classifier, tiny_backbone: Backbone) -> Exported:
    return export_onnx(classifier, tiny_backbone.preprocessing, about={"version_id": "v"})


@pytest.mark.parametrize("count", [1, 2, 5])
def test_the_model_answers_as_the_service_does(
    exported: Exported, classifier: Classifier, tiny_backbone: Backbone, count: int
) -> None:
    pixels = pixels_of(tiny_backbone, count)
    found, expected = answers(exported.data, pixels), service_answers(classifier, pixels)
    assert found.keys() == expected.keys()
    assert {"probabilities", "unknown_score"} <= found.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=1e-4, check_dtype=False)
    torch.testing.assert_close(found["probabilities"].sum(dim=1), torch.ones(count), rtol=0, atol=1e-5)
    assert exported.difference < 1e-4


def test_the_metadata_says_what_goes_in_and_what_comes_out(exported: Exported, classifier: Classifier) -> None:
    model = onnx.load_from_string(exported.data)
    onnx.checker.check_model(model)
    about = {entry.key: entry.value for entry in model.metadata_props}
    assert about["format"] == "keepsight-onnx/1"
    assert about["version_id"] == "v"
    assert json.loads(about["labels"]) == list(classifier.state.class_names)
    assert json.loads(about["preprocessing"]) == {"size": SIZE, "interpolation": "bicubic", "resize": "shortest"}
    said = json.loads(about["answers"])
    assert said["fusion_weight"] == classifier.state.fusion_weight
    assert said["multipliers"]["fused"] == classifier.scale("fused")
    assert said["least_probability"]["0.9"] == classifier.least_probability("fused", 0.9)
    assert not any(node.metadata_props or node.doc_string for node in model.graph.node)


def test_it_is_what_was_merged_and_not_the_base_model(
    exported: Exported, tiny_backbone: Backbone, state: LearnerState
) -> None:
    assert state.moves_image_tower
    pixels = pixels_of(tiny_backbone, 3)
    bare = service_answers(Classifier(tiny_backbone, replace(state, lora=None)), pixels)
    assert float((answers(exported.data, pixels)["text_scores"] - bare["text_scores"]).abs().max()) > 1e-4


def test_a_version_that_cannot_tell_the_unknown_has_no_such_output(
    tiny_backbone: Backbone, state: LearnerState
) -> None:
    for plain in (replace(state, held_out=None), replace(state, sums=None, covariance=None)):
        classifier = Classifier(tiny_backbone, plain)
        assert ExportedAnswers(classifier).outputs == ("probabilities", "fused_scores", "text_scores", "visual_scores")
        made = export_onnx(classifier, tiny_backbone.preprocessing, about={})
        assert "unknown_score" not in answers(made.data, pixels_of(tiny_backbone, 2))


def test_the_share_is_the_services_for_every_strangeness(classifier: Classifier) -> None:
    held_out = classifier.state.held_out
    assert held_out is not None
    quantiles = torch.tensor([0.0, 1.0, 1.0, 1.0, 4.0, *range(5, 51)], dtype=torch.float64)
    share = export._Share(replace(held_out, strangeness=quantiles, images=20))
    values = torch.tensor([-5.0, 0.0, 0.5, 0.999, 1.0, 1.001, 3.9, 4.0, 8.0, 9.5, 49.9, 50.0, 90.0])
    expected = share_less_strange(values, quantiles, images=20)
    assert share(values).tolist() == pytest.approx(expected, abs=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("build", [vit, resnet, timm_with("linear"), timm_with("mlp")])
def test_every_kind_of_image_tower_is_exported(build: Callable[[], nn.Module], tiny_backbone: Backbone) -> None:
    tower, head = split_visual(build().eval())
    base = Backbone(
        spec=ModelSpec("built"),
        weights_digest="0" * 64,
        image_tower=tower,
        head=head,
        text_tower=tiny_backbone.text_tower,
        tokenize=tiny_backbone.tokenize,
        logit_scale=20.0,
        preprocessing=Preprocessing(size=64, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)),
    )
    blank = initial_state(base)
    generator = torch.Generator().manual_seed(0)
    text = nn.functional.normalize(torch.randn(3, base.joint_dim, generator=generator), dim=-1)
    prototypes = nn.functional.normalize(torch.randn(3, base.raw_dim, generator=generator), dim=-1)
    classes = tuple(LearnedClass(name, name, 1, 5) for name in ("a", "b", "c"))
    state = replace(blank, classes=classes, prototypes=prototypes, text_features=text, tasks=1)
    made = export_onnx(Classifier(base, state), base.preprocessing, about={})
    assert made.difference < 1e-4


@pytest.mark.slow
def test_compact_is_exported_with_its_head() -> None:
    base = load_backbone(ModelSpec("compact"))
    classifier = Classifier(base, learned(base, images=8))
    made = export_onnx(classifier, base.preprocessing, about={})
    assert made.difference < 1e-4
    pixels = pixels_of(base, 2)
    found = answers(made.data, pixels)["probabilities"]
    torch.testing.assert_close(found, service_answers(classifier, pixels)["probabilities"], rtol=0, atol=1e-4)


def test_a_version_without_classes_has_nothing_to_export(tiny_backbone: Backbone) -> None:
    with pytest.raises(NoClassesError):
        export_onnx(Classifier(tiny_backbone, initial_state(tiny_backbone)), tiny_backbone.preprocessing, about={})


def test_a_model_that_answers_otherwise_is_not_handed_out(
    classifier: Classifier, exported: Exported, monkeypatch: pytest.MonkeyPatch
) -> None:
    outputs = ExportedAnswers(classifier).outputs
    assert export._checked(exported.data, classifier, outputs, SIZE) == exported.difference
    model = onnx.load_from_string(exported.data)
    for weights in model.graph.initializer:
        values = onnx.numpy_helper.to_array(weights)
        if values.dtype == np.float32 and values.ndim == 2:
            weights.CopyFrom(onnx.numpy_helper.from_array(values * np.float32(1.5), weights.name))
    with pytest.raises(ExportError, match="answers otherwise than the service"):
        export._checked(model.SerializeToString(), classifier, outputs, SIZE)
    with pytest.raises(ExportError, match="cannot be run"):
        export._checked(exported.data[: len(exported.data) // 2], classifier, outputs, SIZE)
    monkeypatch.setattr(export, "MAX_DIFFERENCE", math.nan)
    with pytest.raises(ExportError, match="answers otherwise"):
        export._checked(exported.data, classifier, outputs, SIZE)


def test_a_model_that_onnx_cannot_say_is_an_error_that_names_it(tiny_backbone: Backbone, state: LearnerState) -> None:
    class Odd(nn.Module):
        def __init__(self, tower: nn.Module) -> None:
            super().__init__()
            self.tower = tower

        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            raw: torch.Tensor = self.tower(pixels)
            return raw if float(raw.sum()) > 0 else raw * 1.0  # depends on the data

    odd = tiny_backbone.shared_copy()
    odd.image_tower = Odd(odd.image_tower)
    with pytest.raises(ExportError, match="cannot be exported to ONNX"):
        export_onnx(Classifier(odd, replace(state, lora=None)), odd.preprocessing, about={})
