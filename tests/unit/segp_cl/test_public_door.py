"""The public names of `segp_cl`, and that importing the package loads nothing heavy."""

from __future__ import annotations

import subprocess
import sys
from importlib.resources import files

import pytest

import segp_cl
from segp_cl.config import LearnerConfig
from segp_cl.learn.learner import learn_task

OFFERED = {
    "Backbone", "Classifier", "FolderImages", "ImageSource", "KeepsightError", "Learned", "LearnerConfig",
    "LearnerState", "ModelSpec", "Preprocessing", "Scores", "Task", "TaskClass", "TensorImages", "as_prompt",
    "initial_state", "learn_task", "load_backbone", "to_pixels",
}  # fmt: skip
HEAVY = ("torch", "numpy", "PIL", "open_clip")


def loaded_after(statement: str) -> set[str]:
    """Which of the heavy packages a new interpreter has loaded after `statement`."""
    code = f"import sys\n{statement}\nprint(*(name for name in {HEAVY} if name in sys.modules))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(ran.stdout.split())


def test_it_exports_exactly_these_names() -> None:
    assert set(segp_cl.__all__) == OFFERED


@pytest.mark.parametrize("name", sorted(OFFERED))
def test_each_name_is_exported_under_its_own_name(name: str) -> None:
    found = getattr(segp_cl, name)
    assert found.__name__ == name
    assert found.__module__.startswith("segp_cl.")


def test_a_name_is_the_very_object_of_its_module() -> None:
    assert segp_cl.learn_task is learn_task
    assert segp_cl.LearnerConfig is LearnerConfig


def test_another_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'segp_cl' has no attribute 'learn_tusk'"):
        _ = segp_cl.learn_tusk  # type: ignore[attr-defined]


@pytest.mark.parametrize("module", ["segp_cl", "segp_cl.errors", "segp_cl.config"])
def test_packages_that_need_no_torch_do_not_load_it(module: str) -> None:
    assert loaded_after(f"import {module}") == set()


def test_using_a_name_loads_what_it_needs() -> None:
    assert "torch" in loaded_after("from segp_cl import Task")


def test_the_package_is_marked_as_typed() -> None:
    assert files("segp_cl").joinpath("py.typed").is_file()
