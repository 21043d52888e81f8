"""Packed layers beside the plain ones that they stand for."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segp_cl.config import LearnerConfig
from segp_cl.models.backbone import Backbone
from segp_cl.models.clip import ClassTokenBlock
from segp_cl.runtime import packed
from segp_cl.runtime.packed import (
    PackedAttention,
    PackedLinear,
    PackedPatches,
    PackedPointwise,
    Packs,
    can_pack,
    fusable,
    pack,
    pack_model,
    packed_whitening,
)
from segp_cl.runtime.passes import PassSettings
from segp_cl.statistics import Whitening
from segp_cl.types import LoraFactors, LoraState
from tests.tolerances import FLOAT32_REORDERED

PROMPTS = ["a cat", "two dogs on a lawn"]


@pytest.fixture(autouse=True)
def without_gradients() -> Iterator[None]:
    if not can_pack():
        pytest.skip("this build of PyTorch has no packed products")
    with torch.inference_mode():
        yield


@pytest.fixture
def packs() -> Packs:
    return Packs([])


@pytest.fixture
def lora(tiny_backbone: Backbone) -> LoraState:
    """Adapters that change the model visibly."""
    generator = torch.Generator().manual_seed(0)
    fresh = tiny_backbone.shared_copy().adapt(LearnerConfig(), None, generator=generator).state()
    factors = {
        key: LoraFactors(a=f.a, b=torch.randn(f.b.shape, generator=generator)) for key, f in fresh.factors.items()
    }
    return LoraState(rank=fresh.rank, scale=fresh.scale, factors=factors)


def pixels(backbone: Backbone, count: int = 3) -> Tensor:
    size = backbone.preprocessing.size
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(count))


def packed_copy(base: Backbone, lora: LoraState | None) -> Backbone:
    copy = base.with_lora(lora)
    pack_model(copy, base)
    return copy


def kinds(module: nn.Module) -> set[type]:
    return {type(part) for part in module.modules()}


@pytest.mark.parametrize("adapted", [False, True])
def test_a_packed_copy_gives_the_features_of_a_plain_one(
    tiny_backbone: Backbone, lora: LoraState, adapted: bool
) -> None:
    given = lora if adapted else None
    plain, copy = tiny_backbone.with_lora(given), packed_copy(tiny_backbone, given)
    images = pixels(tiny_backbone)
    assert torch.allclose(copy.image_features(images), plain.image_features(images), atol=FLOAT32_REORDERED)
    assert torch.allclose(copy.text_features(PROMPTS), plain.text_features(PROMPTS), atol=FLOAT32_REORDERED)
    unadapted = tiny_backbone.image_features(images)
    assert torch.allclose(copy.image_features(images), unadapted, atol=FLOAT32_REORDERED) is not adapted


def test_all_of_the_towers_is_packed_and_nothing_of_the_base(tiny_backbone: Backbone) -> None:
    copy = packed_copy(tiny_backbone, None)
    assert not kinds(copy.image_tower) & {nn.Linear, nn.MultiheadAttention, nn.Conv2d}
    assert {PackedLinear, PackedAttention, PackedPatches, ClassTokenBlock} <= kinds(copy.image_tower)
    assert not kinds(copy.text_tower) & {nn.Linear, nn.MultiheadAttention}
    assert not kinds(tiny_backbone) & {PackedLinear, PackedAttention, PackedPatches}


def test_frozen_weights_are_laid_out_once_for_all_copies(tiny_backbone: Backbone, lora: LoraState) -> None:
    def weights(copy: Backbone) -> dict[str, Tensor]:
        named = copy.named_modules()
        return {name: part._packed for name, part in named if isinstance(part, PackedLinear)}

    key = next(key for key in lora.factors if key.startswith("image.") and "mlp.c_fc" in key)
    one = LoraState(rank=lora.rank, scale=lora.scale, factors={key: lora.factors[key]})
    first = weights(packed_copy(tiny_backbone, None))
    second = weights(packed_copy(tiny_backbone, one))
    adapted = "image_tower." + key.removeprefix("image.").removesuffix(".weight")
    assert {name for name in first if first[name] is not second[name]} == {adapted}


def test_compact_is_packed_as_its_tower_says() -> None:
    from segp_cl.models.compact import load_compact

    base = load_compact()
    copy = packed_copy(base, None)
    assert PackedPointwise in kinds(copy.image_tower)
    assert PackedLinear in kinds(copy.text_tower)
    images = pixels(base)
    assert torch.allclose(copy.raw_features(images), base.raw_features(images), atol=FLOAT32_REORDERED)
    assert torch.allclose(copy.image_features(images), base.image_features(images), atol=FLOAT32_REORDERED)
    assert torch.allclose(copy.text_features(PROMPTS), base.text_features(PROMPTS), atol=FLOAT32_REORDERED)


@pytest.mark.parametrize("activation", [nn.GELU(), nn.GELU(approximate="tanh"), nn.ReLU(), nn.ReLU6()])
@pytest.mark.parametrize("bias", [True, False])
def test_an_activation_after_a_linear_is_computed_with_it(packs: Packs, activation: nn.Module, bias: bool) -> None:
    block = nn.Sequential(nn.Linear(24, 40, bias=bias), activation, nn.Linear(40, 8))
    x = 4 * torch.randn(2, 5, 24)
    expected = block(x)
    pack(block, packs)
    assert [type(part) for part in block] == [PackedLinear, nn.Identity, PackedLinear]
    assert torch.allclose(block(x), expected, atol=FLOAT32_REORDERED)


def test_other_activations_stay_where_they_are(packs: Packs) -> None:
    block = nn.Sequential(nn.Linear(24, 40), nn.Softplus(), nn.Linear(40, 8))
    x = torch.randn(3, 24)
    expected = block(x)
    pack(block, packs)
    assert [type(part) for part in block] == [PackedLinear, nn.Softplus, PackedLinear]
    assert torch.allclose(block(x), expected, atol=FLOAT32_REORDERED)
    assert fusable(nn.SiLU()) is None


def test_what_a_module_does_with_its_parts_is_not_guessed(packs: Packs) -> None:
    class Apart(nn.Module):
        """An activation beside a linear that it does not belong to."""

        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(8, 8)
            self.act = nn.GELU()

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.linear(self.act(x))
            return out

    module, x = Apart(), torch.randn(4, 8)
    expected = module(x)
    pack(module, packs)
    assert type(module.act) is nn.GELU
    assert torch.allclose(module(x), expected, atol=FLOAT32_REORDERED)


def test_a_module_may_read_its_linears_weight(packs: Packs) -> None:
    class Reads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(8, 6)

        def forward(self, x: Tensor) -> Tensor:
            return F.linear(x, self.linear.weight, self.linear.bias)

    module, x = Reads(), torch.randn(4, 8)
    weight, expected = module.linear.weight.clone(), module(x)
    pack(module, packs)
    assert torch.equal(module.linear.weight, weight)
    assert torch.allclose(module(x), expected, atol=FLOAT32_REORDERED)


@pytest.mark.parametrize(("side", "shape"), [(4, (16, 12)), (4, (18, 15)), (7, (21, 7))])
def test_patches_are_those_of_the_convolution(packs: Packs, side: int, shape: tuple[int, int]) -> None:
    convolution = nn.Conv2d(3, 10, side, stride=side)
    x = torch.randn(2, 3, *shape)
    assert torch.allclose(PackedPatches(packs, convolution)(x), convolution(x), atol=FLOAT32_REORDERED)


def test_a_pointwise_convolution_keeps_channels_last(packs: Packs) -> None:
    convolution = nn.Conv2d(12, 20, 1)
    x = torch.randn(2, 12, 5, 7).contiguous(memory_format=torch.channels_last)
    out = PackedPointwise(packs, convolution)(x)
    assert torch.allclose(out, convolution(x), atol=FLOAT32_REORDERED)
    assert out.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    "convolution",
    [
        nn.Conv2d(4, 4, 3, stride=1),
        nn.Conv2d(4, 4, 2, stride=2, padding=1),
        nn.Conv2d(4, 4, 2, stride=2, groups=2),
        nn.Conv2d(4, 4, 2, stride=2, dilation=2),
        nn.Conv2d(4, 4, 1),
    ],
)
def test_other_convolutions_are_left_alone(packs: Packs, convolution: nn.Conv2d) -> None:
    module = nn.Sequential(convolution)
    pack(module, packs)
    assert module[0] is convolution


@pytest.mark.parametrize("mask", [None, "added", "forbidden"])
def test_attention_is_torchs(packs: Packs, mask: str | None) -> None:
    attention = nn.MultiheadAttention(16, 4, batch_first=True).eval()
    x = torch.randn(2, 6, 16)
    forbidden = torch.ones(6, 6, dtype=torch.bool).triu(1)
    added = torch.zeros(6, 6).masked_fill(forbidden, float("-inf"))
    given = {None: None, "added": added, "forbidden": forbidden}[mask]
    expected = attention(x, x, x, need_weights=False, attn_mask=given)[0]
    assert torch.allclose(
        PackedAttention(packs, attention)(x, x, x, attn_mask=given)[0], expected, atol=FLOAT32_REORDERED
    )


def test_one_query_may_look_at_all(packs: Packs) -> None:
    attention = nn.MultiheadAttention(16, 4, batch_first=True).eval()
    x = torch.randn(2, 6, 16)
    expected = attention(x[:, :1], x, x, need_weights=False)[0]
    assert torch.allclose(PackedAttention(packs, attention)(x[:, :1], x, x)[0], expected, atol=FLOAT32_REORDERED)


def test_attention_that_is_asked_for_more_says_so(packs: Packs) -> None:
    attention = PackedAttention(packs, nn.MultiheadAttention(16, 4, batch_first=True))
    x = torch.randn(2, 6, 16)
    with pytest.raises(NotImplementedError, match="no weights"):
        attention(x, x, x, need_weights=True)
    with pytest.raises(NotImplementedError, match="padding"):
        attention(x, x, x, key_padding_mask=torch.zeros(2, 6, dtype=torch.bool))
    with pytest.raises(NotImplementedError):
        attention(x, x, x + 1)


@pytest.mark.parametrize("options", [{"batch_first": False}, {"add_zero_attn": True}, {"add_bias_kv": True}])
def test_other_attentions_are_left_alone(packs: Packs, options: dict[str, bool]) -> None:
    attention = nn.MultiheadAttention(16, 4, **{"batch_first": True, **options})
    module = nn.Sequential(attention)
    pack(module, packs)
    assert module[0] is attention


def test_an_absent_kernel_means_plain_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    class Absent:
        def __init__(self, *args: object) -> None:
            raise AttributeError("'_OpNamespace' 'mkldnn' object has no attribute '_linear_pointwise'")

    can_pack.cache_clear()
    monkeypatch.setattr(packed, "PackedLinear", Absent)
    try:
        assert not can_pack()
        assert not PassSettings.of(torch.device("cpu"), max_batch_size=8).packed
    finally:
        can_pack.cache_clear()


def test_wrong_sums_mean_plain_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    can_pack.cache_clear()
    monkeypatch.setattr(PackedLinear, "forward", lambda self, x: torch.zeros(*x.shape[:-1], 48))
    try:
        assert not can_pack()
    finally:
        can_pack.cache_clear()


def test_only_float32_on_a_cpu_is_packed() -> None:
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert PassSettings.of(cpu, max_batch_size=8).packed
    assert not PassSettings.of(cpu, max_batch_size=8, packed=False).packed
    assert not PassSettings.of(cpu, max_batch_size=8, precision=torch.bfloat16).packed
    assert not PassSettings.of(cpu, max_batch_size=8, compiled=True).packed
    assert not PassSettings.of(gpu, max_batch_size=8).packed


def test_a_packed_whitening_is_the_same_space() -> None:
    generator = torch.Generator().manual_seed(0)
    spread = torch.randn(24, 24, generator=generator)
    whitening = Whitening.of(spread @ spread.T, shrinkage=0.1)
    assert whitening is not None
    unit = F.normalize(torch.randn(7, 24, generator=generator), dim=-1)
    with torch.inference_mode():
        assert torch.allclose(packed_whitening(whitening)(unit), whitening(unit), atol=FLOAT32_REORDERED)
