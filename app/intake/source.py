"""The interface of all kinds of uploads: class names first, then the images one by one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from exchange.contracts import PassedOver


@dataclass(frozen=True)
class Item:
    """One image of the upload, or why it was not read: exactly one of `data` and `reason` is None.

    `label` is the class as the upload spells it, or None. `where` names the entry in messages. A `held_out` image is
    measured on and not learned from. A `test` image is of the test split.
    """

    where: str
    label: str | None
    data: bytes | None
    reason: str | None = None
    held_out: bool = False
    test: bool = False


class Source(Protocol):
    """An upload whose structure has been read and is safe. Close it when done.

    `labels` holds every class to be learned once, in the task's order, including those that turn out to have no image;
    `held_out_labels` those with images to measure on, `test_labels` those of the test split if that was asked for.
    `passed_over` lists what is no data (hidden files, what operating systems add), cut to 1,000 rows of
    `passed_over_count`, and `notes` say how the upload was read.
    """

    @property
    def labels(self) -> tuple[str, ...]: ...

    @property
    def held_out_labels(self) -> tuple[str, ...]: ...

    @property
    def test_labels(self) -> tuple[str, ...]: ...

    @property
    def passed_over(self) -> tuple[PassedOver, ...]: ...

    @property
    def passed_over_count(self) -> int: ...

    @property
    def notes(self) -> tuple[str, ...]: ...

    def items(self) -> Iterator[Item]:
        """Yield every image and every rejected entry; only one image is in memory at a time.

        Raises:
            ArchiveError: the upload turns out to be damaged.
        """
        ...

    def close(self) -> None:
        """Release what is held besides the file."""
        ...
