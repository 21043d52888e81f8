"""What editors and commits are told about this repository agrees with what is checked."""

from __future__ import annotations

import configparser
import os
import tomllib
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]


def test_editors_are_told_what_ruff_checks() -> None:
    config = configparser.ConfigParser()
    config.read_string("[top]\n" + (ROOT / ".editorconfig").read_text())
    ruff = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["ruff"]
    assert config["*"]["max_line_length"] == str(ruff["line-length"])
    assert (config["*"]["indent_style"], config["*"]["indent_size"]) == ("space", "4")
    assert (config["*"]["end_of_line"], config["*"]["insert_final_newline"]) == ("lf", "true")


def test_a_commit_is_checked_with_what_ci_checks_it_with() -> None:
    repositories = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert [repository["repo"] for repository in repositories] == ["local"]
    (hook,) = repositories[0]["hooks"]
    assert (hook["entry"], hook["pass_filenames"], hook["always_run"]) == ("scripts/check", False, True)
    assert os.access(ROOT / hook["entry"], os.X_OK)
