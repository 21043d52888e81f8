"""All hyper-parameters with symbol, unit and source. Some follow from the model's logit scale or its own settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, model_validator

PAPER_LOGIT_SCALE = 100.0
FUSION_WEIGHT_LIMIT = 5.0  # at the paper's logit scale; ten times the paper's weight: docs/adr/0028
FUSION_HALF_IMAGES = 128.0
REFERENCE_STEP = 0.01  # learning_rate * logit_scale where the compact model learns well with Adam and forgets little
WHITENING_SHRINKAGE = 1.0  # of the within-class covariance, in units of its mean variance: docs/adr/0009

MAX_BATCH = 4096
MAX_WEIGHT = 1000.0
MIN_TAU, MAX_TAU = 1e-4, 1000.0

StrategyName = Literal["segp", "merge", "segp+merge", "naive", "prototypes"]
PresetName = Literal["paper", "moving"]

PRESETS: Mapping[PresetName, Mapping[str, object]] = {
    "paper": {
        "strategy": "segp",
        "rank": 32,
        "lora_image_fraction": 1.0,
        "optimizer": "sgd",
        "learning_rate": 1e-3,
        "image_rate": 1.0,
        "batch_size": 128,
        "epochs": 10,
        "k_seed": 5,
        "k_adv": 10,
        "step_size_pixels": 1.5e-3,
        "min_anchors": 0,
        "max_anchors": None,
        "anchor_batch_size": 32,
        "old_classes_per_step": None,
        "align_steps": 0,
        "drift_ridge": None,
        "whiten": False,
        "fusion_weight": 0.5,
    },
    "moving": {"image_rate": 0.1, "lora_image_fraction": 0.5},
}
"""Sets of hyper-parameters by name. `paper`: every value that the paper states, and nothing of what is ours. `moving`:
half of the image tower is trained too, for images that it tells apart badly as it is."""


class ModelSettings(NamedTuple):
    """Hyper-parameters that suit a base model. None: the logit scale or the paper gives the value."""

    learning_rate: float | None = None
    image_rate: float | None = None
    fusion_weight: float | None = None
    fusion_half_images: float | None = None


NO_SETTINGS = ModelSettings()


class LearnerConfig(BaseModel):
    """Hyper-parameters of one update. `None` means "follows from the model"; see `resolve`.

    Every number is finite and has an upper bound, far above what is useful: what is asked for ends.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    preset: PresetName | None = Field(
        None,
        description="Values that are laid below those that are set besides. `paper`: all of the paper's. "
        "`moving`: the image tower is trained too.",
    )
    strategy: StrategyName = Field("segp", description="Update strategy, by name.")

    # LoRA
    rank: int = Field(16, ge=1, le=1024, description="LoRA rank r. Paper: 32.")
    head_rank: int = Field(256, ge=1, le=4096, description="LoRA rank of the projection head, where it is adapted.")
    lora_scale: float = Field(1.0, gt=0, le=100, description="Multiplier of B·A. Open in the paper.")
    lora_init: Literal["kaiming", "xavier"] = Field("kaiming", description="Initialisation of the frozen A; B is zero.")
    lora_attention: bool = Field(True, description="Adapt the attention K and V projections.")
    lora_feed_forward: bool = Field(True, description="Adapt both feed-forward linears (1x1 convolutions count).")
    lora_image_fraction: float | None = Field(
        None,
        gt=0,
        le=1,
        description="Share of the image tower's blocks that are adapted, counted from the output. None: the model's.",
    )
    lora_text_fraction: float = Field(
        1.0, gt=0, le=1, description="Share of the text tower's blocks that are adapted, counted from the output."
    )

    # Optimisation (15)(22)
    optimizer: Literal["adam", "sgd"] = Field("adam", description="Paper: SGD. Adam reaches the same in fewer steps.")
    learning_rate: float | None = Field(
        None, gt=0, le=100, description="Peak, cosine decay to 0. None: the model's own, or 0.01 / logit_scale."
    )
    image_rate: float | None = Field(
        None,
        ge=0,
        le=100,
        description="The image tower's learning rate as a share of `learning_rate`; 0 leaves it as it is. None: the "
        "model's own, or 1.",
    )
    momentum: float = Field(0.9, ge=0, lt=1, description="SGD only. Open in the paper.")
    weight_decay: float = Field(0.0, ge=0, le=10, description="Open in the paper.")
    batch_size: int = Field(64, ge=1, le=MAX_BATCH, description="Images per step. Paper: 128.")
    epochs: int = Field(5, ge=1, le=1000, description="Passes over the task's images. Paper: 10.")

    # Anchors: DPGD (9)-(14)
    k_seed: int = Field(1, ge=1, le=100, description="Seeds per old class, K_seed. Paper: 5.")
    epsilon_pixels: float = Field(4 / 255, ge=0, le=1, description="Bound of the perturbation in [0, 1] pixels.")
    step_size_pixels: float = Field(
        7.5e-3, gt=0, le=1, description="Sign step gamma in [0, 1] pixels (14). Paper: 0.0015."
    )
    k_adv: int = Field(2, ge=0, le=100, description="Sign steps K_adv; 0 keeps the unperturbed seeds. Paper: 10.")
    lambda_p: float = Field(0.5, ge=0, le=MAX_WEIGHT, description="Weight of the visual target (13).")
    tau_adv: float | None = Field(
        None, ge=MIN_TAU, le=MAX_TAU, description="Temperature of (11). None: 1 / logit_scale."
    )
    dpgd_batch_size: int = Field(
        32, ge=1, le=MAX_BATCH, description="Anchors per DPGD batch; changes time and memory only."
    )

    # ACGD (16)-(18)
    lambda_acgd: float = Field(
        5.0,
        ge=0,
        le=MAX_WEIGHT,
        description="Weight of ACGD (22). Scaled logits carry the model's own scale, so it holds for every model.",
    )
    tau_a: float = Field(20.0, ge=MIN_TAU, le=MAX_TAU, description="Distillation temperature.")
    acgd_logits: Literal["scaled", "cosine"] = Field(
        "scaled", description="`scaled`: logit_scale * cos / tau_a. `cosine`: the paper's literal cos / tau_a."
    )
    anchor_batch_size: int = Field(16, ge=1, le=MAX_BATCH, description="Anchors per step. Paper: 32, at 128 images.")

    old_classes_per_step: int | None = Field(
        8,
        ge=2,
        le=100_000,
        description="Old classes whose texts one step encodes; other texts keep their last encoding. None: all.",
    )
    max_anchors: int | None = Field(
        150,
        ge=1,
        le=100_000,
        description="Most anchors in all; old classes nearest to the new images come first. None: no limit.",
    )

    min_anchors: int = Field(
        150,
        ge=0,
        le=100_000,
        description="Anchors that few old classes get in all, by more seeds each, where the image tower is trained.",
    )

    # TSGR (19)-(21)
    lambda_tsgr: float = Field(1.0, ge=0, le=MAX_WEIGHT, description="Weight of TSGR (22).")
    k_neighbours: int = Field(10, ge=1, le=100_000, description="Text neighbours per new class.")
    tau_t: float = Field(0.05, ge=MIN_TAU, le=MAX_TAU, description="Temperature of the neighbour distribution.")

    # Aligned merging (arXiv 2506.03189): strategies merge and segp+merge
    merge_weight: float | None = Field(
        None,
        ge=0,
        le=1,
        description="Weight of the task in the average. None: 1/t, t the number of tasks with this one.",
    )
    merge_period: int | None = Field(
        1, ge=1, le=100_000, description="Steps from one alignment to the next. None: there is no alignment."
    )
    merge_top_share: float = Field(
        1.0,
        ge=0,
        le=1,
        description="Share of each matrix's entries, the largest first, that are aligned with. Paper: 0.5.",
    )
    merge_target: Literal["global", "zero"] = Field(
        "global", description="What conflicting entries are set back to: their values before the task, or zero."
    )

    # Alignment of the head on the stored statistics of every class: not in the paper
    align_steps: int = Field(
        200,
        ge=0,
        le=20_000,
        description="Steps that train an adapted head to separate all classes on sampled features. Paper: 0.",
    )
    align_batch_size: int = Field(256, ge=1, le=65_536, description="Features sampled per step.")

    # Prototypes and fusion (23)-(32)
    transfer_prototypes: bool = Field(
        True, description="Move what is kept of old classes with the image tower, where it is trained."
    )
    drift_ridge: float | None = Field(
        3.0,
        gt=0,
        le=1e6,
        description="Ridge of the linear map that moves prototypes and covariance, in mean eigenvalues of its images' "
        "features. None: the anchors' drift moves the prototypes alone (24)-(29), as in the paper.",
    )
    whiten: bool = Field(
        True, description="Compare visual features whitened by their within-class covariance. Not in the paper."
    )
    keep_class_scatter: bool = Field(
        False,
        description="Keep how each class spreads, so that it can be taken away exactly later. That takes 8 bytes times "
        "the width of raw features for each image, up to that width. Not in the paper.",
    )
    fusion_weight: float | None = Field(
        None,
        ge=0,
        le=10_000,
        description="beta (30). None: limit * n / (n + fusion_half_images), n the images of a class that has few; the "
        "limit is the model's own, or 5 * 100 / logit_scale. Paper: 0.5.",
    )
    fusion_half_images: float | None = Field(
        None,
        ge=0,
        le=1e6,
        description="Images of a class at which an unset beta is half of its limit. None: the model's own, or 128.",
    )
    fusion_holdout: float = Field(
        0.1,
        ge=0,
        le=0.5,
        description="Share of each class's images that is held out to choose an unset beta. 0: beta is not changed.",
    )
    correction_stands_for: float = Field(
        40.0,
        ge=0,
        le=1000,
        description="How many wrong labels there are for each that was corrected, roughly. What they have added to the "
        "variance within classes is taken away. 0: corrections move their images alone.",
    )
    feature_batch_size: int = Field(64, ge=1, le=MAX_BATCH, description="Images per forward pass without training.")

    @model_validator(mode="before")
    @classmethod
    def _above_its_preset(cls, given: Any) -> Any:
        name = given.get("preset") if isinstance(given, Mapping) else None
        values = next((values for known, values in PRESETS.items() if known == name), None)
        return given if values is None else {**values, **given}

    def resolve(self, logit_scale: float, own: ModelSettings = NO_SETTINGS) -> ResolvedConfig:
        """Fill in what is None from the model's logit scale and its `own` settings (see docs/adr/0003).

        - learning rate: logits are logit_scale * cosine, so an equal step in logits needs lr ~ 1 / logit_scale;
        - the image tower's share of it: the paper trains both towers alike;
        - the limit of beta: the visual branch enters the probabilities as logit_scale * beta * cos.
        """
        ruled = {
            "learning_rate": REFERENCE_STEP / logit_scale,
            "image_rate": 1.0,
            "fusion_weight": FUSION_WEIGHT_LIMIT * PAPER_LOGIT_SCALE / logit_scale,
            "fusion_half_images": FUSION_HALF_IMAGES,
            "tau_adv": 1 / logit_scale,
        }
        follows = ruled | {name: value for name, value in own._asdict().items() if value is not None}
        asked = self.model_dump()
        return ResolvedConfig(**asked | {name: value for name, value in follows.items() if asked[name] is None})


class ResolvedConfig(LearnerConfig):
    """Hyper-parameters of one update, with every value set. Made by `LearnerConfig.resolve`."""

    learning_rate: float = Field(gt=0, le=100)
    image_rate: float = Field(ge=0, le=100)
    fusion_weight: float = Field(ge=0, le=10_000)
    fusion_half_images: float = Field(ge=0, le=1e6)
    tau_adv: float = Field(gt=0, le=MAX_TAU)
