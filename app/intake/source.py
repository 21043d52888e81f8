"""What every kind of upload is read as: class names first, then one image after the other."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Item:
    """One image of the upload, or why it was not read: exactly one of `data` and `reason` is None.

    `label` is the class as the upload spells it, None where it has none. `where` names the entry for people.
    """

    where: str
    label: str | None
    data: bytes | None
    reason: str | None = None


class Source(Protocol):
    """An upload whose structure was read and found safe.

    `labels` holds every class once, in the order in which the task gets them, also those that will turn out to have
    no image. `ignored` counts entries that are nobody's data (hidden files, what operating systems add).
    """

    @property
    def labels(self) -> tuple[str, ...]: ...

    @property
    def ignored(self) -> int: ...

    def items(self) -> Iterator[Item]:
        """Every image and every rejected entry, one at a time; memory holds one image.

        Raises:
            ArchiveError: the upload turns out to be damaged on the way.
        """
        ...
