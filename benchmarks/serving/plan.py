"""How long and how often: the full plan takes about fifty minutes on two cores, the quick one shows that it works."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from pydantic import BaseModel, ConfigDict

CLASSES: Final = 100
"""Of every made-up version."""


class Part(StrEnum):
    """One of the questions; each is kept on its own."""

    BARE = "bare"
    PEERS = "peers"
    SWAPS = "swaps"
    COMMIT = "commit"
    ABUSE = "abuse"
    GAIN = "gain"
    PREPARE = "prepare"
    START = "start"


class Plan(BaseModel):
    """Sizes of everything. Seconds where a name ends in `_s`.

    `swaps` also gives the memory figures: they are taken during the same run.
    """

    model_config = ConfigDict(frozen=True)

    quick: bool = False
    threads: int = 2
    api_processes: int = 2
    photos: int = 200
    retries: int = 2
    models: tuple[str, ...] = ("compact", "vit_b32")
    bare_clients: int = 16
    bare_rounds: int = 5
    bare_window_s: float = 10.0
    single_window_s: float = 5.0
    warm_s: float = 1.5
    tries_per_peer: int | None = None
    calibration_s: float = 5.0
    clients: tuple[int, ...] = (1, 4, 16, 64)
    peer_rounds: int = 2
    peer_window_s: float = 6.0
    swaps: int = 50
    early_swaps: int = 5
    swap_clients: int = 16
    swap_photos: int = 40
    steady_s: float = 2.0
    prepared_moves: int = 20
    cold_versions: int = 7
    gain_rounds: int = 5
    prepared_versions: int = 6
    starts: int = 5
    start_versions: int = 50
    rest_s: float = 12.0
    abuse_requests: int = 10_000
    abuse_share: float = 0.05
    abuse_clients: int = 32
    abuse_longest_px: int = 200


QUICK: Final = Plan(
    quick=True,
    retries=0,
    photos=40,
    bare_rounds=1,
    bare_window_s=3.0,
    single_window_s=2.0,
    tries_per_peer=1,
    calibration_s=4.0,
    peer_rounds=1,
    peer_window_s=4.0,
    swaps=6,
    early_swaps=2,
    swap_photos=10,
    steady_s=1.0,
    prepared_moves=3,
    cold_versions=4,
    gain_rounds=1,
    prepared_versions=3,
    starts=1,
    start_versions=3,
    rest_s=6.0,
    abuse_requests=600,
)
