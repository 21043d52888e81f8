"""All faults, in the order in which they are tried."""

from __future__ import annotations

from typing import Final

from benchmarks.faults.fault import Fault
from benchmarks.faults.kinds.brokers import BROKERS
from benchmarks.faults.kinds.clients import CLIENTS
from benchmarks.faults.kinds.damage import DAMAGE
from benchmarks.faults.kinds.full_disks import FULL_DISKS
from benchmarks.faults.kinds.instant import INSTANT
from benchmarks.faults.kinds.limits import LIMITS
from benchmarks.faults.kinds.measuring import MEASURING
from benchmarks.faults.kinds.processes import PROCESSES
from benchmarks.faults.kinds.restarts import RESTARTS
from benchmarks.faults.kinds.upkeep import UPKEEP

FAULTS: Final[tuple[Fault, ...]] = (
    *PROCESSES,
    *INSTANT,
    *BROKERS,
    *FULL_DISKS,
    *DAMAGE,
    *CLIENTS,
    *UPKEEP,
    *LIMITS,
    *MEASURING,
    *RESTARTS,
)
