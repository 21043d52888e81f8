"""Numbers and times for people."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from keepsight.cli import console


@pytest.fixture
def utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "–"), (0.04, "0.0 s"), (59.94, "59.9 s"), (60, "1 min 00 s"), (3599, "59 min 59 s"), (3725, "1 h 02 min")],
)
def test_durations(value: float | None, text: str) -> None:
    assert console.seconds(value) == text


@pytest.mark.parametrize(("value", "text"), [(0.8751, "87.5 %"), (1, "100.0 %"), (None, "–"), ("x", "–")])
def test_fractions_are_percent_only_where_printed(value: object, text: str) -> None:
    assert console.percent(value) == text


@pytest.mark.usefixtures("utc")
@pytest.mark.parametrize(
    ("timestamp", "text"),
    [
        ("2026-01-02T03:04:05+01:00", "2026-01-02 02:04:05"),
        ("2026-01-02T03:04:05", "2026-01-02 03:04:05"),
        ("yesterday", "yesterday"),
        (None, "–"),
    ],
)
def test_moments_are_local(timestamp: str | None, text: str) -> None:
    assert console.moment(timestamp) == text


def test_piped_tables_are_not_cut(capsys: pytest.CaptureFixture[str]) -> None:
    made = console.table("a", ">b")
    made.add_row("x" * 150, "1")
    console.print_table(made)
    assert "x" * 150 in capsys.readouterr().out


def test_json_keeps_words_readable(capsys: pytest.CaptureFixture[str]) -> None:
    console.print_json({"label": "čáp"})
    assert capsys.readouterr().out == '{\n  "label": "čáp"\n}\n'
