"""Packs a served tower's weights once into the layout of the CPU's matrix kernels.

oneDNN multiplies by weights in its own blocked layout. A plain weight is converted to it at every call, which costs as
much as the products themselves for a single image. Results are those of the plain layers up to rounding.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from functools import cache
from typing import Protocol, runtime_checkable
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from segp_cl.scores import Whitener
from segp_cl.statistics import Whitening

logger = logging.getLogger(__name__)

_ROWS = 512  # rows that blocks are chosen for; they work for any number
Activation = tuple[str, list[float], str]
"""An activation that oneDNN applies to the sums before it stores them: name, numbers, algorithm."""
PLAIN: Activation = ("none", [], "")


class Packs:
    """Packs weights into the kernels' layout. Those of the base model are packed once for all copies that share them.

    Args:
        shared: the base model's tensors, which must live as long as this does.
    """

    def __init__(self, shared: Iterable[Tensor]) -> None:
        self._shared = {_storage(tensor) for tensor in shared}
        self._known: dict[tuple[int, torch.Size], Tensor] = {}

    def __call__(self, weight: Float[Tensor, "out in"]) -> Tensor:
        """Return `weight` in the kernels' layout."""
        key = (weight.data_ptr(), weight.shape)
        packed = self._known.get(key)
        if packed is None:
            with torch.no_grad():
                packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach().contiguous(), _ROWS)
            if _storage(weight) in self._shared:
                self._known[key] = packed
        return packed


@runtime_checkable
class ListsConvolutions(Protocol):
    """A tower that lists its convolutions, each with the module of the same block that runs right after it."""

    def convolutions(self) -> Iterator[tuple[nn.Module, str, str | None]]: ...


@runtime_checkable
class HasTowers(Protocol):
    """A base model, or a copy of it; `segp_cl.models.backbone.Backbone` implements it."""

    image_tower: nn.Module
    head: nn.Module
    text_tower: nn.Module

    def parameters(self) -> Iterator[nn.Parameter]: ...


class PackedLinear(nn.Module):
    """act(x Wᵀ + b), for x [..., in] of any leading dimensions."""

    def __init__(self, packs: Packs, weight: Tensor, bias: Tensor | None, activation: Activation = PLAIN) -> None:
        super().__init__()
        self._packed = packs(weight)
        self._bias = bias
        self._activation = activation

    @property
    def weight(self) -> Tensor:
        """The plain weight, copied out of the kernels' layout, for modules that read a part's weight directly."""
        return self._packed.to_dense()

    @property
    def bias(self) -> Tensor | None:
        """The plain bias."""
        return self._bias

    def forward(self, x: Float[Tensor, "... in"]) -> Float[Tensor, "... out"]:
        product: Tensor = torch.ops.mkldnn._linear_pointwise(x, self._packed, self._bias, *self._activation)
        return product


class PackedPointwise(nn.Module):
    """A 1x1 convolution of stride 1 over images in channels-last layout: a linear over their pixels."""

    def __init__(self, packs: Packs, convolution: nn.Conv2d, activation: Activation = PLAIN) -> None:
        super().__init__()
        self.linear = PackedLinear(packs, convolution.weight.flatten(1), convolution.bias, activation)

    def forward(self, x: Float[Tensor, "batch in height width"]) -> Float[Tensor, "batch out height width"]:
        product: Tensor = self.linear(x.permute(0, 2, 3, 1))
        return product.permute(0, 3, 1, 2)


class PackedPatches(nn.Module):
    """A convolution whose patches do not overlap: a linear over each patch."""

    def __init__(self, packs: Packs, convolution: nn.Conv2d) -> None:
        super().__init__()
        self.side = (convolution.kernel_size[0], convolution.kernel_size[1])
        self.linear = PackedLinear(packs, convolution.weight.flatten(1), convolution.bias)

    def forward(self, x: Float[Tensor, "batch in height width"]) -> Float[Tensor, "batch out rows columns"]:
        (high, wide), channels = self.side, x.shape[1]
        rows, columns = x.shape[2] // high, x.shape[3] // wide
        patches = x[:, :, : rows * high, : columns * wide].reshape(-1, channels, rows, high, columns, wide)
        product: Tensor = self.linear(patches.permute(0, 2, 4, 1, 3, 5).reshape(len(x), rows, columns, -1))
        return product.permute(0, 3, 1, 2)


