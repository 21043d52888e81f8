"""Low-rank adapters on the K and V projections and the feed-forward linears of any tower.

A is frozen, B is trained and starts at zero, so a fresh adapter changes nothing. Every architecture is reached the
same way: packed projections (`in_proj_weight`, `qkv`) get separate factors for their K and V rows, a 1x1 convolution
is a linear. While training, a feed-forward layer adds scale * B (A x) to its output, so that no gradient of the full
matrix is ever formed; for an attention projection, whose weight its module may read directly, the effective weight
W + scale * B A is a torch parametrization. When serving, every effective weight is a plain tensor.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from segp_cl.config import LearnerConfig
from segp_cl.errors import IncompatibleStateError, UnsupportedArchitectureError
from segp_cl.types import HEAD, LoraFactors, LoraState

FEED_FORWARD = re.compile(
    r"(mlp\.(c_fc|c_proj|fc1|fc2|fc1_g|fc1_x|w1|w2|w3|w12)"  # open_clip, timm
    r"|(?<!attention\.)output\.dense|intermediate\.dense"  # BERT, RoBERTa
    r"|ffn\.(lin1|lin2)|DenseReluDense\.(wi|wi_0|wi_1|wo))$"  # DistilBERT, T5
)
KEY_VALUE = re.compile(r"(attn\w*|attention|self)(\.\w+)?\.(key|value|k_proj|v_proj|k_lin|v_lin|k|v)$", re.IGNORECASE)


@dataclass(frozen=True)
class Target:
    """One adaptable matrix: `rows` of `parameter` in the module at `path` of a tower (`None`: all rows)."""

    tower: str
    path: str
    parameter: str
    rows: tuple[int, int] | None
    part: str

    @property
    def key(self) -> str:
        name = f"{self.tower}.{self.path}.{self.parameter}" if self.path else f"{self.tower}.{self.parameter}"
        return f"{name}[{self.part}]" if self.part else name

    @property
    def block(self) -> tuple[str, ...]:
        """The block of the tower that contains it: its path up to the last number."""
        steps = self.path.split(".")
        last = max((i for i, step in enumerate(steps) if step.isdigit()), default=len(steps) - 1)
        return tuple(steps[: last + 1])


def _packed(tower: str, path: str, parameter: str, weight: Tensor) -> list[Target]:
    third = weight.shape[0] // 3
    return [
        Target(tower, path, parameter, (third, 2 * third), "k"),
        Target(tower, path, parameter, (2 * third, 3 * third), "v"),
    ]


def _attention_targets(tower: str, path: str, module: nn.Module) -> list[Target]:
    packed = getattr(module, "in_proj_weight", None)
    if isinstance(packed, Tensor):
        return _packed(tower, path, "in_proj_weight", packed)
    if isinstance(module, nn.MultiheadAttention):
        return [Target(tower, path, f"{part}_proj_weight", None, "") for part in ("k", "v")]
    if isinstance(module, nn.Linear) and path.endswith("attn.qkv"):
        return _packed(tower, path, "weight", module.weight)
    if isinstance(module, nn.Linear) and KEY_VALUE.search(path):
        return [Target(tower, path, "weight", None, "")]
    return []


def _feed_forward_targets(tower: str, path: str, module: nn.Module) -> list[Target]:
    if tower == HEAD:
        return [Target(tower, path, "weight", None, "")] if isinstance(module, nn.Linear) else []
    # squeeze-and-excitation gates are 1x1 convolutions of a pooled vector: attention over channels, not feed-forward
    pointwise = isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1) and module.groups == 1
    gate = re.search(r"(^|\.)se\.", path) is not None
    linear = isinstance(module, nn.Linear) and FEED_FORWARD.search(path) is not None
    return [Target(tower, path, "weight", None, "")] if linear or (pointwise and not gate) else []


def find_targets(tower: nn.Module, name: str, *, attention: bool, feed_forward: bool, fraction: float) -> list[Target]:
    """Find the adaptable matrices in the last `fraction` of a tower's adaptable blocks, in order of the forward pass.

    Raises:
        UnsupportedArchitectureError: the tower has none.
    """
    found: list[Target] = []
    for path, module in tower.named_modules():
        if attention:
            found += _attention_targets(name, path, module)
        if feed_forward:
            found += _feed_forward_targets(name, path, module)
    if not found:
        raise UnsupportedArchitectureError(
            f"no layer of the {name} tower ({type(tower).__name__}) can be adapted: looked for attention K and V "
            "projections, feed-forward linears and 1x1 convolutions"
        )
    blocks = list(dict.fromkeys(target.block for target in found))
    kept = set(blocks[len(blocks) - math.ceil(fraction * len(blocks)) :])
    return [target for target in found if target.block in kept]


def initial_factors(
    rows: int, columns: int, *, rank: int, init: str, generator: torch.Generator, dtype: torch.dtype = torch.float32
) -> LoraFactors:
    """Make factors: A random (Kaiming or Xavier uniform), B zero. The matrix's shape limits the rank."""
    rank = min(rank, rows, columns)
    a = torch.empty(rank, columns, dtype=dtype)
    bound = math.sqrt(3.0 / columns) if init == "kaiming" else math.sqrt(6.0 / (rank + columns))
    a.uniform_(-bound, bound, generator=generator)
    return LoraFactors(a=a, b=torch.zeros(rows, rank, dtype=dtype))


