"""Every command in the documentation can be typed: the command exists, and so do its options."""

from __future__ import annotations

import itertools
import json
import os
import re
from pathlib import Path

import pytest
import typer
import typer.main
from typer.exceptions import TyperException

import benchmarks.accuracy.cli
import benchmarks.answers.__main__
import benchmarks.cost.__main__
import benchmarks.decoding.__main__
import benchmarks.faults.__main__
import benchmarks.gpu.__main__
import benchmarks.operator.__main__
import benchmarks.passes.__main__
import benchmarks.serving.__main__
from keepsight.cli.main import app
from segp_cl.config import LearnerConfig
from tests.docs.markdown import PAGES, ROOT, blocks, command_lines, prose, read, section

COMMANDS = [(page, words) for page in PAGES for words in command_lines(page)]
KEEPSIGHT = [(page, words[1:]) for page, words in COMMANDS if words[0] == "keepsight"]
PYTHON = [(page, words) for page, words in COMMANDS if words[0] in ("python", "torchrun")]
MODULES = [(page, words[words.index("-m") + 1 :]) for page, words in PYTHON if "-m" in words]
PROGRAM_FILES = [words[1] for _, words in PYTHON if "-m" not in words]
MODULES += [(page, ["benchmarks.accuracy", *words[1:]]) for page, words in KEEPSIGHT if words[0] == "bench"]
PROGRAMS = {
    "benchmarks.accuracy": benchmarks.accuracy.cli.app,
    "benchmarks.answers": benchmarks.answers.__main__.app,
    "benchmarks.cost": benchmarks.cost.__main__.app,
    "benchmarks.decoding": benchmarks.decoding.__main__.app,
    "benchmarks.faults": benchmarks.faults.__main__.app,
    "benchmarks.gpu": benchmarks.gpu.__main__.app,
    "benchmarks.operator": benchmarks.operator.__main__.app,
    "benchmarks.passes": benchmarks.passes.__main__.app,
    "benchmarks.serving": benchmarks.serving.__main__.app,
}
SCRIPTS = [(page, words) for page, words in COMMANDS if words[0].startswith("scripts/")]
KNOWN_PROGRAMS = {"keepsight", "curl", "docker", "python", "torchrun"} | {
    f"scripts/{name}" for name in ("demo", "test", "check", "gpu", "pin-images")
}


def parse(words: list[str], program: typer.Typer = app) -> None:
    """Parse a command line as the program would, without running it; raises what the program would refuse."""
    command = typer.main.get_command(program)
    while words and words[0] in getattr(command, "commands", {}):
        command = command.commands[words[0]]  # type: ignore[attr-defined]
        words = words[1:]
    assert not words or words[0].startswith("-") or not hasattr(command, "commands"), words
    command.make_context(command.name or "keepsight", list(words))


@pytest.mark.parametrize(("page", "words"), KEEPSIGHT, ids=[f"{p.name}-{n}" for n, (p, _) in enumerate(KEEPSIGHT)])
def test_commands_parse(page: Path, words: list[str]) -> None:
    parse(words)


@pytest.mark.parametrize(("page", "words"), MODULES, ids=[f"{words[0]}-{n}" for n, (_, words) in enumerate(MODULES)])
def test_benchmarks_parse(page: Path, words: list[str]) -> None:
    parse(words[1:], PROGRAMS[words[0]])


def test_python_programs_exist() -> None:
    assert PROGRAM_FILES
    assert [file for file in PROGRAM_FILES if not (ROOT / file).is_file()] == []


def test_a_command_that_does_not_exist_would_be_noticed() -> None:
    for words in (["teach", "photos/", "--classes", "3"], ["upp"], ["keys", "make"], ["teach"]):
        with pytest.raises((TyperException, AssertionError)):
            parse(words)


def settings_that_are_set() -> list[tuple[str, str, str]]:
    """(page, name, value) of every `--set name=value`, in shell blocks and in running text."""
    found: list[tuple[str, str, str]] = []
    for page in PAGES:
        given = [
            word for words in command_lines(page) for option, word in itertools.pairwise(words) if option == "--set"
        ]
        given += re.findall(r"--set (\w+=[^\s`]+)", prose(page))
        for name, _, value in (each.partition("=") for each in given):
            if (name, value) not in (("name", "value"), ("KEY", "VALUE")):
                found.append((page.name, name, value))
    return found


def settings_that_are_swept() -> list[tuple[str, str, str]]:
    """The same of every value in a `bench sweep`."""
    found = []
    for page, words in KEEPSIGHT:
        if words[:2] == ["bench", "sweep"]:
            values = itertools.takewhile(lambda word: not word.startswith("--"), words[4:])
            found += [(page.name, words[3], value) for value in values]
    return found


@pytest.mark.parametrize(("page", "name", "value"), [*settings_that_are_set(), *settings_that_are_swept()])
def test_hyper_parameters_that_are_set_or_swept_exist_and_can_have_the_value(page: str, name: str, value: str) -> None:
    parsed = json.loads(value) if re.match(r"null|true|false|[\d.-]", value) else value
    LearnerConfig.model_validate({name: parsed})


def test_some_hyper_parameters_are_set_and_some_are_swept() -> None:
    assert len(settings_that_are_set()) > 2
    assert len(settings_that_are_swept()) > 2


def test_every_program_is_one_that_a_reader_has() -> None:
    programs = {words[0] for _, words in COMMANDS}
    assert programs == KNOWN_PROGRAMS


@pytest.mark.parametrize(("page", "words"), SCRIPTS, ids=[" ".join(words) for _, words in SCRIPTS])
def test_scripts_can_be_run(page: Path, words: list[str]) -> None:
    assert os.access(ROOT / words[0], os.X_OK)


def test_the_options_of_the_demo_that_are_named_exist() -> None:
    named = re.findall(r"`(--[^`]+)`", section(ROOT / "README.md", "## Try it"))
    assert named
    for option in named:
        parse(["demo", *option.split()])


def test_compose_files_that_are_named_exist() -> None:
    files = [word for _, words in COMMANDS if words[0] == "docker" for word in words if word.endswith(".yml")]
    assert files
    assert [name for name in files if not (ROOT / name).is_file()] == []


def test_the_readme_shows_the_two_commands_and_six_lines_of_the_command_line() -> None:
    lines = [words for page, words in COMMANDS if page.name == "README.md"]
    assert ["scripts/demo"] in lines
    assert ["scripts/test"] in lines
    block = next(b for b in blocks(ROOT / "README.md") if b.text.startswith("keepsight up"))
    assert len(block.text.splitlines()) == 6
    assert {line.split()[1] for line in block.text.splitlines()} >= {"up", "teach", "classify", "versions", "rollback"}


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
def test_no_figure_is_left_open(page: Path) -> None:
    assert re.findall(r"MEASURE_ME\([^)]*\)", read(page)) == []
