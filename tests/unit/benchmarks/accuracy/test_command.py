"""`keepsight bench` is a door to another program: what is typed behind it arrives there as it is."""

from __future__ import annotations

import importlib.util
import os
import re
import sys
from importlib.metadata import requires

import pytest
from typer.testing import CliRunner

from keepsight.cli.commands.bench import EXTRA
from keepsight.cli.errors import CommandError, sentence_of
from keepsight.cli.main import app


class ReplacedError(Exception):
    """This process would now be another program."""


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, list[str]]]:
    programs: list[tuple[str, list[str]]] = []

    def execve(path: str, arguments: list[str], environment: dict[str, str]) -> None:
        programs.append((path, arguments))
        raise ReplacedError

    monkeypatch.setattr(os, "execve", execve)
    return programs


@pytest.mark.parametrize(
    "typed",
    [
        ["run", "cifar100", "--data", "some where", "--row", "segp", "--set", "epochs=3", "--compile"],
        ["sweep", "folder:x", "epochs", "1", "2"],
        ["--help"],
        ["run", "--help"],
        ["-h"],
        [],
    ],
)
def test_everything_that_is_typed_is_handed_on(started: list[tuple[str, list[str]]], typed: list[str]) -> None:
    result = CliRunner().invoke(app, ["bench", *typed])

    assert isinstance(result.exception, ReplacedError), result.output
    assert started == [(sys.executable, [sys.executable, "-P", "-m", "benchmarks.accuracy", *typed])]


def test_without_its_extra_it_says_in_one_sentence_what_to_install(
    started: list[tuple[str, list[str]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "matplotlib" else find_spec(name, *rest)
    )

    result = CliRunner().invoke(app, ["bench", "--help"])

    assert started == []
    assert isinstance(result.exception, CommandError)
    sentence = "the benchmarks need matplotlib; install the extra: pip install 'keepsight[bench]'"
    assert sentence_of(result.exception) == sentence


def test_the_extra_is_what_the_command_looks_for() -> None:
    extra = [one for one in requires("keepsight") or [] if one.endswith('extra == "bench"')]
    assert [re.split(r"[^\w.-]", requirement)[0] for requirement in extra] == list(EXTRA)


def test_the_help_lists_it() -> None:
    result = CliRunner().invoke(app, ["--help"])

    assert result.exit_code == 0
    assert "bench" in result.stdout
