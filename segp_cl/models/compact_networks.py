"""The two networks of `compact`, written out: timm and transformers take longer to import than both take to load.

Modules are named as in timm and transformers, because a version's adapters are kept under these names.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Final

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

_BATCH_NORM_EPS: Final = 1e-3
_LAYER_NORM_EPS: Final = 1e-12

# (kernel, stride, expansion, channels, blocks) of the seven stages
_STAGES: Final = (
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
)


class SameConv(nn.Conv2d):
    """A convolution padded as TensorFlow does: with stride s, an axis of n pixels becomes one of ceil(n / s)."""

    def forward(self, image: Tensor) -> Tensor:
        padding: list[int] = []
        for axis in (3, 2):
            size, kernel, stride = image.shape[axis], self.kernel_size[axis - 2], self.stride[axis - 2]
            short = max((-(-size // stride) - 1) * stride + kernel - size, 0)
            padding += (short // 2, short - short // 2)
        return super().forward(F.pad(image, padding))


def _conv(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    if stride > 1:  # else as much is added on either side
        return SameConv(inputs, outputs, kernel, stride, groups=groups)
    return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, groups=groups)


class FirstBlock(nn.Module):
    """A block without expansion: a convolution of each channel, and one across them."""

    def __init__(self, inputs: int, outputs: int, kernel: int) -> None:
        super().__init__()
        self.conv_dw = _conv(inputs, inputs, kernel, groups=inputs)
        self.act = nn.ReLU6(inplace=True)
        self.conv_pw = _conv(inputs, outputs, 1)

    def forward(self, image: Tensor) -> Tensor:
        narrowed: Tensor = self.conv_pw(self.act(self.conv_dw(image)))
        return narrowed


class InvertedResidual(nn.Module):
    """Channels are expanded, convolved one by one, and narrowed again; added to what came in where the shapes agree."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = inputs * expansion
        self.adds = stride == 1 and inputs == outputs
        self.conv_pw = _conv(inputs, wide, 1)
        self.conv_dw = _conv(wide, wide, kernel, stride, groups=wide)
        self.conv_pwl = _conv(wide, outputs, 1)
        self.act = nn.ReLU6(inplace=True)

    def forward(self, image: Tensor) -> Tensor:
        narrowed: Tensor = self.conv_pwl(self.act(self.conv_dw(self.act(self.conv_pw(image)))))
        return narrowed + image if self.adds else narrowed


