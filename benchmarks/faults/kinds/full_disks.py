"""Disks that are full, without room for files, or refuse to be written."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from benchmarks.faults import disks
from benchmarks.faults.disks import NAMES
from benchmarks.faults.fault import ANY_END, DISKS, Fault
from benchmarks.faults.stage import Stage


def fill(*names: str) -> Callable[[Stage], None]:
    """Leave no byte on these disks."""

    def inject(stage: Stage) -> None:
        for name in names:
            stage.service.disks[name].fill()

    return inject


def use_up_inodes(*names: str) -> Callable[[Stage], None]:
    """Leave room for bytes and none for files."""

    def inject(stage: Stage) -> None:
        for name in names:
            stage.service.disks[name].use_up_inodes()

    return inject


def forbid_writing(name: str) -> Callable[[Stage], None]:
    """Refuse writes to a folder of the service's."""

    def inject(stage: Stage) -> None:
        disks.forbid_writing(stage.service.base / name)

    return inject


def permit_writing(name: str) -> Callable[[Stage], None]:
    """Take writes again."""

    def undo(stage: Stage) -> None:
        disks.permit_writing(stage.service.base / name)

    return undo


def make_room(stage: Stage) -> None:
    """Give every disk its room back."""
    for disk in stage.service.disks.values():
        disk.empty()


def _full(what: str, names: tuple[str, ...], *, quick: bool = False) -> Fault:
    # an update that has no room to publish ends with that as its reason
    return Fault(
        f"disk of {what} is full",
        fill(*names),
        make_room,
        lasts_s=6,
        ends=ANY_END,
        uploads=True,
        quick=quick,
        needs=DISKS,
    )


FULL_DISKS: Final = (
    _full("the store", ("store",)),
    _full("the spool", ("spool",)),
    _full("the logs", ("log",)),
    _full("the broker", ("broker",)),
    _full("everything", NAMES, quick=True),
    *(
        Fault(
            f"disk of {what} takes no more files", use_up_inodes(*names), make_room,
            lasts_s=6, ends=ANY_END, uploads=True, needs=DISKS,
        )
        for what, names in {"the store": ("store",), "the spool": ("spool",), "everything": NAMES}.items()
    ),
    Fault(
        "disk of the spool is read-only", forbid_writing("spool"), permit_writing("spool"),
        lasts_s=5, job=False, uploads=True, needs=DISKS,
    ),
    Fault(
        "disk of the store is read-only", forbid_writing("store"), permit_writing("store"),
        lasts_s=5, job=False, uploads=True, needs=DISKS,
    ),
)  # fmt: skip
