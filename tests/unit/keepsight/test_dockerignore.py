"""The reading of `.dockerignore` that test_containers relies on, against what Docker's reference says."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.keepsight.dockerignore import IgnoreFile


@pytest.mark.parametrize(
    ("pattern", "ignored", "sent"),
    [
        ("docs", ["docs", "docs/a.md", "docs/img/b.svg"], ["docs2", "app/docs", "docs.md"]),
        ("/docs/", ["docs/a.md"], ["app/docs/a.md"]),
        ("./docs/../var", ["var/store"], ["docs"]),
        ("*/temp*", ["a/temp", "a/temporary.txt", "a/temp/b"], ["temp", "a/b/temp"]),
        ("*/*/temp*", ["a/b/temporary.txt"], ["a/temp"]),
        ("temp?", ["tempa", "temp1/x"], ["temp", "tempab"]),
        ("**/*.go", ["a.go", "a/b.go", "a/b/c.go"], ["a.goo", "a/b.gox"]),
        ("**/__pycache__", ["__pycache__/a.pyc", "a/b/__pycache__/c.pyc"], ["a/__pycache__2"]),
        ("a/**", ["a/b", "a/b/c"], ["b/a"]),
        ("a/**/c", ["a/c", "a/b/c", "a/b/d/c/e"], ["a/cc"]),
        (".*_cache", [".mypy_cache/x"], ["mypy_cache", "a/.mypy_cache"]),
        ("[ab].txt", ["a.txt", "b.txt"], ["c.txt", "ab.txt"]),
        ("a.b", ["a.b"], ["axb"]),
        (r"\*.txt", ["*.txt"], ["a.txt"]),
        ("# a comment", [], ["# a comment", "a"]),
        ("   ", [], ["a"]),
    ],
)
def test_a_pattern_matches_what_it_names_and_what_lies_in_it(pattern: str, ignored: list[str], sent: list[str]) -> None:
    ignore = IgnoreFile(pattern)
    assert [path for path in ignored if not ignore.ignores(path)] == []
    assert [path for path in sent if ignore.ignores(path)] == []


def test_the_last_pattern_that_matches_decides() -> None:
    assert not IgnoreFile("*.md\n!README.md").ignores("README.md")
    assert IgnoreFile("!README.md\n*.md").ignores("README.md")
    assert IgnoreFile("*.md\n!README*.md\nREADME-secret.md").ignores("README-secret.md")


def test_what_is_let_in_again_is_found_below_folders_that_are_left_out(tmp_path: Path) -> None:
    for name in ("a/b/c.py", "a/b/c.pyc", "a/d.py", "e/f.py", "g.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    ignore = IgnoreFile("*\n! a/b\n!g.py\n**/*.pyc")
    assert sorted(ignore.context(tmp_path)) == ["a/b/c.py", "g.py"]
    assert sorted(IgnoreFile("*\n!**/*.py").context(tmp_path)) == ["a/b/c.py", "a/d.py", "e/f.py", "g.py"]
