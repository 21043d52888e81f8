"""The method's data types, frozen: tasks, states, scores and reports. No behaviour, no I/O."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from segp_cl.statistics import ClassSums


@dataclass(frozen=True)
class ModelSpec:
    """The base model as a user names it.

    `name` is `compact`, an open_clip architecture (`ViT-B-16`), or an open_clip schema
    (`hf-hub:org/model`, `local-dir:/path`). `pretrained` is an open_clip tag (`openai`)
    or the path of a local checkpoint.
    """

    name: str = "compact"
    pretrained: str | None = None


@dataclass(frozen=True)
class LearnedClass:
    """One class of a state. `task` is the 1-based task that introduced it; `images` counts all it was learned from."""

    name: str
    prompt: str
    task: int
    images: int


@dataclass(frozen=True)
class LoraFactors:
    """One low-rank update: the weight's rows change by scale * b @ a. `a` is frozen, `b` is trained."""

    a: Float[Tensor, "rank fan_in"]
    b: Float[Tensor, "fan_out rank"]


Path = Literal["text", "visual", "fused"]
"""Which scores rank: those of one branch, or their fusion."""

HEAD = "head"
"""The projection head's name in the keys of adapters, beside `image` and `text`."""


@dataclass(frozen=True)
class LoraState:
    """All adapters by target (`image.…in_proj_weight[k]`, `text.…mlp.c_fc.weight`).

    `rank` is that of the towers; the head (targets that begin with `HEAD`) has its own.
    """

    rank: int
    scale: float
    factors: Mapping[str, LoraFactors]


@dataclass(frozen=True)
class Calibration:
    """Multipliers of scores with which their softmax is a calibrated probability, one for each path.

    That of the fused path multiplies (s_clip + β s_v) / (1 + β). `images` is how many held-out images of the last task
    that had any they rest on.
    """

    text: float
    visual: float
    fused: float
    images: int


@dataclass(frozen=True, eq=False)
class HeldOutSummary:
    """What a state keeps of the held-out images of all its tasks: quantiles over all of them, nothing of any one.

    Attributes:
        odds: by path, quantiles of the log-odds of the right class at several multipliers (`segp_cl.odds`).
        strangeness: quantiles of how strange the images looked (`segp_cl.unknown`); None where that cannot be told.
        images: how many images they are.
        classes: how many classes these are of.
        nobody_spread: what strangeness was computed with.
    """

    odds: Mapping[Path, Float[Tensor, "multipliers shares"]]
    strangeness: Float[Tensor, " shares"] | None
    images: int
    classes: int
    nobody_spread: float


@dataclass(frozen=True)
class Familiarity:
    """Weights of the evidence that an image shows a taught class and not a new word (`segp_cl.open_vocabulary`).

    Its log-odds are visual · energy + text · margin + offset. `images` is how many held-out images of the last task
    the weights rest on.
    """

    visual: float
    text: float
    offset: float
    images: int


@dataclass(frozen=True)
class LearnerState:
    """Everything that was learned, without the base weights. Tensors are float32 on the CPU, except `sums`.

    The order of `classes` is the order of the rows of `prototypes` (raw space, unit norm)
    and `text_features` (joint space, unit norm). `lora` is None until a task trains adapters. `covariance` is that of
    normalised raw features within their classes; with it the visual branch compares whitened features, without it
    plain ones. `sums` are what prototypes and covariance follow from; None in a state made before they were kept.
    Without `calibration` probabilities are those of the model's own scale, and without `familiarity` taught classes are
    told from new words by weights that hold for any model. Without `held_out` there are no prediction sets, and no
    image is told to be unknown.
    """

    model: ModelSpec
    weights_digest: str
    classes: tuple[LearnedClass, ...]
    prototypes: Float[Tensor, "classes raw"]
    text_features: Float[Tensor, "classes joint"]
    lora: LoraState | None
    fusion_weight: float
    tasks: int = 0
    covariance: Float[Tensor, "raw raw"] | None = None
    sums: ClassSums | None = None
    calibration: Calibration | None = None
    familiarity: Familiarity | None = None
    held_out: HeldOutSummary | None = None

    @cached_property
    def moves_image_tower(self) -> bool:
        """Whether the image tower has adapters, so that raw features are not those of the base model."""
        return self.lora is not None and any(target.startswith("image.") for target in self.lora.factors)

    @cached_property
    def kept_sums(self) -> ClassSums:
        """`sums`, or where they were not kept, what most likely led to prototypes and covariance."""
        if self.sums is not None:
            return self.sums
        counts = torch.tensor([c.images for c in self.classes], dtype=torch.int64)
        return ClassSums.estimate(self.prototypes, self.covariance, counts)

    @cached_property
    def class_names(self) -> tuple[str, ...]:
        """Names of all classes, in their order."""
        return tuple(c.name for c in self.classes)


@runtime_checkable
class ImageSource(Protocol):
    """Labelled images that are read on demand, so memory does not grow with their number."""

    @property
    def labels(self) -> Sequence[int]:
        """Position in `Task.classes` of every image."""
        ...

    def pixels(self, indices: Sequence[int]) -> UInt8[Tensor, "batch 3 height width"]:
        """Return the images at `indices`, decoded, resized and cropped for the base model, not yet normalised."""
        ...


@runtime_checkable
class FeatureSource(ImageSource, Protocol):
    """Labelled images whose raw features are known, for strategies that leave the image tower as it is."""

    def raw_features(self, indices: Sequence[int]) -> Float[Tensor, "batch raw"]:
        """Return r(x) of the images at `indices`."""
        ...


@dataclass(frozen=True)
class TaskClass:
    """A class to learn: its name and its prompt, a full sentence for the text tower."""

    name: str
    prompt: str


@dataclass(frozen=True)
class Task:
    """One increment of classes (the paper's t).

    With `extend`, classes that are already known receive more data; without it they are an error.
    """

    name: str
    classes: tuple[TaskClass, ...]
    images: ImageSource
    extend: bool = False


@dataclass(frozen=True)
class Anchors:
    """DPGD samples: `pixels` in [0, 1], each with the old class it was driven towards."""

    pixels: Float[Tensor, "anchors 3 height width"]
    classes: tuple[int, ...]


@dataclass(frozen=True)
class Scores:
    """Cosines of the two branches (5)(6) and their fusion (30).

    `length` is that of the images' features in the whitened space; None where there is no such space.
    """

    text: Float[Tensor, "batch classes"]
    visual: Float[Tensor, "batch classes"]
    fused: Float[Tensor, "batch classes"]
    length: Float[Tensor, " batch"] | None = None


@dataclass(frozen=True)
class Progress:
    """A step of an update, counted from 1, of phase `stem`, `anchors`, `train`, `drift`, `prototypes` or `align`."""

    phase: str
    step: int
    steps: int
    losses: Mapping[str, float] = field(default_factory=dict)


OnProgress = Callable[[Progress], None]
"""Called after every step. An exception that it raises ends the update (that is how a job is cancelled)."""


@dataclass(frozen=True)
class LearnReport:
    """Report of an update: wall seconds by phase, mean losses by epoch, and the resolved settings.

    `misaligned` is the share of trained entries whose signs were opposite to those they were averaged with; None where
    nothing was averaged.
    """

    seconds: Mapping[str, float]
    losses: tuple[Mapping[str, float], ...]
    settings: Mapping[str, object]
    adapted: tuple[str, ...]
    anchors: int
    steps: int
    misaligned: float | None = None


@dataclass(frozen=True)
class Learned:
    """The state after a task, and the report of the update."""

    state: LearnerState
    report: LearnReport
