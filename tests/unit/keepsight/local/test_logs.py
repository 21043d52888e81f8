"""Log files that do not grow without end."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from keepsight.local import logs
from keepsight.local.logs import LogStream, limit, open_log


def test_a_large_log_is_set_aside_while_it_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "MAX_LOG_BYTES", 10)
    log = tmp_path / "server.log"
    limit(log)
    assert list(tmp_path.iterdir()) == []
    with open_log(log) as file:
        file.write(b"x" * 10)
        file.flush()
        limit(log)
        assert log.read_bytes() == b"x" * 10
        file.write(b"y")
        file.flush()
        limit(log)
        file.write(b"after")
    assert log.read_bytes() == b"after"
    assert (tmp_path / "server.log.1").read_bytes() == b"x" * 10 + b"y"


def test_a_large_log_is_emptied_if_it_cannot_be_set_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "MAX_LOG_BYTES", 10)
    log = tmp_path / "server.log"
    log.write_text("x" * 11)

    def full(source: Path, target: Path) -> None:
        target.write_text("part")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copyfile", full)
    limit(log)
    assert [(path.name, path.stat().st_size) for path in tmp_path.iterdir()] == [("server.log", 0)]


def test_a_log_that_cannot_be_opened_goes_nowhere(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with open_log(tmp_path / "file" / "server.log") as log:
        log.write(b"lost")
    assert (tmp_path / "file").read_text() == ""


def test_lines_are_copied_from_a_log_that_is_removed_emptied_and_comes_back(tmp_path: Path) -> None:
    log, lines = tmp_path / "server.log", list[str]()
    followed = logs.Followed("server", log, 0)
    assert followed.new_lines() == []
    log.write_bytes(b"one\nhal")
    lines += followed.new_lines()
    log.write_bytes(b"two\n")
    lines += followed.new_lines()
    log.unlink()
    assert followed.new_lines() == []
    log.write_bytes(b"2\n")
    lines += followed.new_lines()
    assert lines == ["one", "two", "2"]


def test_lines_are_copied_whole_from_where_the_run_began(tmp_path: Path) -> None:
    log = tmp_path / "server.log"
    log.write_bytes(b"old\n")
    lines: list[str] = []
    with LogStream(lines.append) as stream:
        stream.follow("server", log, 4)
        with log.open("ab") as file:
            file.write(b"new\xff line\nhalf")
    assert lines == ["server | new\N{REPLACEMENT CHARACTER} line"]
