"""One interface over every kind of base model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from torch import nn

from segp_cl.config import LearnerConfig
from segp_cl.errors import ModelLoadError, UnsupportedArchitectureError
from segp_cl.models.backbone import Backbone
from segp_cl.models.clip import CausalText, ClassTokenBlock, PaddedText, split_visual
from segp_cl.models.load import load_backbone
from segp_cl.types import ModelSpec
from tests.tolerances import FLOAT32_REORDERED

PROMPTS = ["a cat", "a photo of a very long sentence about nothing in particular.", "dog"]


@pytest.fixture(scope="module")
def clip(tiny_spec: ModelSpec) -> nn.Module:
    """The same weights through open_clip's own loader and forward pass."""
    model: nn.Module = open_clip.create_model(tiny_spec.name)
    return model.eval()


def test_features_are_open_clips_own(tiny_backbone: Backbone, clip: Any, tiny_spec: ModelSpec) -> None:
    pixels = torch.rand(3, 3, 32, 32)
    normalised = (pixels - tiny_backbone.get_buffer("mean")) / tiny_backbone.get_buffer("std")
    with torch.no_grad():
        assert torch.allclose(
            tiny_backbone.image_features(pixels), clip.encode_image(normalised, normalize=True), atol=FLOAT32_REORDERED
        )
        tokens = open_clip.get_tokenizer(tiny_spec.name)(PROMPTS)
        assert torch.allclose(
            tiny_backbone.text_features(PROMPTS), clip.encode_text(tokens, normalize=True), atol=FLOAT32_REORDERED
        )
    assert tiny_backbone.logit_scale == pytest.approx(clip.logit_scale.exp().item())


def test_raw_features_are_taken_before_the_projection(tiny_backbone: Backbone) -> None:
    raw = tiny_backbone.raw_features(torch.rand(2, 3, 32, 32))
    assert raw.shape == (2, tiny_backbone.raw_dim) == (2, 32)
    assert tiny_backbone.project(raw).shape == (2, tiny_backbone.joint_dim) == (2, 16)


def test_no_prompts_give_no_rows(tiny_backbone: Backbone) -> None:
    assert tiny_backbone.text_features([]).shape == (0, 16)


def test_nothing_is_trainable_and_nothing_is_in_training_mode(tiny_backbone: Backbone) -> None:
    assert not any(p.requires_grad for p in tiny_backbone.parameters())
    assert not any(m.training for m in tiny_backbone.modules())


def test_the_last_block_of_an_image_tower_is_run_for_its_class_token(tiny_backbone: Backbone) -> None:
    blocks: Any = tiny_backbone.image_tower.get_submodule("transformer.resblocks")
    lengths: list[int] = []
    handles = [block.register_forward_hook(lambda _, __, out: lengths.append(out.shape[1])) for block in blocks]
    tiny_backbone.raw_features(torch.rand(1, 3, 32, 32))
    for handle in handles:
        handle.remove()
    assert lengths[-1] == 1
    assert min(lengths[:-1]) > 1


def test_gradients_of_a_class_token_are_those_of_the_whole_block() -> None:
    from open_clip.transformer import ResidualAttentionBlock

    block = ResidualAttentionBlock(16, 2)
    x = torch.randn(2, 5, 16)
    grads = []
    for kind in (ResidualAttentionBlock, ClassTokenBlock):
        block.__class__ = kind
        block.zero_grad()
        block(x)[:, 0].square().sum().backward()
        grads.append({name: value.grad.clone() for name, value in block.named_parameters() if value.grad is not None})
    assert grads[0].keys() == grads[1].keys()
    assert all(
        torch.allclose(grads[0][name], grads[1][name], rtol=FLOAT32_REORDERED, atol=FLOAT32_REORDERED)
        for name in grads[0]
    )


@pytest.mark.parametrize("options", [{"pool_type": "avg"}, {"pool_type": "none"}, {"attentional_pool": True}])
def test_a_tower_that_reads_every_token_keeps_its_last_block(options: dict[str, Any]) -> None:
    from open_clip.transformer import VisionTransformer

    tower = VisionTransformer(32, 16, 16, 2, 2, 2.0, output_dim=8, **options)
    split_visual(tower)
    assert not any(isinstance(part, ClassTokenBlock) for part in tower.modules())


