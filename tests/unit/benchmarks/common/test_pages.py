"""Numbers and tables of pages."""

from __future__ import annotations

import pytest

from benchmarks.common.pages import measured_on, number, table


@pytest.mark.parametrize(
    ("value", "digits", "shown"),
    [(None, None, "–"), (None, 2, "–"), (12_345, None, "12,345"), (0.123456, None, "0.1235"), (1234.56, 1, "1,234.6")],
)
def test_numbers(value: float | None, digits: int | None, shown: str) -> None:
    assert number(value, digits) == shown


def test_a_table_sets_numbers_to_the_right() -> None:
    assert table(("side", "s"), [("naive", "1.5")], left=1) == "| side | s |\n| --- | ---: |\n| naive | 1.5 |"
    assert table(("side", "s"), [("naive", "1.5")]) == "| side | s |\n| --- | --- |\n| naive | 1.5 |"


def test_a_padded_table_reads_in_a_terminal() -> None:
    assert table(("side", "s"), [("naive", "1.50"), ("segp", "–")], left=1, padded=True).splitlines() == [
        "| side  |    s |",
        "| ----- | ---: |",
        "| naive | 1.50 |",
        "| segp  |    – |",
    ]


def test_a_quick_run_says_so() -> None:
    machine = {"processor": "Z80", "cores": 1, "memory_gib": 0.1, "threads": 1, "torch": "2", "date": "2026-01-01"}
    assert measured_on(machine, quick=False) == "*Z80, 1 cores, 0.1 GiB, 1 threads, torch 2, 2026-01-01*"
    assert measured_on(machine, quick=True).endswith("quick plan: sizes cut down*")
