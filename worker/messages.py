"""Messages between the worker and a job's process: one JSON object per line over the process's pipes.

The worker sends an `Order` and, when asked, `GO`. The process sends `Step`s and `Told`, then `ReadyToPublish` and waits
for `GO`, then `Done` or `DoneInstantly`; or `Failed`. All the while it sends `Alive`. Before `GO` it changes nothing
outside the job's spool folder, so it may be killed at any moment; that is how a job is cancelled.

A process that is started before there is a job gets a `WarmUp` first. After an instant version it waits for another
order; after an update it ends.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from exchange.contracts import ContributionReport, InstantOutcome, JobError, LabelReport, UpdateJob, UpdateOutcome
from worker.settings import WorkerSettings

GO = "go"
"""The worker's answer to `ReadyToPublish`."""

NOT_PUBLISHED = "NotPublishedError"
"""The kind of error that answers a `resume_only` order if there is nothing to resume."""


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True)


class WarmUp(_Message):
    """Load the base model, at low priority, and wait for an order."""

    kind: Literal["warm_up"] = "warm_up"
    settings: WorkerSettings


class Order(_Message):
    """What a process is to do: the job and the worker's settings.

    With `instant` the job's instant version is made. With `resume_only` nothing is learned: a version that an earlier
    attempt has published is promoted; if there is none, the answer is `Failed` with kind `NOT_PUBLISHED`.
    """

    kind: Literal["order"] = "order"
    job: UpdateJob
    settings: WorkerSettings
    instant: bool = False
    resume_only: bool = False

    @property
    def returns(self) -> bool:
        """Whether the process then waits for another order: what trains needs memory, which ends with it."""
        return self.instant or self.job.is_quick


ORDERS: TypeAdapter[WarmUp | Order] = TypeAdapter(Annotated[WarmUp | Order, Field(discriminator="kind")])


class Step(_Message):
    """One step of a phase is done (or, with `step` 0, the phase has begun). Losses are finite."""

    kind: Literal["step"] = "step"
    phase: str
    step: int
    steps: int
    losses: dict[str, float] = Field(default_factory=dict)


class Alive(_Message):
    """The process can still run; sent every few seconds, whatever else it does."""

    kind: Literal["alive"] = "alive"


class Told(_Message):
    """What is told before a task is learned: what its classes have in common with the old ones, or of its labels."""

    kind: Literal["told"] = "told"
    contributions: ContributionReport | None = None
    labels: LabelReport | None = None


class ReadyToPublish(_Message):
    """Learning and evaluation are done; the process waits for permission to publish."""

    kind: Literal["ready"] = "ready"


class Done(_Message):
    """The job succeeded."""

    kind: Literal["done"] = "done"
    outcome: UpdateOutcome


class DoneInstantly(_Message):
    """The instant version is there."""

    kind: Literal["done_instantly"] = "done_instantly"
    outcome: InstantOutcome


class Failed(_Message):
    """The job failed, and another attempt would fail too."""

    kind: Literal["failed"] = "failed"
    error: JobError


Message = Annotated[Step | Alive | Told | ReadyToPublish | Done | DoneInstantly | Failed, Field(discriminator="kind")]
MESSAGE: TypeAdapter[Step | Alive | Told | ReadyToPublish | Done | DoneInstantly | Failed] = TypeAdapter(Message)
