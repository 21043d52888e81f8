"""What the demo prints at its end."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from keepsight.demo.data import DemoData, DemoTask
from keepsight.demo.measure import Accuracy, Measured
from keepsight.demo.printing import print_checks, print_farewell, print_table
from keepsight.demo.report import Check


@pytest.fixture
def screen() -> io.StringIO:
    return io.StringIO()


def test_every_version_is_a_line_with_every_path_of_every_task(screen: io.StringIO) -> None:
    tasks = tuple(DemoTask(f"t{n}", (f"[a{n}]", f"b{n}"), (), ()) for n in (1, 2))
    data = DemoData("letters", "a {}.", tasks, margin=0.25)
    zero_shot = Accuracy(0.25, None, None, 4, False)
    taught = Accuracy(0.5, 0.75, 1.0, 2, True)
    measured = [
        Measured("000001-0123456789ab", {"t1": zero_shot, "t2": zero_shot}, {}),
        Measured("000002-0123456789ab", {"t1": taught, "t2": zero_shot}, {}),
    ]
    print_table(Console(file=screen, width=80), data, measured)
    text = screen.getvalue()
    first, second = (line for line in text.splitlines() if "00000" in line)
    assert [cell.strip() for cell in first.split("│")[2:-1]] == ["25.0 *", "–", "–", "25.0 *", "–", "–"]
    assert [cell.strip() for cell in second.split("│")[2:-1]] == ["50.0", "75.0", "100.0", "25.0 *", "–", "–"]
    assert "000002-0123456789ab" in text
    assert "after task 1" in text
    assert "task 1: [a1], b1 (0 images taught, 0 held out)" in text
    assert "the text path chooses among all 4 names" in text


def test_many_tasks_are_printed_without_cutting_a_number(screen: io.StringIO) -> None:
    tasks = tuple(DemoTask(f"t{n}", (f"c{n}",), (), ()) for n in range(5))
    perfect = {task.name: Accuracy(1.0, 1.0, 1.0, 5, True) for task in tasks}
    measured = [Measured("000006-0123456789ab", perfect, {})]
    print_table(Console(file=screen, width=80), DemoData("letters", "a {}.", tasks, margin=0.25), measured)
    assert screen.getvalue().count("100.0") == 15
    assert screen.getvalue().count("task 5") == 4  # three columns and the line below


def test_each_check_says_whether_it_held_and_by_what_figures(screen: io.StringIO) -> None:
    checks = [Check("rollback: the same answers", True, "2 of 2"), Check("task 1 kept", False, "1.3 % [of 10]")]
    print_checks(Console(file=screen, width=200), checks, {"learning": 61.0, "whole tour": 65.0})
    lines = screen.getvalue().splitlines()
    assert "held   rollback: the same answers (2 of 2)" in lines
    assert "FAILED task 1 kept (1.3 % [of 10])" in lines
    assert "The tour took 1 min 05 s (learning 1 min 01 s)." in lines


def test_the_farewell_can_be_pasted(screen: io.StringIO, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", [str(tmp_path / "my env" / "bin" / "keepsight"), "demo"])
    print_farewell(
        Console(file=screen, width=80), "http://127.0.0.1:8000", tmp_path / "my images/1.png", tmp_path / "s"
    )
    lines = [line.strip() for line in screen.getvalue().splitlines()]
    assert "curl -F images=@'my images/1.png' -F top_k=3 http://127.0.0.1:8000/v1/classify" in lines
    assert "'my env/bin/keepsight' down --store s" in lines
