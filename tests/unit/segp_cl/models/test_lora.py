"""LoRA reaches every architecture, merges exactly and comes off without a trace."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from segp_cl.config import LearnerConfig
from segp_cl.errors import IncompatibleStateError, UnsupportedArchitectureError
from segp_cl.models.backbone import Backbone
from segp_cl.models.clip import CausalText, PaddedText, split_visual
from segp_cl.models.lora import Adapters, LoraOutput, LoraWeight, Target, bake, find_targets, initial_factors, new_lora
from segp_cl.types import LoraFactors, LoraState
from tests.tolerances import FLOAT32_REORDERED

CONFIG = LearnerConfig(rank=2)
FRACTIONS = {"image": 1.0, "text": 1.0}


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def with_random_b(lora: LoraState) -> LoraState:
    draw = generator()
    return LoraState(
        lora.rank,
        lora.scale,
        {
            key: LoraFactors(a=f.a, b=torch.empty_like(f.b).normal_(std=0.2, generator=draw))
            for key, f in lora.factors.items()
        },
    )


def open_clip_vit() -> nn.Module:
    from open_clip.transformer import VisionTransformer

    tower = VisionTransformer(image_size=16, patch_size=8, width=16, layers=2, heads=2, mlp_ratio=2.0, output_dim=8)
    return split_visual(tower)[0]


def timm_vit() -> nn.Module:
    import timm

    tower: nn.Module = timm.create_model(
        "vit_tiny_patch16_224", img_size=32, depth=2, embed_dim=24, num_heads=2, num_classes=0
    )
    return tower


def open_clip_resnet() -> nn.Module:
    from open_clip.modified_resnet import ModifiedResNet

    return split_visual(ModifiedResNet(layers=(1, 1, 1, 1), output_dim=8, heads=4, image_size=64, width=8))[0]


def timm_convnet() -> nn.Module:
    import timm

    tower: nn.Module = timm.create_model("tf_efficientnet_lite0", num_classes=0)
    return tower


def open_clip_text() -> nn.Module:
    from open_clip.transformer import TextTransformer

    return CausalText(TextTransformer(context_length=12, vocab_size=50, width=16, heads=2, layers=2, output_dim=8))


def hugging_face_text() -> nn.Module:
    from open_clip.hf_model import HFTextEncoder
    from transformers import BertConfig

    config = BertConfig(vocab_size=50, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32)
    tower = HFTextEncoder("", output_dim=8, config=config, pooler_type="mean_pooler", proj_type="linear")
    return PaddedText(tower)


def images(size: int) -> Callable[[], Tensor]:
    return lambda: torch.rand(2, 3, size, size, generator=generator())


def tokens() -> Tensor:
    prompts = torch.zeros(3, 12, dtype=torch.int64)
    for row, length in enumerate((3, 5, 4)):
        prompts[row, :length] = torch.randint(1, 49, (length,), generator=generator())
        prompts[row, length] = 49
    return prompts


TOWERS = [
    pytest.param(
        "image", open_clip_vit, images(16), 8, "transformer.resblocks.0.attn.in_proj_weight[k]", id="open_clip-vit"
    ),
    pytest.param("image", timm_vit, images(32), 8, "blocks.1.attn.qkv.weight[v]", id="timm-vit"),
    pytest.param("image", open_clip_resnet, images(64), 14, "layer4.0.conv3.weight", id="open_clip-resnet"),
    pytest.param("image", timm_convnet, images(64), 32, "conv_head.weight", id="timm-convnet"),
    pytest.param(
        "text", open_clip_text, tokens, 8, "tower.transformer.resblocks.1.mlp.c_proj.weight", id="open_clip-text"
    ),
    pytest.param(
        "text", hugging_face_text, tokens, 8, "tower.transformer.encoder.layer.0.attention.self.key.weight", id="bert"
    ),
]


@pytest.mark.parametrize(("name", "build", "inputs", "count", "example"), TOWERS)
class TestEveryArchitecture:
    def prepared(self, build: Callable[[], nn.Module]) -> nn.Module:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            tower = build().eval().requires_grad_(False)
        for module in tower.modules():
            if isinstance(module, nn.BatchNorm2d):  # zero at initialisation, so no branch would be heard
                nn.init.ones_(module.weight)
        return tower

    def test_its_targets_are_found(
        self, name: str, build: Callable[[], nn.Module], inputs: Callable[[], Tensor], count: int, example: str
    ) -> None:
        targets = find_targets(self.prepared(build), name, attention=True, feed_forward=True, fraction=1.0)
        keys = [t.key for t in targets]
        assert f"{name}.{example}" in keys
        assert len(keys) == len(set(keys)) == count

    def test_fresh_adapters_change_nothing_and_every_b_gets_a_gradient(
        self, name: str, build: Callable[[], nn.Module], inputs: Callable[[], Tensor], count: int, example: str
    ) -> None:
        tower = self.prepared(build)
        before = tower(inputs())
        lora = new_lora({name: tower}, CONFIG, fractions=FRACTIONS, generator=generator())
        adapters = Adapters({name: tower}, lora)
        after = tower(inputs())
        assert torch.allclose(before, after, atol=FLOAT32_REORDERED)
        after.square().sum().backward()
        assert all(b.grad is not None and b.grad.abs().sum() > 0 for b in adapters.trainable)
        trained = {id(p) for p in adapters.trainable}
        assert not any(p.requires_grad for p in tower.parameters() if id(p) not in trained)

    def test_merged_unmerged_and_baked_agree(
        self, name: str, build: Callable[[], nn.Module], inputs: Callable[[], Tensor], count: int, example: str
    ) -> None:
        tower, served = self.prepared(build), self.prepared(build)
        before = tower(inputs())
        lora = with_random_b(new_lora({name: tower}, CONFIG, fractions=FRACTIONS, generator=generator()))
        adapters = Adapters({name: tower}, lora)
        unmerged = tower(inputs())
        assert (unmerged - before).abs().max() > 1e-3
        adapters.merge()
        assert torch.allclose(tower(inputs()), unmerged, atol=FLOAT32_REORDERED)
        bake({name: served}, adapters.state())
        assert torch.allclose(served(inputs()), unmerged, atol=FLOAT32_REORDERED)
        adapters.unmerge()
        assert torch.equal(tower(inputs()), unmerged)
        with adapters.disabled():
            assert torch.equal(tower(inputs()), before)


def test_packed_projection_changes_k_and_v_rows_only() -> None:
    weight = torch.zeros(6, 4)
    targets = [
        Target("image", "attn", "in_proj_weight", (2, 4), "k"),
        Target("image", "attn", "in_proj_weight", (4, 6), "v"),
    ]
    factors = [LoraFactors(a=torch.ones(1, 4), b=torch.full((2, 1), value)) for value in (1.0, 2.0)]
    effective = LoraWeight(weight, targets, factors, scale=0.5)(weight)
    assert effective.tolist() == [[0.0] * 4] * 2 + [[0.5] * 4] * 2 + [[1.0] * 4] * 2


def test_gradient_of_b_matches_finite_differences() -> None:
    weight = torch.randn(3, 4, generator=generator(), dtype=torch.float64)
    factor = initial_factors(3, 4, rank=2, init="kaiming", generator=generator(), dtype=torch.float64)
    adapter = LoraWeight(weight, [Target("text", "", "weight", None, "")], [factor], scale=0.7)

    def through_b(b: Tensor) -> Tensor:
        effective: Tensor = torch.func.functional_call(adapter, {"b.0": b}, (weight,))
        return effective

    assert torch.autograd.gradcheck(through_b, (torch.rand(3, 2, dtype=torch.float64, requires_grad=True),))


@pytest.mark.parametrize(
    ("layer", "inputs"),
    [
        (lambda: nn.Linear(6, 5), torch.randn(2, 7, 6, generator=generator())),
        (lambda: nn.Conv2d(6, 5, 1, stride=2), torch.randn(2, 6, 4, 4, generator=generator())),
    ],
    ids=["linear", "1x1 convolution"],
)
def test_adding_to_the_output_equals_changing_the_weight_forward_and_gradient(
    layer: Callable[[], nn.Linear | nn.Conv2d], inputs: Tensor
) -> None:
    fast, slow = layer(), layer()
    slow.load_state_dict(fast.state_dict())
    factors = initial_factors(5, 6, rank=2, init="kaiming", generator=generator())
    factors = LoraFactors(factors.a, torch.randn(5, 2, generator=generator()))
    added = LoraOutput(fast, factors, 0.7)
    changed = LoraWeight(slow.weight, [Target("text", "", "weight", None, "")], [factors], 0.7)
    x, y = inputs.clone().requires_grad_(), inputs.clone().requires_grad_()
    outputs = [fast(x), torch.func.functional_call(slow, {"weight": changed(slow.weight)}, (y,))]
    assert torch.allclose(outputs[0], outputs[1], atol=FLOAT32_REORDERED)
    for output in outputs:
        output.square().sum().backward()
    assert added.b[0].grad is not None
    assert changed.b[0].grad is not None
    assert torch.allclose(added.b[0].grad, changed.b[0].grad, rtol=FLOAT32_REORDERED, atol=FLOAT32_REORDERED)
    assert x.grad is not None
    assert y.grad is not None
    assert torch.allclose(x.grad, y.grad, rtol=FLOAT32_REORDERED, atol=FLOAT32_REORDERED)


def test_only_the_last_blocks_are_adapted() -> None:
    keys = [t.key for t in find_targets(open_clip_vit(), "image", attention=True, feed_forward=True, fraction=0.5)]
    assert len(keys) == 4
    assert all(".resblocks.1." in key for key in keys)


def test_attention_and_feed_forward_can_be_switched_off() -> None:
    attention = find_targets(open_clip_vit(), "image", attention=True, feed_forward=False, fraction=1.0)
    feed_forward = find_targets(open_clip_vit(), "image", attention=False, feed_forward=True, fraction=1.0)
    assert {t.part for t in attention} == {"k", "v"}
    assert {t.part for t in feed_forward} == {""}


def test_squeeze_and_excitation_gates_are_not_feed_forward_layers() -> None:
    import timm

    tower = timm.create_model("efficientnet_b0", num_classes=0)
    keys = [t.key for t in find_targets(tower, "image", attention=True, feed_forward=True, fraction=1.0)]
    assert keys
    assert not any(".se." in key for key in keys)


def test_an_architecture_without_targets_is_an_error() -> None:
    tower = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    with pytest.raises(UnsupportedArchitectureError, match="image tower"):
        find_targets(tower, "image", attention=True, feed_forward=True, fraction=1.0)


@pytest.mark.parametrize("init", ["kaiming", "xavier"])
def test_the_same_seed_gives_the_same_a(init: str) -> None:
    first = initial_factors(8, 6, rank=4, init=init, generator=generator())
    second = initial_factors(8, 6, rank=4, init=init, generator=generator())
    assert torch.equal(first.a, second.a)
    assert first.a.abs().sum() > 0
    assert not first.b.any()


def test_rank_is_capped_by_the_matrix() -> None:
    assert initial_factors(3, 5, rank=64, init="kaiming", generator=generator()).a.shape == (3, 5)


def test_adapters_of_another_model_are_refused(tiny_backbone: Backbone) -> None:
    config = LearnerConfig(rank=2)
    lora = new_lora(tiny_backbone.shared_copy().towers, config, fractions=FRACTIONS, generator=generator())
    renamed = LoraState(2, 1.0, {key.replace("resblocks.0", "resblocks.9"): f for key, f in lora.factors.items()})
    with pytest.raises(IncompatibleStateError, match=r"resblocks\.9"):
        tiny_backbone.with_lora(renamed)
    with pytest.raises(IncompatibleStateError, match=r"resblocks\.9"):
        tiny_backbone.check_lora(renamed)
    key = next(iter(lora.factors))
    misshaped = LoraState(2, 1.0, {key: LoraFactors(a=torch.zeros(2, 7), b=torch.zeros(5, 2))})
    with pytest.raises(IncompatibleStateError, match="5x7"):
        tiny_backbone.with_lora(misshaped)
    with pytest.raises(IncompatibleStateError, match="5x7"):
        tiny_backbone.check_lora(misshaped)
