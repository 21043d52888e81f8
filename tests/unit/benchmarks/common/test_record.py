"""Files of a record are written whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.common.record import load_json, save_files, save_json


def test_a_record_that_cannot_be_written_leaves_the_older_one(tmp_path: Path) -> None:
    path = tmp_path / "deeper" / "summary.json"
    save_json(path, {"a": 1})
    with pytest.raises(ValueError, match="JSON"):
        save_json(path, {"a": float("nan")})
    assert load_json(path) == {"a": 1}
    assert [file.name for file in path.parent.iterdir()] == ["summary.json"]


def test_there_is_an_empty_record_where_nothing_was_written(tmp_path: Path) -> None:
    assert load_json(tmp_path / "summary.json") == {}


def test_a_file_that_is_no_longer_part_of_a_report_is_removed(tmp_path: Path) -> None:
    save_files(tmp_path, {"old.png": b"plot", "README.md": b"page"})
    save_files(tmp_path, {"old.png": None, "never.png": None, "README.md": b"other"})
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == {"README.md": b"other"}
