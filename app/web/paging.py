"""Long lists, one page of them at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")
PAGE_ROWS = 50


@dataclass(frozen=True)
class Page(Generic[T]):
    """One page of a list: its rows, which one it is from 1, of how many, and how many rows there are in all."""

    rows: Sequence[T]
    number: int
    pages: int
    total: int

    @property
    def first(self) -> int:
        """The place of its first row in the list, from 1; 0 of an empty one."""
        return (self.number - 1) * PAGE_ROWS + 1 if self.rows else 0

    @property
    def last(self) -> int:
        """The place of its last row in the list."""
        return self.first + len(self.rows) - 1 if self.rows else 0


def page_of(rows: Sequence[T], number: int) -> Page[T]:
    """Return a page of the rows, the last one where there are not so many."""
    pages = max(1, -(-len(rows) // PAGE_ROWS))
    number = min(max(1, number), pages)
    return Page(rows[(number - 1) * PAGE_ROWS : number * PAGE_ROWS], number, pages, len(rows))
