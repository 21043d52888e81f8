"""Programs in processes of their own."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.common.process import ProcessError, answer_of


def test_the_last_line_of_a_program_is_its_answer(tmp_path: Path) -> None:
    (tmp_path / "said.py").write_text(
        "import os, sys\nprint('loading')\nprint(os.environ['WHAT'] + sys.argv[1] + ']')\n"
    )
    found = answer_of("said", "1", environment={"PYTHONPATH": str(tmp_path), "WHAT": "["})
    assert found == [1]


def test_a_program_that_fails_is_told_with_the_end_of_its_stderr() -> None:
    with pytest.raises(ProcessError, match=r"benchmarks\.nothing failed: .*No module named benchmarks\.nothing"):
        answer_of("benchmarks.nothing", "{}", environment={})
