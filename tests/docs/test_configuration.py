"""docs/configuration.md names every setting of every part, with the default that the code has."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Collection
from fractions import Fraction
from typing import Any

import pytest
import typer.main
from pydantic import BaseModel

from app.settings import Settings
from exchange.settings import SharedSettings
from keepsight.cli.main import app as cli
from keepsight.local.up import UpSettings
from model_store.gate import GatePolicy
from segp_cl.config import LearnerConfig
from tests.docs.markdown import DOCS, code, read, rows, section
from worker.gate import CHECKS
from worker.settings import WorkerSettings

PAGE = DOCS / "configuration.md"
PREFIX = "KEEPSIGHT_"
BY_CORES = "2, or the number of cores if that is less"


def table(heading: str) -> dict[str, list[str]]:
    """First cell, without backticks, to the other cells."""
    return {code(cells[0]): cells[1:] for cells in rows(section(PAGE, heading))}


def agrees(cell: str, default: Any) -> bool:
    """Whether a table's cell says what a field's default is."""
    said = code(cell)
    if default in (None, "", ()):
        return said.startswith("unset")
    if isinstance(default, bool):
        return said == str(default).lower()
    if isinstance(default, int | float):
        if said == BY_CORES:
            return bool(default == min(2, os.cpu_count() or 1))
        return float(Fraction(said)) == pytest.approx(default)
    return said == str(default)


def defaults(model: type[BaseModel]) -> dict[str, Any]:
    return {name: field.get_default(call_default_factory=True) for name, field in model.model_fields.items()}


@pytest.mark.parametrize(
    ("heading", "model", "elsewhere"),
    [
        ("## Server and worker", SharedSettings, ()),
        ("## Server", Settings, SharedSettings.model_fields),
        ("## Worker", WorkerSettings, SharedSettings.model_fields),
    ],
)
def test_every_setting_is_there_with_its_default(
    heading: str, model: type[BaseModel], elsewhere: Collection[str]
) -> None:
    documented = table(heading)
    own = {name: default for name, default in defaults(model).items() if name not in elsewhere}
    expected = {PREFIX + name.upper(): default for name, default in own.items()}
    assert documented.keys() == expected.keys()
    wrong = {
        name: documented[name][0] for name, default in expected.items() if not agrees(documented[name][0], default)
    }
    assert wrong == {}
    assert all(cells[1] for cells in documented.values())


def test_every_hyper_parameter_is_there_with_its_default() -> None:
    documented = table("## Hyper-parameters of an update")
    expected = defaults(LearnerConfig)
    assert documented.keys() == expected.keys()
    wrong = {
        name: documented[name][0] for name, default in expected.items() if not agrees(documented[name][0], default)
    }
    assert wrong == {}


def test_every_field_of_the_gates_policy_is_there_with_its_default_and_what_it_is() -> None:
    documented = table("## The gate")
    assert documented.keys() == GatePolicy.model_fields.keys()
    wrong = {
        name: documented[name]
        for name, field in GatePolicy.model_fields.items()
        if not agrees(documented[name][0], field.default) or documented[name][2] != field.description
    }
    assert wrong == {}


def test_every_check_of_the_gate_is_named() -> None:
    assert [code(cells[0]) for cells in rows(section(DOCS / "operations.md", "## The gate"))] == list(CHECKS)


def test_what_follows_from_the_scale_is_what_the_code_leaves_open() -> None:
    documented = table("## Hyper-parameters of an update")
    follow = {name for name, cells in documented.items() if "unset: from the" in cells[0]}
    resolved = LearnerConfig().resolve(20.0)
    opened = {name for name, default in defaults(LearnerConfig).items() if default is None}
    assert follow == {name for name in opened if getattr(resolved, name) is not None}


@pytest.mark.parametrize(
    ("name", "compact", "clip"),
    [("learning_rate", "0.0005", "0.0001")],
)
def test_the_rule_s_values_at_both_scales_are_right(name: str, compact: str, clip: str) -> None:
    text = table("## Hyper-parameters of an update")[name][2]
    assert f"{compact} for `compact`, {clip} for CLIP" in text
    assert getattr(LearnerConfig().resolve(20.0), name) == pytest.approx(float(compact))
    assert getattr(LearnerConfig().resolve(100.0), name) == pytest.approx(float(clip))


def test_every_option_of_up_is_there() -> None:
    documented = {option for cell in table("## `keepsight up`") for option in cell.replace("`", "").split(", ")}
    command = typer.main.get_command(cli).commands["up"]  # type: ignore[attr-defined]
    options = {
        option
        for parameter in command.params
        for option in (*parameter.opts, *parameter.secondary_opts)
        if option.startswith("--") and option != "--help"
    }
    assert {option for option in documented if option.startswith("--")} == options


def test_every_field_of_ups_settings_is_an_option() -> None:
    documented = {option for cell in table("## `keepsight up`") for option in cell.replace("`", "").split(", ")}
    # `environment` carries the values of options that are handed on: model, pretrained, device, threads
    fields = {field.name for field in dataclasses.fields(UpSettings)} - {"environment"}
    assert {"--" + name.removesuffix("_s").replace("_", "-") for name in fields} <= documented


def test_every_variable_of_the_command_line_is_there() -> None:
    text = read(PAGE)
    root = typer.main.get_command(cli)
    pending = [root]
    variables: set[str] = {"KEEPSIGHT_DEBUG", "KEEPSIGHT_PYTHON"}
    while pending:
        command = pending.pop()
        pending += getattr(command, "commands", {}).values()
        for parameter in command.params:
            if isinstance(parameter.envvar, str):
                variables.add(parameter.envvar)
    assert {name for name in variables if f"`{name}`" not in text} == set()
    assert len(variables) > 5
