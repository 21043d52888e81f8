"""`keepsight bench` is a door to another program: what is typed behind it arrives there as it is."""

from __future__ import annotations

import os
import sys

import pytest
from typer.testing import CliRunner

from keepsight.cli.main import app


class ReplacedError(Exception):
    """This process would now be another program."""


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, list[str]]]:
    programs: list[tuple[str, list[str]]] = []

    def execv(path: str, arguments: list[str]) -> None:
        programs.append((path, arguments))
        raise ReplacedError

    monkeypatch.setattr(os, "execv", execv)
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
    assert started == [(sys.executable, [sys.executable, "-m", "benchmarks.accuracy", *typed])]


def test_the_help_lists_it() -> None:
    result = CliRunner().invoke(app, ["--help"])

    assert result.exit_code == 0
    assert "bench" in result.stdout
