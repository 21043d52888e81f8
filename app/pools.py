"""The server's pools of threads for work that waits for something which may hang."""

from __future__ import annotations

from dataclasses import dataclass, field

from app.offload import Pool
from exchange.corrections import CorrectionsBusyError
from exchange.redis_client import BrokerUnavailableError
from exchange.rollout import RolloutBusyError
from model_store.types import StoreBusyError


def _broker() -> Pool:
    return Pool(
        "broker",
        threads=8,
        waiting=64,
        full=lambda: BrokerUnavailableError("the broker does not answer the calls that wait for it already"),
    )


def _store() -> Pool:
    return Pool(
        "store",
        threads=4,
        waiting=64,
        full=lambda: StoreBusyError("the store does not answer the reads that wait for it already"),
    )


def _moves() -> Pool:
    return Pool(
        "moves", threads=4, waiting=0, full=lambda: RolloutBusyError("too many moves of CURRENT wait for their turn")
    )


def _upkeep() -> Pool:
    return Pool(
        "upkeep", threads=1, waiting=8, full=lambda: StoreBusyError("other changes of the store wait for their turn")
    )


def _corrections() -> Pool:
    return Pool(
        "corrections",
        threads=2,
        waiting=64,
        full=lambda: CorrectionsBusyError("the spool does not answer the corrections that wait for it already"),
    )


@dataclass(frozen=True)
class Pools:
    """One pool for each thing that is waited for: what hangs fills its own pool, and nothing else waits for it.

    Attributes:
        broker: calls to the broker, each of which ends within seconds.
        store: reads of the store, which may lie on a network disk.
        moves: moves of CURRENT, which wait for all servers.
        upkeep: what looks after versions, one after the other: it may read all of the store, or wait for its lock.
        corrections: work on the corrections in the spool, which one process does at a time.
    """

    broker: Pool = field(default_factory=_broker)
    store: Pool = field(default_factory=_store)
    moves: Pool = field(default_factory=_moves)
    upkeep: Pool = field(default_factory=_upkeep)
    corrections: Pool = field(default_factory=_corrections)

    def close(self) -> None:
        """End all threads when their work is done."""
        for pool in (self.broker, self.store, self.moves, self.upkeep, self.corrections):
            pool.close()
