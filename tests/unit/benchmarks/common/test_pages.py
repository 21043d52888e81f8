"""Numbers and tables of pages."""

from __future__ import annotations

import pytest

from benchmarks.common.pages import measured_on, number, table, with_section


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


def test_a_section_comes_before_the_versions_and_once() -> None:
    page = "# Toys\n\nText.\n\n## Drift\n\nOld.\n\n## Versions\n\n| a |\n"
    added = with_section(page, "New", "One.\n\n### Part\n\nTwo.")
    assert added == (
        "# Toys\n\nText.\n\n## Drift\n\nOld.\n\n## New\n\nOne.\n\n### Part\n\nTwo.\n\n## Versions\n\n| a |\n"
    )
    assert with_section(added, "New", "One.\n\n### Part\n\nTwo.") == added
    assert with_section(added, "New", "Other.") == page.replace("## Versions", "## New\n\nOther.\n\n## Versions")


def test_a_page_without_versions_gets_its_section_at_the_end() -> None:
    assert with_section("# Toys\n", "New", "One.") == "# Toys\n\n## New\n\nOne.\n"


def test_a_section_without_a_body_is_taken_out() -> None:
    page = with_section("# Page\n\ntext\n", "Figures", "one")
    assert with_section(page, "Figures", "") == "# Page\n\ntext\n"
