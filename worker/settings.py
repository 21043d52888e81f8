"""What an operator can set about the worker, as `KEEPSIGHT_*` environment variables."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict


class WorkerSettings(BaseSettings):
    """The worker's settings. Where the server has one of the same name, both must be given the same value."""

    model_config = SettingsConfigDict(env_prefix="KEEPSIGHT_", env_ignore_empty=True, extra="ignore", frozen=True)

    store: Path = Field(Path("var/store"), description="Root of the model store.")
    spool: Path = Field(Path("var/spool"), description="Where accepted images wait for the worker.")
    redis_url: str = Field("redis://127.0.0.1:6379/0", description="Jobs and Celery's messages.")
    model: str = Field("compact", description="Base model of version 1, if the worker is the first to need the store.")
    pretrained: str | None = Field(None, description="Weights of the base model: an open_clip tag or a checkpoint.")
    device: str = Field(
        "auto",
        pattern=r"^(auto|cpu|cuda(:\d+)?)$",
        description="Where to learn: cpu, cuda, cuda:1; auto: cuda if there is one.",
    )
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="Arithmetic of the update; auto: bfloat16 autocast on cuda, float32 on the CPU."
    )
    threads: int = Field(min(2, os.cpu_count() or 1), ge=1, description="Torch threads of an update, and decoders.")
    max_image_pixels: int = Field(50_000_000, ge=1, description="Largest image that is decoded, as in the server.")
    holdout_fraction: float = Field(0.1, ge=0, le=0.5, description="Share of every class kept for the evaluation.")
    holdout_min_images: int = Field(5, ge=2, description="A class with fewer images is learned from whole.")
    max_attempts: int = Field(3, ge=1, description="How often an update whose process was killed is begun.")
    heartbeat_s: float = Field(2.0, gt=0, description="Seconds between two signs of life of a running job.")
    stale_after_s: float = Field(15.0, gt=0, description="Silence after which another worker takes a job over.")
    visibility_timeout_s: int = Field(
        12 * 3600,
        ge=60,
        description="Seconds until Redis delivers an unacknowledged message again; longer than any job.",
    )
    swap_timeout_s: float = Field(60.0, gt=0, description="Seconds a move waits for servers to be ready, and to swap.")
    server_lost_after_s: float = Field(5.0, gt=0, description="Silence after which a server counts as dead.")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field("INFO", description="Level of the worker's log.")

    @model_validator(mode="after")
    def _heartbeats_outpace_staleness(self) -> Self:
        if self.stale_after_s < 3 * self.heartbeat_s:
            raise ValueError(
                f"KEEPSIGHT_STALE_AFTER_S is {self.stale_after_s:g}, less than three heartbeats of "
                f"{self.heartbeat_s:g} s: a living worker's job would be taken from it; "
                f"set it to at least {3 * self.heartbeat_s:g}"
            )
        return self
