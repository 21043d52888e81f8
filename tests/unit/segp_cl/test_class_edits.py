"""What an edit of the classes may ask for, and what it says of itself."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from segp_cl.class_edits import ClassEdit
from segp_cl.errors import ClassExistsError, ClassNotFoundError

KNOWN = ("cat", "dog", "cow")


@pytest.mark.parametrize(
    "fields",
    [
        {"kind": "rename", "classes": ("cat",)},
        {"kind": "rename", "classes": ("cat", "dog"), "name": "pet"},
        {"kind": "swap", "classes": ("cat",)},
        {"kind": "swap", "classes": ("cat", "cat")},
        {"kind": "swap", "classes": ("cat", "dog"), "name": "x"},
        {"kind": "merge", "classes": ("cat",), "name": "pet", "prompt": "a pet"},
        {"kind": "merge", "classes": ("cat", "dog"), "name": "pet"},
        {"kind": "delete", "classes": ("cat", "dog")},
        {"kind": "delete", "classes": ("cat",), "prompt": "a cat"},
        {"kind": "replace", "classes": ()},
        {"kind": "forget", "classes": ("cat",)},
    ],
)
def test_an_edit_that_makes_no_sense_is_refused(fields: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        ClassEdit.model_validate(fields)


@pytest.mark.parametrize(
    ("edit", "words", "names"),
    [
        (ClassEdit(kind="rename", classes=("cat",), name="puss"), "rename 'cat' to 'puss'", {"cat": "puss"}),
        (ClassEdit(kind="rename", classes=("cat",), prompt="a cat"), "prompt of 'cat': 'a cat'", {"cat": "cat"}),
        (
            ClassEdit(kind="swap", classes=("cat", "dog")),
            "swap the names 'cat' and 'dog'",
            {"cat": "dog", "dog": "cat"},
        ),
        (
            ClassEdit(kind="merge", classes=("cat", "dog"), name="pet", prompt="a pet"),
            "merge 'cat', 'dog' into 'pet'",
            {"cat": "pet", "dog": "pet"},
        ),
        (ClassEdit(kind="delete", classes=("cat",)), "delete 'cat'", {"cat": None}),
        (ClassEdit(kind="replace", classes=("cat",)), "replace 'cat'", {"cat": None}),
    ],
)
def test_it_says_what_becomes_of_each_class(edit: ClassEdit, words: str, names: dict[str, str | None]) -> None:
    edit.check(KNOWN)
    assert (edit.words, edit.new_names) == (words, names)


def test_a_class_that_is_not_known_cannot_be_edited() -> None:
    with pytest.raises(ClassNotFoundError, match="'emu' is not known"):
        ClassEdit(kind="delete", classes=("emu",)).check(KNOWN)


def test_a_name_that_another_class_has_is_refused() -> None:
    with pytest.raises(ClassExistsError, match="merge the two, or swap their names"):
        ClassEdit(kind="rename", classes=("cat",), name="dog").check(KNOWN)
    ClassEdit(kind="merge", classes=("cat", "dog"), name="dog", prompt="a dog").check(KNOWN)
