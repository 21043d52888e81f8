"""One interface over every base model: raw image features, the projection to joint space, text features."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import takewhile

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.utils import parametrize

from segp_cl.config import NO_SETTINGS, LearnerConfig, ModelSettings, ResolvedConfig
from segp_cl.data.preprocessing import Preprocessing
from segp_cl.errors import ModelLoadError
from segp_cl.models.lora import Adapters, bake, check_fit, new_lora
from segp_cl.types import HEAD, LoraState, ModelSpec

Tokenizer = Callable[[Sequence[str]], Int[Tensor, "prompts length"]]


class Backbone(nn.Module):
    """A CLIP-like model in three frozen parts: image tower (pixels to raw features), head, text tower.

    `raw_features` are r(x) before the projection head; everything in joint space has unit norm. The model is always
    in eval mode: BatchNorm statistics are frozen and dropout is off.
    """

    def __init__(
        self,
        *,
        spec: ModelSpec,
        weights_digest: str,
        image_tower: nn.Module,
        head: nn.Module,
        text_tower: nn.Module,
        tokenize: Tokenizer,
        logit_scale: float,
        preprocessing: Preprocessing,
        adapted_image_fraction: float = 1.0,
        own_settings: ModelSettings = NO_SETTINGS,
        adapts_head: bool = False,
    ) -> None:
        super().__init__()
        self.spec = spec
        self.weights_digest = weights_digest
        self.image_tower = image_tower
        self.head = head
        self.text_tower = text_tower
        self.tokenize = tokenize
        self.logit_scale = logit_scale
        self.preprocessing = preprocessing
        self.adapted_image_fraction = adapted_image_fraction
        self.own_settings = own_settings
        self.adapts_head = adapts_head
        self._image_layout = torch.preserve_format
        self._compiler: str | None = None
        self.register_buffer("mean", torch.tensor(preprocessing.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(preprocessing.std).view(1, 3, 1, 1), persistent=False)
        self.eval().requires_grad_(False)
        with torch.no_grad():
            raw = self.raw_features(torch.zeros(1, 3, preprocessing.size, preprocessing.size))
            self.raw_dim = raw.shape[1]
            self.joint_dim = self.project(raw).shape[1]

    @property
    def device(self) -> torch.device:
        return self.get_buffer("mean").device

    def raw_features(self, pixels: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch raw"]:
        """Compute r(x), the image tower's pooled output before the projection head, for pixels in [0, 1]."""
        normalised = (pixels - self.get_buffer("mean")) / self.get_buffer("std")
        features: Tensor = self.image_tower(normalised.to(memory_format=self._image_layout))
        return features

    def stages(self) -> tuple[nn.Module, ...]:
        """Return the image tower's stages, in order; a tower that names none is one stage."""
        stages = getattr(self.image_tower, "stages", None)
        return stages() if callable(stages) else (self.image_tower,)

    def frozen_stages(self, adapters: Adapters) -> int:
        """Return how many leading stages hold no adapter: their activations do not change during an update."""
        return sum(1 for _ in takewhile(lambda stage: not adapters.touches(stage), self.stages()))

    def stem(self, pixels: Float[Tensor, "batch 3 height width"], stages: int) -> Float[Tensor, "batch ..."]:
        """Compute the activations after the first `stages` stages for pixels in [0, 1]; with 0, return the pixels."""
        if stages == 0:
            return pixels
        features = (pixels - self.get_buffer("mean")) / self.get_buffer("std")
        features = features.contiguous(memory_format=torch.channels_last)
        for stage in self.stages()[:stages]:
            features = stage(features)
        return features

    def raw_from_stem(self, activations: Float[Tensor, "batch ..."], stages: int) -> Float[Tensor, "batch raw"]:
        """Compute r(x) from the output of `stem`: `raw_features(x)` is `raw_from_stem(stem(x, n), n)` for every n."""
        if stages == 0:
            return self.raw_features(activations)
        for stage in self.stages()[stages:]:
            activations = stage(activations)
        return activations

    def project(self, raw: Float[Tensor, "batch raw"]) -> Float[Tensor, "batch joint"]:
        """Compute v(x) = P(r(x)), normalised."""
        return F.normalize(self.head(raw), dim=-1)

    def image_features(self, pixels: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch joint"]:
        """Compute normalised image features in joint space, for pixels in [0, 1]."""
        return self.project(self.raw_features(pixels))

    def text_features(self, prompts: Sequence[str]) -> Float[Tensor, "prompts joint"]:
        """Compute u_c, the normalised text features of whole prompts."""
        if not prompts:
            return torch.empty(0, self.joint_dim, device=self.device)
        return F.normalize(self.text_tower(self.tokenize(prompts).to(self.device)), dim=-1)

    @property
    def towers(self) -> dict[str, nn.Module]:
        head = {HEAD: self.head} if self.adapts_head else {}
        return {"image": self.image_tower, **head, "text": self.text_tower}

    def resolve(self, config: LearnerConfig) -> ResolvedConfig:
        """Return the configuration with all values that follow from this model filled in."""
        return config.resolve(self.logit_scale, self.own_settings)

    def use_channels_last(self) -> None:
        """Use channels-last layout for the image tower's weights and inputs: same values, other speed."""
        self.image_tower.to(memory_format=torch.channels_last)
        self._image_layout = torch.channels_last

    def compile_towers(self, *, backend: str = "inductor") -> None:
        """Compile the stages of the image tower and the text tower's layers with torch.compile, in place.

        A layer is compiled when it first runs, with the adapters it then has. Each copy compiles its own layers.

        Args:
            backend: of torch.compile; `inductor` needs a C++ compiler on the CPU and Triton on a GPU.

        Raises:
            ModelLoadError: the installed torch cannot separate the compiled code of several copies.
        """
        # dynamo does not guard hooks: code that was compiled without adapters would be run for a copy that has them
        if "isolate_recompiles" not in inspect.signature(torch.compile).parameters:
            raise ModelLoadError(f"torch {torch.__version__} is too old to compile towers: turn compilation off")
        self._compiler = backend
        for module in (*self.stages(), getattr(self.text_tower, "core", self.text_tower)):
            module.compile(backend=backend, isolate_recompiles=True)

    @property
    def is_compiled(self) -> bool:
        """Whether torch.compile runs the towers."""
        return self._compiler is not None

    @contextmanager
    def each_weight_once(self) -> Iterator[None]:
        """Compute each adapted weight once within the block, however often its layer runs.

        Compiled towers compute it with the layer each time: a graph cannot read from parametrize's cache.
        """
        if self._compiler is not None:
            yield
            return
        with parametrize.cached():
            yield

    def shared_copy(self) -> Backbone:
        """Return a second model over the same tensors, whose modules can be adapted without changing this one."""
        return self._copied()

    def check_lora(self, lora: LoraState | None) -> None:
        """See that adapters fit this model.

        Raises:
            IncompatibleStateError: they belong to another architecture.
        """
        if lora is not None:
            check_fit(self.towers, lora)

    def with_lora(self, lora: LoraState | None) -> Backbone:
        """Return a copy for serving: adapted weights merged into new tensors, all else shared with this model.

        Towers without adapters are this model's own modules, unless they are compiled: leave them as they are.

        Raises:
            IncompatibleStateError: the adapters belong to another architecture.
        """
        adapted = () if lora is None else tuple(lora.factors)
        kept = {
            name: tower
            for name, tower in self.towers.items()
            if self._compiler is None and not any(target.startswith(f"{name}.") for target in adapted)
        }
        served = self._copied(shared=kept.values())
        if lora is not None:
            bake(served.towers, lora)
        return served

    def _copied(self, *, shared: Iterable[nn.Module] = ()) -> Backbone:
        """Return a copy that has these modules and all buffers themselves, and new parameters over the same storage.

        New parameter objects: pointing one elsewhere leaves the original alone.
        """
        memo: dict[int, object] = {id(each): each for each in (*shared, *self.buffers())}
        memo |= {id(each): nn.Parameter(each.data, requires_grad=False) for each in self.parameters()}
        copied = copy.deepcopy(self, memo)
        if self._compiler is not None:  # compiled code is not copied with a module
            copied.compile_towers(backend=self._compiler)
        return copied

    def adapt(self, config: LearnerConfig, lora: LoraState | None, *, generator: torch.Generator) -> Adapters:
        """Attach `lora` to this model's weights for training, and fresh adapters where a trained tower has none.

        An image tower that is not trained (`image_rate` 0) gets no fresh adapters: all of it is a frozen stem, and its
        raw features stay those of the base model.

        Raises:
            UnsupportedArchitectureError: a tower has no layer that can be adapted.
        """
        config = self.resolve(config)
        kept = {} if lora is None else dict(lora.factors)
        trained = {name: tower for name, tower in self.towers.items() if name != "image" or config.image_rate > 0}
        fractions = {
            "image": config.lora_image_fraction or self.adapted_image_fraction,
            HEAD: 1.0,
            "text": config.lora_text_fraction,
        }
        bare = {name: tower for name, tower in trained.items() if not any(key.startswith(f"{name}.") for key in kept)}
        fresh = new_lora(bare, config, fractions=fractions, generator=generator)
        lora = fresh if lora is None else replace(lora, factors=kept | dict(fresh.factors))
        return Adapters(self.towers, lora)
