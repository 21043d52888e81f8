"""Log files that do not grow without end."""

from __future__ import annotations

from pathlib import Path

import pytest

from keepsight.local import logs
from keepsight.local.logs import LogStream, rotate


def test_a_large_log_is_set_aside_before_a_new_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "MAX_LOG_BYTES", 10)
    log = tmp_path / "server.log"
    rotate(log)
    assert list(tmp_path.iterdir()) == []
    log.write_text("x" * 10)
    rotate(log)
    assert log.exists()
    log.write_text("x" * 11)
    rotate(log)
    assert [path.name for path in tmp_path.iterdir()] == ["server.log.1"]


def test_lines_are_copied_whole_from_where_the_run_began(tmp_path: Path) -> None:
    log = tmp_path / "server.log"
    log.write_bytes(b"old\n")
    lines: list[str] = []
    with LogStream(lines.append) as stream:
        stream.follow("server", log, 4)
        with log.open("ab") as file:
            file.write(b"new\xff line\nhalf")
    assert lines == ["server | new\N{REPLACEMENT CHARACTER} line"]