def test_a_class_token_block_refuses_what_it_does_not_compute(tiny_backbone: Backbone) -> None:
    blocks: Any = tiny_backbone.image_tower.get_submodule("transformer.resblocks")
    x = torch.rand(1, 3, 32)
    with pytest.raises(NotImplementedError):
        blocks[-1](x, attn_mask=torch.zeros(3, 3))


@pytest.mark.parametrize("pooling", ["argmax", "eos"])
def test_cropping_a_causal_text_tower_changes_nothing(pooling: str) -> None:
    from open_clip.transformer import TextTransformer

    tower = TextTransformer(
        context_length=77, vocab_size=50, width=32, heads=2, layers=3, output_dim=16, pool_type=pooling, eos_id=49
    ).eval()
    tokens = torch.zeros(4, 77, dtype=torch.int64)
    for row, length in enumerate((2, 9, 5, 1)):
        tokens[row, :length] = torch.randint(1, 49, (length,))
        tokens[row, length] = 49
    lengths: list[int] = []
    tower.transformer.register_forward_pre_hook(lambda _, args: lengths.append(args[0].shape[1]))
    cropped, full = CausalText(tower)(tokens), CausalText(tower, crop=False)(tokens)
    assert torch.allclose(cropped, full, atol=FLOAT32_REORDERED)
    assert torch.allclose(cropped, tower(tokens), atol=FLOAT32_REORDERED)
    assert lengths[0] == 10
    assert lengths[1] == 77


def test_gradients_survive_the_crop() -> None:
    from open_clip.transformer import TextTransformer

    tower = TextTransformer(context_length=20, vocab_size=50, width=32, heads=2, layers=2, output_dim=16).eval()
    tokens = torch.zeros(2, 20, dtype=torch.int64)
    tokens[:, 0], tokens[:, 1] = 3, 49
    grads = []
    for crop in (True, False):
        tower.zero_grad()
        CausalText(tower, crop=crop)(tokens).square().sum().backward()
        grads.append(tower.transformer.resblocks[0].mlp.c_fc.weight.grad.clone())
    assert torch.allclose(grads[0], grads[1], rtol=FLOAT32_REORDERED, atol=FLOAT32_REORDERED)


@pytest.mark.parametrize("options", [{"no_causal_mask": True, "pool_type": "last"}, {"embed_cls": True}])
def test_towers_that_look_ahead_are_run_in_full(options: dict[str, Any]) -> None:
    from open_clip.transformer import TextTransformer

    tower = TextTransformer(context_length=8, vocab_size=50, width=32, heads=2, layers=1, output_dim=16, **options)
    text = CausalText(tower.eval())
    tokens = torch.tensor([[3, 49, 0, 0, 0, 0, 0, 0]])
    assert not text.crop
    assert torch.equal(text(tokens), tower(tokens))


def test_trailing_padding_of_a_hugging_face_tower_is_not_run() -> None:
    from open_clip.hf_model import HFTextEncoder
    from transformers import BertConfig

    config = BertConfig(vocab_size=50, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32)
    tower = HFTextEncoder("", output_dim=8, config=config, pooler_type="mean_pooler", proj_type="linear").eval()
    tokens = torch.zeros(2, 30, dtype=torch.int64)
    tokens[0, :4], tokens[1, :7] = 5, 6
    assert torch.allclose(PaddedText(tower)(tokens), tower(tokens), atol=FLOAT32_REORDERED)


def vit() -> nn.Module:
    from open_clip.transformer import VisionTransformer

    tower: nn.Module = VisionTransformer(
        image_size=64, patch_size=16, width=16, layers=1, heads=2, mlp_ratio=2.0, output_dim=8
    )
    return tower


def resnet() -> nn.Module:
    from open_clip.modified_resnet import ModifiedResNet

    tower: nn.Module = ModifiedResNet(layers=(1, 1, 1, 1), output_dim=8, heads=4, image_size=64, width=8)
    return tower


def timm_with(proj: str) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        from open_clip.timm_model import TimmModel

        tower: nn.Module = TimmModel("resnet10t", embed_dim=8, image_size=64, pool="avg", proj=proj)
        return tower

    return build