class EfficientNetLite0(nn.Module):
    """EfficientNet-Lite0 (Tan and Le 2019, without squeeze-and-excitation), with its batch norms folded in."""

    def __init__(self) -> None:
        super().__init__()
        self.conv_stem = _conv(3, 32, 3, 2)
        self.act = nn.ReLU6(inplace=True)
        self.blocks = nn.Sequential()
        channels = 32
        for kernel, stride, expansion, outputs, count in _STAGES:
            stage = nn.Sequential()
            for number in range(count):
                if expansion == 1:
                    stage.append(FirstBlock(channels, outputs, kernel))
                else:
                    stage.append(InvertedResidual(channels, outputs, kernel, 1 if number else stride, expansion))
                channels = outputs
            self.blocks.append(stage)
        self.conv_head = _conv(channels, 1280, 1)
        self.global_pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.classifier: nn.Module = nn.Linear(1280, 1000)

    def stages(self) -> tuple[nn.Module, ...]:
        """Return the parts up to the pooled features (batch, 1280), in order."""
        blocks = chain.from_iterable(stage.children() for stage in self.blocks)
        return (self.conv_stem, self.act, *blocks, self.conv_head, self.act, self.global_pool)

    def forward(self, pixels: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch names"]:
        for stage in self.stages():
            pixels = stage(pixels)
        logits: Tensor = self.classifier(pixels)
        return logits

    @torch.no_grad()
    def take(self, published: Mapping[str, Tensor]) -> None:
        """Take the published weights, in the order of the layers, whatever their names: conv, batch norm, ...; linear.

        Raises:
            RuntimeError: these are not the weights of this network.
            ValueError: there are more or fewer of them.
        """
        values = iter(published.values())
        for conv in _convolutions(self):
            kernel, gamma, beta, mean, variance, _ = (next(values) for _ in range(6))
            fused = fuse_conv_bn_weights(kernel, None, mean, variance, _BATCH_NORM_EPS, gamma, beta)
            conv.load_state_dict(dict(zip(("weight", "bias"), fused, strict=True)))
        self.classifier.load_state_dict(dict(zip(("weight", "bias"), values, strict=True)))


def _convolutions(network: nn.Module) -> Iterator[nn.Conv2d]:
    return (module for module in network.modules() if isinstance(module, nn.Conv2d))


class _Normed(nn.Module):
    """A linear layer whose result is added to what came in, and normalised."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.dense = nn.Linear(inputs, width)
        self.LayerNorm = nn.LayerNorm(width, eps=_LAYER_NORM_EPS)

    def forward(self, hidden: Tensor, before: Tensor) -> Tensor:
        normed: Tensor = self.LayerNorm(self.dense(hidden) + before)
        return normed


class _SelfAttention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)

    def forward(self, hidden: Tensor, real: Tensor) -> Tensor:
        query, key, value = (
            part(hidden).unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (self.query, self.key, self.value)
        )
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=real)
        return attended.transpose(1, 2).flatten(2)


class _Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.self = _SelfAttention(width, heads)
        self.output = _Normed(width, width)

    def forward(self, hidden: Tensor, real: Tensor) -> Tensor:
        mixed: Tensor = self.output(self.self(hidden, real), hidden)
        return mixed


class _Intermediate(nn.Module):
    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.dense = nn.Linear(width, inner)

    def forward(self, hidden: Tensor) -> Tensor:
        return F.gelu(self.dense(hidden))


class _Layer(nn.Module):
    def __init__(self, width: int, heads: int, inner: int) -> None:
        super().__init__()
        self.attention = _Attention(width, heads)
        self.intermediate = _Intermediate(width, inner)
        self.output = _Normed(inner, width)

    def forward(self, hidden: Tensor, real: Tensor) -> Tensor:
        mixed = self.attention(hidden, real)
        out: Tensor = self.output(self.intermediate(mixed), mixed)
        return out


def _table(rows: int, width: int) -> nn.Embedding:
    # published weights take its place, and to draw normal ones on the meta device imports torch._dynamo
    return nn.Embedding(rows, width, _weight=torch.empty(rows, width))


class _Embeddings(nn.Module):
    def __init__(self, words: int, positions: int, width: int) -> None:
        super().__init__()
        self.word_embeddings = _table(words, width)
        self.position_embeddings = _table(positions, width)
        self.token_type_embeddings = _table(2, width)
        self.LayerNorm = nn.LayerNorm(width, eps=_LAYER_NORM_EPS)

    def forward(self, tokens: Tensor) -> Tensor:
        positions = self.position_embeddings.weight[: tokens.shape[1]]
        # a prompt is one sentence, so every token is of the first type
        embedded: Tensor = self.word_embeddings(tokens) + self.token_type_embeddings.weight[0] + positions
        normed: Tensor = self.LayerNorm(embedded)
        return normed


class _Layers(nn.Module):
    def __init__(self, layers: int, width: int, heads: int, inner: int) -> None:
        super().__init__()
        self.layer = nn.ModuleList(_Layer(width, heads, inner) for _ in range(layers))


class MiniLM(nn.Module):
    """BERT (Devlin et al. 2019) with the sizes of MiniLM-L6-H384, up to its last hidden states."""

    def __init__(self) -> None:
        super().__init__()
        self.embeddings = _Embeddings(30522, 512, 384)
        self.encoder = _Layers(6, 384, 12, 1536)

    def forward(
        self, tokens: Int[Tensor, "prompts length"], real: Bool[Tensor, "prompts length"]
    ) -> Float[Tensor, "prompts length joint"]:
        """Encode tokens; those that are not `real` are attended to by none."""
        hidden: Tensor = self.embeddings(tokens)
        for layer in self.encoder.layer:
            hidden = layer(hidden, real[:, None, None, :])
        return hidden
