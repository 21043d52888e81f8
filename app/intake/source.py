"""The interface of all kinds of uploads: class names first, then the images one by one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Item:
    """One image of the upload, or why it was not read: exactly one of `data` and `reason` is None.

    `label` is the class as the upload spells it, or None. `where` names the entry in messages.
    """

    where: str
    label: str | None
    data: bytes | None
    reason: str | None = None


class Source(Protocol):
    """An upload whose structure has been read and is safe.

    `labels` holds every class once, in the task's order, including those that turn out to have no image. `ignored`
    counts entries that are not data (hidden files, files that operating systems add).
    """

    @property
    def labels(self) -> tuple[str, ...]: ...

    @property
    def ignored(self) -> int: ...

    def items(self) -> Iterator[Item]:
        """Yield every image and every rejected entry; only one image is in memory at a time.

        Raises:
            ArchiveError: the upload turns out to be damaged.
        """
        ...
