"""The worker's settings, read from `KEEPSIGHT_*` variables."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from exchange.settings import SharedSettings


class WorkerSettings(SharedSettings):
    """The worker's own settings, and those it shares with the server."""

    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="Arithmetic of the update; auto: bfloat16 autocast on cuda, float32 on the CPU."
    )
    holdout_fraction: float = Field(0.1, ge=0, le=0.5, description="Share of every class kept for the evaluation.")
    holdout_min_images: int = Field(5, ge=2, description="A class with fewer images is learned from whole.")
    instant_test_images: int = Field(
        100, ge=0, description="Most images of all test sets that an instant version is measured on; evenly chosen."
    )
    warm: bool = Field(
        True, description="Keep a process with the base model loaded, so that no job waits for it; costs its memory."
    )
    max_attempts: int = Field(3, ge=1, le=100, description="How often an update whose process was lost is begun.")
    retry_pause_s: float = Field(5.0, ge=0, description="Seconds before a lost update is begun again; other jobs run.")
    max_job_s: float = Field(6 * 3600.0, gt=0, description="Longest duration of one attempt at an update.")
    max_silence_s: float = Field(
        120.0, gt=0, description="Silence after which an update's process is taken for stuck and ended."
    )
    heartbeat_s: float = Field(2.0, gt=0, description="Seconds between two signs of life of a running job.")
    stale_after_s: float = Field(15.0, gt=0, description="Silence after which another worker takes a job over.")
    visibility_timeout_s: int = Field(
        12 * 3600,
        ge=60,
        description="Seconds until Redis delivers an unacknowledged message again; longer than any job.",
    )

    @model_validator(mode="after")
    def _heartbeats_outpace_staleness(self) -> Self:
        if self.stale_after_s < 3 * self.heartbeat_s:
            raise ValueError(
                f"KEEPSIGHT_STALE_AFTER_S is {self.stale_after_s:g}, less than three heartbeats of "
                f"{self.heartbeat_s:g} s: a living worker's job would be taken from it; "
                f"set it to at least {3 * self.heartbeat_s:g}"
            )
        return self