class LoraWeight(nn.Module):
    """Parametrization of one weight: W + scale * B A, on all rows or on the K and V rows of a packed one."""

    def __init__(self, weight: Tensor, targets: Sequence[Target], factors: Sequence[LoraFactors], scale: float) -> None:
        super().__init__()
        self.scale = scale
        self.enabled = True
        self.rows = [target.rows for target in targets]
        self.a = nn.ParameterList(nn.Parameter(f.a.to(weight), requires_grad=False) for f in factors)
        self.b = nn.ParameterList(nn.Parameter(f.b.to(weight, copy=True)) for f in factors)

    def forward(self, weight: Tensor) -> Tensor:
        if not self.enabled:
            return weight
        matrix = weight.flatten(1)
        deltas = [b @ a for a, b in zip(self.a, self.b, strict=True)]
        first = self.rows[0]
        # K and V are neighbours in every packed layout, so one pad places both
        delta = torch.cat(deltas) if len(deltas) > 1 else deltas[0]
        if first is not None:
            delta = nn.functional.pad(delta, (0, 0, first[0], matrix.shape[0] - first[0] - delta.shape[0]))
        return (matrix + self.scale * delta).view_as(weight)


class LoraOutput(nn.Module):
    """Forward hook of a linear or 1x1 convolution: y + scale * B (A x), that is (W + scale * B A) x up to rounding."""

    def __init__(self, module: nn.Linear | nn.Conv2d, factors: LoraFactors, scale: float) -> None:
        super().__init__()
        self.scale = scale
        self.enabled = True
        self.a = nn.ParameterList([nn.Parameter(factors.a.to(module.weight), requires_grad=False)])
        self.b = nn.ParameterList([nn.Parameter(factors.b.to(module.weight, copy=True))])
        module.register_forward_hook(self._add)

    def _add(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        if not self.enabled:
            return output
        a, b = self.a[0], self.b[0]
        if isinstance(module, nn.Conv2d):
            stride = (module.stride[0], module.stride[1])
            thin = nn.functional.conv2d(inputs[0], a[:, :, None, None], stride=stride)
            return output + nn.functional.conv2d(thin, (self.scale * b)[:, :, None, None])
        return output + nn.functional.linear(nn.functional.linear(inputs[0], a), self.scale * b)

    def effective(self, weight: Tensor) -> Tensor:
        """Return W + scale * B A."""
        merged: Tensor = weight + (self.scale * self.b[0] @ self.a[0]).view_as(weight)
        return merged


class Adapters:
    """The LoRA adapters of one model, attached to the layers of its towers and head."""

    def __init__(self, towers: dict[str, nn.Module], lora: LoraState) -> None:
        self._lora = lora
        self._places: list[tuple[nn.Module, str, list[Target], LoraWeight | LoraOutput]] = []
        self._originals: list[Tensor] | None = None
        for targets in _by_parameter(towers, lora):
            module = towers[targets[0].tower].get_submodule(targets[0].path)
            name = targets[0].parameter
            factors = [lora.factors[t.key] for t in targets]
            weight = getattr(module, name)
            _check_shapes(weight, targets, factors)
            adapter: LoraWeight | LoraOutput
            if _adds_to_output(module, name, targets):
                adapter = LoraOutput(module, factors[0], lora.scale)  # type: ignore[arg-type]  # just checked
            else:
                adapter = LoraWeight(weight, targets, factors, lora.scale)
                parametrize.register_parametrization(module, name, adapter)
            self._places.append((module, name, targets, adapter))

    @property
    def trainable(self) -> list[nn.Parameter]:
        return [b for *_, adapter in self._places for b in adapter.b]

    def trainable_of(self, tower: str) -> list[nn.Parameter]:
        """Return the trained factors of one tower."""
        return [b for _, _, targets, adapter in self._places if targets[0].tower == tower for b in adapter.b]

    def added_to(self, module: nn.Module) -> LoraOutput:
        """Return the adapter that adds to the outputs of `module`."""
        (found,) = (adapter for adapted, *_, adapter in self._places if adapted is module)
        assert isinstance(found, LoraOutput), "an attention projection's adapter changes its weight"
        return found

    @property
    def merged(self) -> bool:
        return self._originals is not None

    def touches(self, module: nn.Module) -> bool:
        """Return whether a layer inside `module` is adapted."""
        inside = {id(part) for part in module.modules()}
        return any(id(adapted) in inside for adapted, *_ in self._places)

    def state(self) -> LoraState:
        """Return a copy of the current factors on the CPU."""
        factors = {
            target.key: LoraFactors(a=a.detach().cpu().clone(), b=b.detach().cpu().clone())
            for _, _, targets, adapter in self._places
            for target, a, b in zip(targets, adapter.a, adapter.b, strict=True)
        }
        return LoraState(rank=self._lora.rank, scale=self._lora.scale, factors=factors)

    @contextmanager
    def disabled(self) -> Iterator[None]:
        """Switch the adapters off within the block: the model is the pretrained one (the paper's G^0 and F^0)."""
        assert not self.merged, "unmerge first: a merged weight cannot be switched off"
        self._enable(False)
        try:
            yield
        finally:
            self._enable(True)

    def merge(self) -> None:
        """Replace the original weights by the effective ones; `unmerge` restores the originals."""
        if self._originals is not None:
            return
        originals = []
        with torch.no_grad():
            for module, name, _, adapter in self._places:
                stored = _stored(module, name, adapter)
                originals.append(stored.data)
                stored.data = adapter.effective(stored) if isinstance(adapter, LoraOutput) else adapter(stored)
                adapter.enabled = False
        self._originals = originals

    def unmerge(self) -> None:
        """Restore the original weights, bit for bit."""
        if self._originals is None:
            return
        for (module, name, _, adapter), data in zip(self._places, self._originals, strict=True):
            _stored(module, name, adapter).data = data
            adapter.enabled = True
        self._originals = None

    def _enable(self, enabled: bool) -> None:
        for *_, adapter in self._places:
            adapter.enabled = enabled


def _adds_to_output(module: nn.Module, name: str, targets: Sequence[Target]) -> bool:
    """Return whether an adapter can add to the layer's output: attention may read weights without calling the layer."""
    if name != "weight" or len(targets) > 1 or targets[0].rows is not None:
        return False
    if type(module) is nn.Conv2d:
        return module.padding in ((0, 0), 0)
    if targets[0].tower == HEAD:
        return type(module) is nn.Linear
    return type(module) is nn.Linear and FEED_FORWARD.search(targets[0].path) is not None


def _stored(module: nn.Module, name: str, adapter: LoraWeight | LoraOutput) -> Tensor:
    if isinstance(adapter, LoraOutput):
        weight: Tensor = getattr(module, name)
    else:
        weight = module.parametrizations[name].original  # type: ignore[index, union-attr]
    return weight


def new_lora(
    towers: dict[str, nn.Module], config: LearnerConfig, *, fractions: dict[str, float], generator: torch.Generator
) -> LoraState:
    """Make fresh factors for every target that the configuration selects.

    Raises:
        UnsupportedArchitectureError: a tower has no such layer.
    """
    factors: dict[str, LoraFactors] = {}
    for name, tower in towers.items():
        for target in find_targets(
            tower,
            name,
            attention=config.lora_attention,
            feed_forward=config.lora_feed_forward,
            fraction=fractions[name],
        ):
            weight = getattr(tower.get_submodule(target.path), target.parameter)
            rows = weight.shape[0] if target.rows is None else target.rows[1] - target.rows[0]
            rank = config.head_rank if name == HEAD else config.rank
            factors[target.key] = initial_factors(
                rows, weight[0].numel(), rank=rank, init=config.lora_init, generator=generator
            )
    return LoraState(rank=config.rank, scale=config.lora_scale, factors=factors)


def check_fit(towers: dict[str, nn.Module], lora: LoraState) -> None:
    """See that every adapter has its matrix.

    Raises:
        IncompatibleStateError: the adapters belong to another architecture.
    """
    for targets in _by_parameter(towers, lora):
        weight = getattr(towers[targets[0].tower].get_submodule(targets[0].path), targets[0].parameter)
        _check_shapes(weight, targets, [lora.factors[target.key] for target in targets])


def bake(towers: dict[str, nn.Module], lora: LoraState) -> None:
    """Replace every adapted weight by a new tensor W + scale * B A; the old tensors do not change."""
    for targets in _by_parameter(towers, lora):
        module = towers[targets[0].tower].get_submodule(targets[0].path)
        name = targets[0].parameter
        factors = [lora.factors[t.key] for t in targets]
        weight = getattr(module, name)
        _check_shapes(weight, targets, factors)
        with torch.no_grad():
            merged = LoraWeight(weight, targets, factors, lora.scale)(weight)
        setattr(module, name, nn.Parameter(merged, requires_grad=False))


def _by_parameter(towers: dict[str, nn.Module], lora: LoraState) -> list[list[Target]]:
    """Return the targets that the state's keys name, grouped by the parameter they share."""
    known: dict[str, Target] = {}
    for name, tower in towers.items():
        if any(key.startswith(f"{name}.") for key in lora.factors):
            known |= {t.key: t for t in find_targets(tower, name, attention=True, feed_forward=True, fraction=1.0)}
    unknown = sorted(set(lora.factors) - set(known))
    if unknown:
        raise IncompatibleStateError(f"the learned adapters do not fit this model: it has no {unknown[0]}")
    groups: dict[tuple[str, str, str], list[Target]] = {}
    for key, target in known.items():
        if key in lora.factors:
            groups.setdefault((target.tower, target.path, target.parameter), []).append(target)
    return list(groups.values())


def _check_shapes(weight: Tensor, targets: Sequence[Target], factors: Sequence[LoraFactors]) -> None:
    for target, factor in zip(targets, factors, strict=True):
        rows = weight.shape[0] if target.rows is None else target.rows[1] - target.rows[0]
        got = (factor.b.shape[0], factor.a.shape[1])
        if got != (rows, weight[0].numel()):
            raise IncompatibleStateError(
                f"the adapter of {target.key} is for a {got[0]}x{got[1]} matrix, but this model's is "
                f"{rows}x{weight[0].numel()}"
            )
