"""docs/paper-map.md: every equation has a function that names it, and tests that exist."""

from __future__ import annotations

import ast
import functools
import importlib
import inspect
import json
import re
from collections.abc import Callable

import pytest

from segp_cl import contributions, merging
from segp_cl.config import LearnerConfig
from tests.docs.markdown import DOCS, ROOT, read, rows, section

PAGE = DOCS / "paper-map.md"
EQUATIONS = [5, 6, *range(9, 35)]
TABLE = {
    int(cells[0].strip("()")): cells
    for cells in rows(section(PAGE, "# From the paper to the code"))
    if cells[0][0] == "("
}


def names(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def function(path: str) -> Callable[..., object]:
    module, _, name = path.rpartition(".")
    found: Callable[..., object] = getattr(importlib.import_module(module), name)
    return found


def equations_in(text: str) -> set[int]:
    """`(eq. 18)`, `(eqs. 5, 6, 30)`, `(eqs. 9-14)`, `(23)`, `(24)-(28)`: every number that is named."""
    found: set[int] = set()
    for first, last in re.findall(r"\((\d+)\)-\((\d+)\)", text):
        found |= set(range(int(first), int(last) + 1))
    found |= {int(number) for number in re.findall(r"\((\d+)\)", text)}
    for listed in re.findall(r"eqs?\. ([\d, -]+)", text):
        for part in listed.split(","):
            first, _, last = part.strip().partition("-")
            if first:
                found |= set(range(int(first), int(last or first) + 1))
    return found


@functools.cache
def names_of_tests_in(path: str) -> set[str]:
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def formulas(heading: str, module: str) -> dict[str, list[str]]:
    """The rows of a section whose functions are of `module`, by formula."""
    return {cells[0]: cells for cells in rows(section(PAGE, heading)) if f"{module}." in cells[2]}


MERGING = formulas("## Aligned merging", "segp_cl.merging")
CONTRIBUTIONS = formulas("## Cross-modal contributions", "segp_cl.contributions")


@pytest.mark.parametrize("cells", [*MERGING.values(), *CONTRIBUTIONS.values()], ids=lambda cells: cells[0])
def test_formulas_of_the_other_papers_have_functions_and_tests_that_run_them(cells: list[str]) -> None:
    called = ""
    for test in names(cells[3]):
        path, _, name = test.partition("::")
        assert name in names_of_tests_in(path), test
        called += (ROOT / path).read_text(encoding="utf-8")
    for path in names(cells[2]):
        assert inspect.getdoc(function(path)), path
        assert f"{path.rpartition('.')[2]}(" in called, path


def test_every_formula_of_merging_has_a_row() -> None:
    functions = inspect.getmembers(merging, inspect.isfunction)
    listed = {path.rpartition(".")[2] for cells in MERGING.values() for path in names(cells[2])}
    assert {name for name, found in functions if found.__module__ == merging.__name__} == listed


def test_open_choices_of_merging_name_settings_that_exist() -> None:
    named = {name for cells in rows(section(PAGE, "## Aligned merging")) for name in names(cells[2])}
    settings = {name for name in named if not name.startswith("segp_cl.")}
    assert settings <= set(LearnerConfig.model_fields)
    assert settings >= {name for name in LearnerConfig.model_fields if name.startswith("merge_")}


def test_every_formula_of_contributions_has_a_row() -> None:
    functions = inspect.getmembers(contributions, inspect.isfunction)
    public = {name for name, found in functions if found.__module__ == contributions.__name__ and name[0] != "_"}
    assert public == {path.rpartition(".")[2] for cells in CONTRIBUTIONS.values() for path in names(cells[2])}


@pytest.mark.parametrize(("dataset", "told"), contributions.MEASURED_CORRELATION.items())
def test_the_correlation_that_a_forecast_tells_is_the_one_that_was_measured(dataset: str, told: float) -> None:
    measured = json.loads(read(DOCS / "results" / dataset / "contributions.json"))["correlation_exemplar_free"]["segp"]
    assert told == round(measured["image_to_text"]["pearson"], 2)


def test_every_equation_has_a_row() -> None:
    assert sorted(TABLE) == EQUATIONS


@pytest.mark.parametrize("equation", EQUATIONS)
def test_its_functions_exist_and_name_it(equation: int) -> None:
    paths = names(TABLE[equation][2])
    assert paths
    for path in paths:
        found = function(path)
        assert path.startswith("segp_cl."), path
        assert equation in equations_in(inspect.getdoc(found) or ""), f"{path} does not name ({equation})"


@pytest.mark.parametrize("equation", EQUATIONS)
def test_its_tests_exist_and_run_its_functions(equation: int) -> None:
    tests = names(TABLE[equation][3])
    assert tests
    called = ""
    for test in tests:
        path, _, name = test.partition("::")
        assert name in names_of_tests_in(path), test
        called += (ROOT / path).read_text(encoding="utf-8")
    for path in names(TABLE[equation][2]):
        assert re.search(rf"\b{path.rpartition('.')[2]}\(", called), f"no test file of ({equation}) calls {path}"


def test_numbers_are_read_from_docstrings_in_all_their_forms() -> None:
    assert equations_in("ACGD (eq. 18): tau^2") == {18}
    assert equations_in("(eqs. 5, 6, 30)") == {5, 6, 30}
    assert equations_in("(eqs. 9-11).") == {9, 10, 11}
    assert equations_in("moved by (24)-(26), see (29)") == {24, 25, 26, 29}
    assert equations_in("32 images (at most)") == set()


def test_open_choices_name_settings_that_exist() -> None:
    known = set(LearnerConfig.model_fields) | {"KEEPSIGHT_PRECISION", "template", "extend"}
    for cells in rows(section(PAGE, "## Open choices")):
        if len(cells) == 4:
            assert set(names(cells[2])) <= known, cells


def test_values_that_switch_off_what_is_ours_are_possible() -> None:
    given = [name for cells in rows(section(PAGE, "## What is ours")) for name in names(cells[2])]
    assert len(given) > 5
    for name, _, value in (setting.partition("=") for setting in given):
        LearnerConfig.model_validate({name: json.loads(value)})


def test_measurements_of_the_prototype_carry_their_caveat() -> None:
    text = " ".join(read(PAGE).split())
    assert "one seed, on two CPU cores, with settings picked while looking at test accuracy" in text
