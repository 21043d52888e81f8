"""The journal survives a torn last line, and does not hide a damaged one."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from pathlib import Path

import pytest

from model_store.disk import Disk
from model_store.journal import append_journal, read_journal
from model_store.types import JournalEntry

FIRST = JournalEntry(at=datetime(2026, 3, 1, tzinfo=UTC), who="ann", action="promote", to="000001-0123456789ab")
SECOND = JournalEntry(
    at=datetime(2026, 3, 2, tzinfo=UTC), who="bo\nb", action="pin", to="000001-0123456789ab", reason="zwölf\n"
)


def test_no_file_is_an_empty_journal(tmp_path: Path) -> None:
    assert read_journal(tmp_path / "journal.jsonl").entries == ()


def test_entries_come_back_in_order_one_line_each(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    end = append_journal(Disk(), path, [FIRST], at=0)
    end = append_journal(Disk(), path, [SECOND, FIRST], at=end)
    journal = read_journal(path)
    assert journal.entries == (FIRST, SECOND, FIRST)
    assert journal.damaged == ()
    assert journal.size == end == path.stat().st_size
    assert path.read_bytes().count(b"\n") == 3


def test_a_line_torn_at_any_byte_is_left_out_and_replaced_by_the_next(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    end = append_journal(Disk(), path, [FIRST], at=0)
    append_journal(Disk(), path, [SECOND], at=end)
    whole = path.read_bytes()
    for cut in range(end, len(whole)):
        path.write_bytes(whole[:cut])
        journal = read_journal(path)
        assert (journal.entries, journal.damaged, journal.size) == ((FIRST,), (), end)
        append_journal(Disk(), path, [SECOND], at=journal.size)
        assert path.read_bytes() == whole


def test_a_damaged_line_is_left_out_counted_and_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "journal.jsonl"
    append_journal(Disk(), path, [FIRST, SECOND, FIRST], at=0)
    lines = path.read_bytes().split(b"\n")
    path.write_bytes(b"\n".join([lines[0], lines[1][:20] + b"\xff" + lines[1][21:], *lines[2:]]))
    with caplog.at_level(logging.WARNING):
        journal = read_journal(path)
    assert journal.entries == (FIRST, FIRST)
    assert journal.damaged == (2,)
    assert "lines [2] cannot be read" in caplog.text
