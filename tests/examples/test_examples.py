"""Every program in examples/ does what its docstring says."""

from __future__ import annotations

import ast
import io
import os
import re
import runpy
import subprocess
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path

import pytest

from app.settings import Settings
from model_store.types import VersionId
from segp_cl.types import ModelSpec
from tests.docs.markdown import ROOT, rows

EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
README = ROOT / "examples" / "README.md"
VERSION = r"\d{6}-[0-9a-f]{12}"


def run(name: str) -> list[str]:
    """Run an example in this process, where shapes are checked; the lines that it printed."""
    printed = io.StringIO()
    with redirect_stdout(printed):
        runpy.run_path(str(ROOT / "examples" / name), run_name="__main__")
    return printed.getvalue().splitlines()


def accuracies(lines: list[str], what: str) -> list[tuple[int, int, int]]:
    """Classes, percent and number of images of each line."""
    found = [re.fullmatch(rf"(\d+) classes: (\d+)% of (\d+) held-out {what} are right", line) for line in lines]
    return [(int(match[1]), int(match[2]), int(match[3])) for match in found if match]


def test_the_readme_lists_every_example() -> None:
    listed = [cells[0] for cells in rows(README.read_text(encoding="utf-8"))]
    assert listed == [f"[{example.name}]({example.name})" for example in EXAMPLES]


@pytest.mark.parametrize("example", EXAMPLES, ids=[example.stem for example in EXAMPLES])
def test_each_docstring_says_how_to_run_the_example(example: Path) -> None:
    docstring = ast.get_docstring(ast.parse(example.read_text(encoding="utf-8")))
    assert docstring
    assert re.match(r"[A-Z].*[.:]", docstring.partition("\n")[0])
    assert f"\n    python examples/{example.name}" in docstring


def test_tasks_are_learned_one_after_the_other() -> None:
    first, second = accuracies(run("learn_a_task.py"), "scans")
    assert (first[0], first[2]) == (2, 40)
    assert (second[0], second[2]) == (4, 80)
    assert first[1] >= 90
    assert second[1] >= 60  # of four digits, two of them known from the task before; guessing gets 25


def test_a_backbone_of_ones_own_learns() -> None:
    first, second = accuracies(run("own_backbone.py"), "pictures")
    assert (first[0], first[2]) == (2, 20)
    assert (second[0], second[2]) == (4, 40)
    assert first[1] >= 90
    assert second[1] >= 90


def test_a_service_is_taught_rolled_back_and_stopped(tmp_path: Path, tiny_spec: ModelSpec) -> None:
    # the tiny model in the place of compact: the example only shows how a service is used
    environment = {name: value for name, value in os.environ.items() if not name.startswith("KEEPSIGHT_")}
    environment |= {"KEEPSIGHT_MODEL": tiny_spec.name, "KEEPSIGHT_THREADS": "1", "TMPDIR": str(tmp_path)}
    command = [sys.executable, "-W", "error", str(ROOT / "examples" / "teach_a_service.py")]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=280)
    assert ran.returncode == 0, ran.stderr
    warm, cool, after_both, moved, after_rollback, stopped = ran.stdout.splitlines()
    assert warm == "warm and fresh: succeeded"
    assert cool == "cool and bright: succeeded"
    back = re.fullmatch(rf"rolled back from ({VERSION}) to ({VERSION})", moved)
    assert back
    assert after_both.startswith(f"{back[1]} on a blue picture: ")
    assert after_rollback.startswith(f"{back[2]} on a blue picture: ")
    assert set(re.findall(r"[a-z]+(?= \d)", after_both)) == {"red", "green", "blue", "yellow"}
    assert set(re.findall(r"[a-z]+(?= \d)", after_rollback)) == {"red", "green"}
    assert stopped == "Stopped."
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def watched(tmp_path: Path, picture: Callable[..., bytes]) -> Path:
    """A folder with two images, one of them further down, and a file that is none."""
    folder = tmp_path / "watched"
    (folder / "deeper").mkdir(parents=True)
    (folder / "a.png").write_bytes(picture(1))
    (folder / "deeper" / "b.JPG").write_bytes(picture(2, "JPEG"))
    (folder / "notes.txt").write_text("not an image")
    return folder


@pytest.fixture
def taught(teach: Callable[..., VersionId], store: object) -> VersionId:
    """A version that knows two classes."""
    return teach("cat", "dog")


@pytest.fixture
def url(taught: VersionId, configure: Callable[..., Settings], listen: Callable[[Settings], str]) -> str:
    """A server that serves it."""
    return listen(configure())


def watcher(*arguments: str) -> list[str]:
    return [sys.executable, "-W", "error", "-u", str(ROOT / "examples" / "watch_a_folder.py"), *arguments]


def watch_once(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = watcher(*arguments, "--once")
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


def test_what_is_in_a_watched_folder_is_classified(taught: VersionId, url: str, watched: Path) -> None:
    (watched / "c.png").write_bytes(b"no image")
    ran = watch_once(str(watched), "--url", url)
    assert ran.returncode == 0, ran.stderr
    lines = [line.split("\t") for line in ran.stdout.splitlines()]
    assert [line[0] for line in lines] == [str(watched / "a.png"), str(watched / "deeper" / "b.JPG")]
    assert all(label in ("cat", "dog") and 0.5 <= float(p) <= 1 and v == taught for _, label, p, v in lines)
    assert ran.stderr.startswith(f"{watched / 'c.png'}: ")


def test_images_that_appear_later_are_classified_once(url: str, watched: Path, picture: Callable[..., bytes]) -> None:
    command = watcher(str(watched), "--url", url, "--every", "0.05")
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            there = {process.stdout.readline().partition("\t")[0] for _ in range(2)}
            (watched / "new.png").write_bytes(picture(3))
            appeared = process.stdout.readline().partition("\t")[0]
            (watched / "newer.png").write_bytes(picture(4))
            at_last = process.stdout.readline().partition("\t")[0]
        finally:
            process.terminate()
    assert there == {str(watched / "a.png"), str(watched / "deeper" / "b.JPG")}
    assert (appeared, at_last) == (str(watched / "new.png"), str(watched / "newer.png"))


def test_a_watcher_says_when_no_service_answers(watched: Path) -> None:
    ran = watch_once(str(watched), "--url", "http://127.0.0.1:1")
    assert ran.returncode == 1
    assert ran.stdout == ""
    assert ran.stderr.count("\n") == 1


def test_a_watcher_explains_itself() -> None:
    ran = watch_once("--help")
    assert ran.returncode == 0
    assert "Classify the images in a folder as they appear." in ran.stdout