@pytest.mark.parametrize(
    "build", [vit, resnet, timm_with("linear"), timm_with("mlp"), timm_with(""), timm_with("none")]
)
def test_an_image_tower_cut_in_two_is_still_the_same(build: Callable[[], nn.Module]) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        visual = build().eval()
    pixels = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        whole = visual(pixels)
        tower, head = split_visual(visual)
        raw = tower(pixels)
        assert raw.ndim == 2
        assert torch.allclose(head(raw), whole, atol=FLOAT32_REORDERED)


def test_an_unknown_image_tower_is_an_error() -> None:
    with pytest.raises(UnsupportedArchitectureError, match="Linear"):
        split_visual(nn.Linear(2, 2))


def test_serving_copy_shares_the_frozen_weights_and_leaves_the_base_alone(tiny_backbone: Backbone) -> None:
    student = tiny_backbone.shared_copy()
    generator = torch.Generator().manual_seed(1)
    adapters = student.adapt(LearnerConfig(rank=2), None, generator=generator)
    for b in adapters.trainable:
        b.data.normal_(generator=generator)
    pixels = torch.rand(2, 3, 32, 32)
    before, trained = tiny_backbone.raw_features(pixels), student.raw_features(pixels).detach()
    served = tiny_backbone.with_lora(adapters.state())
    adapters.merge()
    assert torch.allclose(served.raw_features(pixels), trained, atol=FLOAT32_REORDERED)
    assert torch.equal(tiny_backbone.raw_features(pixels), before)
    base = {p.data_ptr() for p in tiny_backbone.parameters()}
    copied = [name for name, p in served.named_parameters() if p.data_ptr() not in base]
    assert len(copied) == 12  # in each of four blocks the packed projection and two feed-forward weights
    assert not any(p.requires_grad for p in served.parameters())


def test_the_digest_follows_the_weights(tiny_spec: ModelSpec, tiny_backbone: Backbone, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    source = Path(tiny_spec.name.removeprefix("local-dir:"))
    weights = load_file(source / "open_clip_model.safetensors")
    weights["ln_final.bias"][0] += 1
    save_file(weights, tmp_path / "open_clip_model.safetensors")
    (tmp_path / "open_clip_config.json").write_bytes((source / "open_clip_config.json").read_bytes())
    other = load_backbone(ModelSpec(f"local-dir:{tmp_path}"))
    assert other.weights_digest != tiny_backbone.weights_digest
    assert load_backbone(tiny_spec).weights_digest == tiny_backbone.weights_digest


@pytest.mark.slow
def test_real_clip_loads_from_a_local_checkpoint(tmp_path: Path) -> None:
    """The real architecture, with random weights in the place of OpenAI's."""
    path = tmp_path / "vit-b-32.pt"
    model = open_clip.create_model("ViT-B-32-quickgelu")
    torch.save(model.state_dict(), path)
    backbone = load_backbone(ModelSpec("ViT-B-32-quickgelu", str(path)))
    assert (backbone.raw_dim, backbone.joint_dim) == (768, 512)
    pixels = torch.rand(1, 3, 224, 224)
    normalised = (pixels - backbone.get_buffer("mean")) / backbone.get_buffer("std")
    with torch.no_grad():
        assert torch.allclose(
            backbone.image_features(pixels),
            model.eval().encode_image(normalised, normalize=True),
            atol=FLOAT32_REORDERED,
        )
    adapters = backbone.adapt(LearnerConfig(rank=32), None, generator=torch.Generator())
    # the paper counts 3.44 M trained parameters for ViT-B/16, whose blocks are of the same size
    assert sum(b.numel() for b in adapters.trainable) == pytest.approx(3.44e6, rel=0.01)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (ModelSpec("ViT-B-17"), "no model named 'ViT-B-17'"),
        (ModelSpec("ViT-B-16"), "needs weights"),
        (ModelSpec("ViT-B-16", "/nowhere/weights.pt"), "no checkpoint file /nowhere/weights.pt"),
        (ModelSpec("ViT-B-16", "no-such-tag"), "could not load ViT-B-16"),
        (ModelSpec("local-dir:/nowhere"), "could not load local-dir:/nowhere"),
        (ModelSpec("compact", "openai"), "carries its own weights"),
    ],
)
def test_a_model_that_cannot_be_loaded_says_why(spec: ModelSpec, message: str) -> None:
    with pytest.raises(ModelLoadError, match=message):
        load_backbone(spec)
