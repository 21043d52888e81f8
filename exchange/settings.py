"""The settings that server and worker share, each declared once, read from `KEEPSIGHT_*`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

if TYPE_CHECKING:  # torch takes seconds to import, and a refused setting should be reported at once
    from segp_cl.types import ModelSpec

PREFIX = "KEEPSIGHT_"

_MOST = {"_s": 31 * 24 * 3600.0, "_ms": 3_600_000.0, "threads": 1024}
"""The largest value of a setting whose name ends so: seconds, milliseconds, threads."""
MOST = 2**50
"""The largest value of any other number."""


def why_refused(error: ValidationError) -> str:
    """What is wrong with the environment, each setting by the name of its variable."""
    said = []
    for problem in error.errors(include_url=False):
        name = "_".join(str(part) for part in problem["loc"]).upper()
        said.append(f"{PREFIX}{name}: {problem['msg']}" if name else str(problem["msg"]))
    return "; ".join(said)


class SharedSettings(BaseSettings):
    """Settings that server and worker of one store must agree on, and settings that each has for itself."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_ignore_empty=True, extra="ignore", frozen=True, allow_inf_nan=False
    )

    store: Path = Field(Path("var/store"), description="Root of the versions; every server and worker shares it.")
    spool: Path = Field(Path("var/spool"), description="Where uploads wait for the worker; shared with it, purged.")
    redis_url: str = Field(
        "redis://127.0.0.1:6379/0", description="Broker between server and worker: `redis://` or `unix://`."
    )
    model: str = Field(
        "compact",
        description="Base model: `compact`, an open_clip name, `hf-hub:org/model` or `local-dir:/path`.",
    )
    pretrained: str | None = Field(None, description="open_clip tag (`openai`) or path of a checkpoint.")
    device: str = Field(
        "auto",
        pattern=r"^(auto|cpu|cuda(:\d+)?)$",
        description="Where the model runs: `cpu`, `cuda`, `cuda:1`; `auto` prefers a GPU.",
    )
    threads: int = Field(
        default_factory=lambda: min(2, os.cpu_count() or 1),
        ge=1,
        description="CPU threads of one forward pass or update.",
    )
    max_image_pixels: int = Field(
        250_000_000, ge=1, description="Largest single image, in pixels of its own size; memory may allow fewer."
    )
    max_decode_bytes: int = Field(
        208 << 20, ge=64 << 20, description="Memory for large images that are being decoded, together, in bytes."
    )
    max_test_sets: int = Field(20, ge=0, description="Most test sets that are stored at once.")
    max_test_set_bytes: int = Field(2 << 30, ge=0, description="Most bytes of all test sets together.")
    max_test_set_images: int = Field(10_000, ge=1, description="Most images of one test set.")
    test_set_days: float = Field(
        365.0, gt=0, le=36_500, description="Days that a test set is kept, unless its sender says how long."
    )
    corrections_max: int = Field(1000, ge=1, le=10_000, description="Most corrections that wait to be learned.")
    corrections_max_bytes: int = Field(
        256 << 20, ge=1, description="Most bytes of their images together; more are refused."
    )
    corrections_kept_s: float = Field(
        14 * 24 * 3600.0, gt=0, description="Seconds after which a correction that was not learned is removed."
    )
    corrections_learn_count: int = Field(
        50, ge=0, description="Corrections that wait before they are learned by themselves; 0: never by their number."
    )
    corrections_learn_after_s: float = Field(
        24 * 3600.0, ge=0, description="Seconds the oldest waits before all are learned; 0: never by their age."
    )
    swap_timeout_s: float = Field(60.0, gt=0, description="Seconds a move waits for servers to be ready, and to swap.")
    server_lost_after_s: float = Field(5.0, gt=0, description="Silence after which a server counts as dead.")
    umask: str = Field(
        "077", pattern=r"^[0-7]{3,4}$", description="Rights withheld from others on new files, in octal."
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field("INFO", description="Least level that is logged.")

    @field_validator("*")
    @classmethod
    def _within_reason(cls, value: object, info: ValidationInfo) -> object:
        """Refuse numbers that no wait, file or pool can have, in one place for all settings."""
        if isinstance(value, bool) or not isinstance(value, int | float):
            return value
        name = info.field_name or ""
        most = next((most for ending, most in _MOST.items() if name.endswith(ending)), MOST)
        if value > most:
            raise ValueError(f"expected at most {most:g}")
        return value

    @property
    def model_spec(self) -> ModelSpec:
        """The base model as a `ModelSpec`."""
        from segp_cl.types import ModelSpec

        return ModelSpec(self.model, self.pretrained)
