"""What one measuring process is asked to do, and what it answers: JSON on its command line, JSON lines out."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, TypeAdapter, model_validator

from segp_cl.config import LearnerConfig
from segp_cl.types import ModelSpec

Overrides = dict[str, JsonValue]

FULL_COST: Final[Overrides] = {"anchor_batch_size": 32, "old_classes_per_step": None}
"""Settings under which a step costs what the paper's does; laid over the defaults for `step_ratio_*_full_cost`."""

BASE_SIDE: Final = "naive"
SIDES: Final[dict[str, Overrides]] = {"segp": {}, BASE_SIDE: {"strategy": "naive"}, "segp_full_cost": dict(FULL_COST)}


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Scene(_Frozen):
    """A model that knows `old_classes`, about to learn `new_classes` from `images` random pictures in all."""

    label: str
    model: str = "compact"
    pretrained: str | None = None
    old_classes: int = Field(90, ge=1)
    new_classes: int = Field(10, ge=1)
    images: int = Field(ge=1)
    threads: int = Field(ge=1)

    @property
    def spec(self) -> ModelSpec:
        return ModelSpec(self.model, self.pretrained)


class StepsJob(_Frozen):
    """Time single training steps. In each round every side learns the scene's task once, for `steps` steps.

    `config` holds for every side, a side's own overrides lie over it. The first `drop` steps of an update are left out,
    and always its first: a step's time is the difference between two reports.
    """

    kind: Literal["steps"] = "steps"
    scene: Scene
    sides: dict[str, Overrides] = Field(default_factory=lambda: dict(SIDES))
    config: Overrides
    steps: int = Field(ge=2)
    drop: int = Field(1, ge=1)
    rounds: int = Field(ge=1)

    @model_validator(mode="after")
    def _fits(self) -> StepsJob:
        if self.drop >= self.steps:
            raise ValueError(f"no step would be left: {self.steps} steps, the first {self.drop} dropped")
        for side in self.sides:
            config = self.config_of(side)
            anchors = self.scene.old_classes * min(config.k_seed, self.scene.images)
            if config.strategy == "segp" and anchors < config.anchor_batch_size:
                raise ValueError(f"{anchors} anchors do not fill a batch of {config.anchor_batch_size}: raise k_seed")
        return self

    @property
    def batch_size(self) -> int:
        return self.config_of(next(iter(self.sides))).batch_size

    def config_of(self, side: str) -> LearnerConfig:
        """The settings of one side; one pass over the pictures is one step."""
        return LearnerConfig.model_validate({**self.config, **self.sides[side], "epochs": self.steps})


class UpdateJob(_Frozen):
    """Time one whole update, and record the process's peak memory. A small update before it warms the process up."""

    kind: Literal["update"] = "update"
    scene: Scene
    config: Overrides = Field(default_factory=dict)


Job = StepsJob | UpdateJob
JOB: Final[TypeAdapter[Job]] = TypeAdapter(Annotated[Job, Field(discriminator="kind")])


class StepSample(_Frozen):
    """One training step. `foreign_cores`: how many cores other processes kept busy meanwhile; None: not known."""

    kind: Literal["step"] = "step"
    side: str
    round: int
    step: int
    seconds: float
    foreign_cores: float | None
    peak_mib: float


class UpdateSample(_Frozen):
    """One update: wall seconds in all and by phase; the process's peak memory before it and after it."""

    kind: Literal["update"] = "update"
    seconds: float
    phases: dict[str, float]
    anchors: int
    steps: int
    epochs: int
    foreign_cores: float | None
    before_mib: float
    peak_mib: float


class Tick(_Frozen):
    """Where the process is, for whoever waits."""

    kind: Literal["tick"] = "tick"
    what: str


Sample = StepSample | UpdateSample
Line = StepSample | UpdateSample | Tick
LINE: Final[TypeAdapter[Line]] = TypeAdapter(Annotated[Line, Field(discriminator="kind")])
