"""Long lists are shown a page at a time."""

from __future__ import annotations

import pytest

from app.web.paging import PAGE_ROWS, page_of


@pytest.mark.parametrize(
    ("rows", "asked", "number", "first", "last", "pages"),
    [
        (0, 1, 1, 0, 0, 1),
        (3, 1, 1, 1, 3, 1),
        (120, 2, 2, 51, 100, 3),
        (120, 3, 3, 101, 120, 3),
        (120, 99, 3, 101, 120, 3),
    ],
)
def test_a_page_says_where_it_is(rows: int, asked: int, number: int, first: int, last: int, pages: int) -> None:
    page = page_of(range(rows), asked)
    assert (page.number, page.first, page.last, page.pages, page.total) == (number, first, last, pages, rows)
    assert list(page.rows) == list(range(rows))[first - 1 if first else 0 : last]
    assert len(page.rows) <= PAGE_ROWS