class PackedAttention(nn.Module):
    """`nn.MultiheadAttention` of [batch, length, width], as a tower calls it: without weights and padding masks."""

    batch_first = True

    def __init__(self, packs: Packs, attention: nn.MultiheadAttention) -> None:
        super().__init__()
        weight, bias, width = attention.in_proj_weight, attention.in_proj_bias, attention.embed_dim
        assert weight is not None, "`pack` checks this"
        self.heads = attention.num_heads
        self.query = PackedLinear(packs, weight[:width], None if bias is None else bias[:width])
        self.key_value = PackedLinear(packs, weight[width:], None if bias is None else bias[width:])
        self.out = PackedLinear(packs, attention.out_proj.weight, attention.out_proj.bias)

    def forward(
        self,
        query: Float[Tensor, "batch queries width"],
        key: Float[Tensor, "batch length width"],
        value: Float[Tensor, "batch length width"],
        key_padding_mask: Tensor | None = None,
        need_weights: bool = False,
        attn_mask: Tensor | None = None,
    ) -> tuple[Float[Tensor, "batch queries width"], None]:
        """Compute the attended values; `attn_mask` [queries, length] is added to the logits, or is true where masked.

        Raises:
            NotImplementedError: `need_weights` or a padding mask is given, or the keys are not the values.
        """
        if need_weights or key_padding_mask is not None or key is not value:
            raise NotImplementedError("packed attention gives no weights, takes no padding mask and needs key is value")
        if attn_mask is not None and attn_mask.dtype == torch.bool:
            attn_mask = ~attn_mask
        batch, queries, width = query.shape
        q = self.query(query).view(batch, queries, self.heads, -1).transpose(1, 2)
        k, v = self.key_value(key).view(batch, key.shape[1], 2, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=attn_mask)
        return self.out(attended.transpose(1, 2).reshape(batch, queries, width)), None


@cache
def can_pack() -> bool:
    """Return whether this build of PyTorch can multiply by packed weights on this machine."""
    try:
        weight, bias, x = torch.randn(48, 32), torch.randn(48), torch.randn(2, 3, 32)
        packed = PackedLinear(Packs([]), weight, bias, ("gelu", [], "none"))
        with torch.inference_mode():
            return torch.allclose(packed(x), F.gelu(F.linear(x, weight, bias)), atol=1e-4)
    except (AttributeError, RuntimeError) as error:
        logger.info("weights cannot be packed for this CPU's kernels: %s", str(error).splitlines()[0])
        return False


def pack(module: nn.Module, packs: Packs) -> None:
    """Replace the linears, patch convolutions and attentions inside `module` by packed ones, in place.

    From then on `module` runs only without gradients, in float32, on the CPU. A GELU or ReLU that follows a linear in a
    `nn.Sequential` is computed with it.
    """
    if isinstance(module, ListsConvolutions):
        for block, name, next_name in list(module.convolutions()):
            _pack_pointwise(block, name, next_name, packs)
        return
    in_order = list(module.named_children())
    sequential = isinstance(module, nn.Sequential)
    for place, (name, child) in enumerate(in_order):
        following = in_order[place + 1][1] if sequential and place + 1 < len(in_order) else None
        if type(child) is nn.Linear:
            activation = None if following is None else fusable(following)
            setattr(module, name, PackedLinear(packs, child.weight, child.bias, activation or PLAIN))
            if activation is not None:
                setattr(module, in_order[place + 1][0], nn.Identity())
        elif isinstance(child, nn.Conv2d) and _tiles(child) and not is_pointwise(child):
            setattr(module, name, PackedPatches(packs, child))
        elif type(child) is nn.MultiheadAttention and _is_plain(child):
            setattr(module, name, PackedAttention(packs, child))
        elif not isinstance(child, nn.MultiheadAttention):
            pack(child, packs)


_packs_of_bases: WeakKeyDictionary[object, Packs] = WeakKeyDictionary()


def pack_model(served: HasTowers, base: HasTowers) -> None:
    """Pack the weights of `served`, a copy of `base`; weights that the two share are packed once for all copies."""
    packs = _packs_of_bases.get(base)
    if packs is None:
        packs = _packs_of_bases[base] = Packs(base.parameters())
    for part in (served.image_tower, served.head, served.text_tower):
        pack(part, packs)


def packed_whitening(whitening: Whitening) -> Whitener:
    """Return `whitening` with its matrix packed."""
    return PackedLinear(Packs([]), whitening.matrix, whitening.offset)


def _pack_pointwise(block: nn.Module, name: str, following: str | None, packs: Packs) -> None:
    convolution = getattr(block, name)
    if not is_pointwise(convolution):
        return
    activation = None if following is None else fusable(getattr(block, following))
    setattr(block, name, PackedPointwise(packs, convolution, activation or PLAIN))
    if activation is not None and following is not None:
        setattr(block, following, nn.Identity())


def fusable(activation: nn.Module) -> Activation | None:
    """Return what a packed linear applies in place of `activation`; None if it cannot."""
    if type(activation) is nn.GELU:
        return "gelu", [], activation.approximate
    if type(activation) is nn.ReLU6:
        return "hardtanh", [0.0, 6.0], ""
    if type(activation) is nn.ReLU:
        return "relu", [], ""
    return None


def is_pointwise(module: nn.Module) -> bool:
    """Return whether `module` is a 1x1 convolution of stride 1 without groups."""
    return _tiles(module) and module.kernel_size == (1, 1)


def _tiles(module: nn.Module) -> bool:
    """Return whether `module` is a convolution whose patches do not overlap, each over all channels."""
    if type(module) is not nn.Conv2d or module.padding not in ((0, 0), "valid"):
        return False
    return module.stride == module.kernel_size and module.groups == 1 and module.dilation == (1, 1)


def _is_plain(attention: nn.MultiheadAttention) -> bool:
    plain = attention.in_proj_weight is not None and attention.bias_k is None and not attention.add_zero_attn
    return plain and attention.batch_first


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
