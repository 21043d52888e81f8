"""The server's settings, read from `KEEPSIGHT_*` variables."""

from __future__ import annotations

import ipaddress
import os
import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator
from pydantic_settings import NoDecode

from exchange.settings import SharedSettings

_ORIGIN = re.compile(r"https?://([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?")

OWN_PATHS = frozenset(
    {"assets", "classes", "corrections", "docs", "healthz", "keys", "live", "metrics", "openapi.json", "part"}
)
OWN_PATHS |= {"preferences", "readyz", "sign-in", "sign-out", "teach", "test-sets", "try", "v1", "v2", "versions"}
"""First parts of the service's paths."""

MIB = 1024 * 1024
GIB = 1024 * MIB


class Settings(SharedSettings):
    """The server's settings. Pass one to `create_app`; nothing else reads the environment."""

    # Keys
    keys_file: Path = Field(Path("var/keys.json"), description="API keys, hashed. Without keys: loopback only.")
    session_s: float = Field(12 * 3600.0, gt=0, description="Seconds after which a sign-in at the page ends.")

    # Model
    engine: Literal["auto", "torch", "openvino"] = Field(
        "auto",
        description="What runs the image tower of versions: `auto` is OpenVINO on a CPU where it is installed and "
        "answers like PyTorch, else PyTorch. On a GPU it is PyTorch in any case.",
    )
    engine_cache: Path | None = Field(
        None,
        description="Folder in which models that were converted for OpenVINO are kept; unset: `keepsight` in the "
        "user's cache. All stores may share it.",
    )
    serving_precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto",
        description="Arithmetic of the image tower when it answers; scores are float32 either way. `auto`: float32, or "
        "bfloat16 where OpenVINO's answers were measured to be the same.",
    )
    channels_last: bool = Field(False, description="Images in channels-last layout; `compact` has them so anyway.")
    compile: bool = Field(False, description="Run the towers through torch.compile: slow to load, then faster.")
    cuda_graphs: bool = Field(False, description="Replay recorded CUDA graphs of the image tower. GPU only.")

    # Address
    host: str = Field("127.0.0.1", description="Address to bind. Anything but loopback needs a key first.")
    port: int = Field(8000, ge=0, le=65535, description="Port to bind; 0 takes a free one.")
    share_port: bool = Field(False, description="Let other servers bind the same port (SO_REUSEPORT).")
    metrics_port: int | None = Field(
        None, ge=1, le=65535, description="Serve this process's /metrics on a port of its own too."
    )

    root_path: str = Field(
        "", pattern=r"^(/[A-Za-z0-9._~-]+)*$", description="Path that the service is served below, such as /vision."
    )
    cors_origins: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="Origins whose web pages may call the service, with commas between them; `*` for all."
    )

    # Connections
    max_connections: int | None = Field(
        None, ge=1, description="Most connections at once; unset: what the limit of open files leaves."
    )
    max_header_bytes: int = Field(64 * 1024, ge=1024, description="Most bytes of a request line and its headers.")
    header_timeout_s: float = Field(10.0, gt=0, description="Seconds until a request's headers must be complete.")
    idle_timeout_s: float = Field(65.0, gt=0, description="Seconds that a connection may be open without a request.")
    stall_timeout_s: float = Field(
        30.0, gt=0, description="Seconds in which a body or an answer must move on, by min_bytes_per_s each."
    )
    min_bytes_per_s: float = Field(8192, gt=0, description="Slowest body or answer, on average over stall_timeout_s.")
    stop_grace_s: float = Field(10.0, gt=0, description="Seconds that requests in hand have left when it is stopped.")

    # Classify
    max_classify_bytes: int = Field(256 * MIB, ge=1, description="Largest body of one classify request, in bytes.")
    max_json_bytes: int = Field(
        128 * MIB, ge=1, description="Largest JSON body of one classify request, in bytes; images in it are base64."
    )
    max_image_bytes: int = Field(32 * MIB, ge=1, description="Largest single image, in bytes, wherever it comes from.")
    max_images: int = Field(64, ge=1, description="Most images of one classify request.")
    max_request_pixels: int = Field(
        1_000_000_000,
        ge=1,
        description="Most pixels of one request's images; a JPEG that is scaled while it is decoded counts a quarter.",
    )
    max_labels: int = Field(1000, ge=1, description="Most ad-hoc labels of one classify request.")
    label_cache_size: int = Field(4096, ge=0, description="Ad-hoc labels whose text features are kept.")
    decode: Literal["exact", "fast"] = Field(
        "exact", description="`exact`: the model's own preprocessing to the bit; `fast`: nearly that, sooner."
    )
    decode_threads: int = Field(2, ge=1, description="Threads that decode images for classify.")
    queue_size: int = Field(128, ge=1, description="Classify requests in progress at once; one more is answered 429.")
    max_batch_size: int = Field(32, ge=1, description="Most images, or ad-hoc labels, of one forward pass.")
    max_wait_ms: float = Field(0, ge=0, description="Milliseconds that a batch which is not full waits for more.")
    refusals_per_s: float = Field(
        25.0,
        ge=0,
        le=1e6,
        description="Refusals a second that one address gets at once; more are held back for up to half a second. "
        "0: none are.",
    )
    classify_timeout_s: float = Field(30.0, gt=0, description="Seconds after which a classify request is given up.")

    # Uploads
    max_upload_bytes: int = Field(2 * GIB, ge=1, description="Largest body of one task upload, in bytes.")
    max_unpacked_bytes: int = Field(8 * GIB, ge=1, description="Most bytes an archive may unpack to.")
    max_compression_ratio: float = Field(
        200.0, ge=1, description="Most an archive may grow when unpacked, once past 64 MiB; more is taken for a bomb."
    )
    max_archive_members: int = Field(100_000, ge=1, description="Most entries of one archive.")
    max_task_classes: int = Field(1000, ge=1, description="Most classes of one task.")
    max_upload_pixels: int = Field(
        250_000_000, ge=1, description="Pixels of one upload's images together; large uploads have 50 for each byte."
    )
    upload_timeout_s: float = Field(600.0, gt=0, description="Seconds after which the check of an upload is given up.")
    intake_threads: int = Field(2, ge=1, description="Uploads validated at the same time; more wait.")

    # Versions
    poll_interval_s: float = Field(1.0, gt=0, description="Seconds between looks at CURRENT, beside the announcements.")
    reload_backoff_s: float = Field(10.0, gt=0, description="Seconds before a version that failed to load is retried.")
    warm_versions: int = Field(2, ge=1, description="Versions in memory, the served one among them.")
    probe_timeout_s: float = Field(10.0, gt=0, description="Seconds the inference behind /readyz may take.")

    # Exports
    export_timeout_s: float = Field(600.0, gt=0, description="Seconds after which an export is given up.")
    max_export_bytes: int = Field(
        8 * GIB, ge=512 * MIB, description="Memory that the process of an export to ONNX may allocate, in bytes."
    )

    # Events
    events_poll_s: float = Field(1.0, gt=0, description="Seconds between looks at a job, beside its announcements.")
    events_streams: int = Field(256, ge=1, description="Event streams at once; one more is answered 429.")
    events_heartbeat_s: float = Field(15.0, gt=0, description="Seconds between heartbeats on a quiet event stream.")

    @property
    def engine_cache_folder(self) -> Path:
        """Where converted models are kept."""
        if self.engine_cache is not None:
            return self.engine_cache
        # unlike that of `Path`, this leaves `~` where nobody knows the user's home
        return Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")) / "keepsight"

    @field_validator("cors_origins", mode="before")
    @classmethod
    def _split_origins(cls, value: object) -> object:
        return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value

    @field_validator("cors_origins")
    @classmethod
    def _check_origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for origin in value:
            if origin != "*" and not _ORIGIN.fullmatch(origin):
                raise ValueError(f"expected origins such as https://example.org or *; got {origin!r}")
        return tuple(origin.lower() for origin in value)

    @field_validator("root_path")
    @classmethod
    def _check_root_path(cls, value: str) -> str:
        if value.split("/")[1:2] and value.split("/")[1] in OWN_PATHS:
            raise ValueError(f"{value} begins like the service's own paths; choose another, such as /vision")
        return value

    @property
    def max_json_marks(self) -> int:
        """Most strings, commas and brackets of a JSON body: several for each image and label that is allowed."""
        return 10_000 + 4 * (self.max_images + self.max_labels)

    @property
    def is_loopback(self) -> bool:
        """Whether `host` can only be reached from this machine."""
        return is_loopback(self.host)


def is_loopback(host: str) -> bool:
    """Return whether a host name or address means this machine only. Names other than localhost are not looked up."""
    name = host.strip("[]").lower()
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name.partition("%")[0]).is_loopback
    except ValueError:
        return False
