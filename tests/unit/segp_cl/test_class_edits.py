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
    ("edit", "words"),
    [
        (ClassEdit(kind="rename", classes=("cat",), name="puss", prompt="a puss"), "rename 'cat' to 'puss'"),
        (ClassEdit(kind="rename", classes=("cat",), prompt="a cat"), "prompt of 'cat': 'a cat'"),
        (ClassEdit(kind="swap", classes=("cat", "dog")), "swap the names 'cat' and 'dog'"),
        (ClassEdit(kind="merge", classes=("cat", "dog"), name="pet", prompt="a"), "merge 'cat', 'dog' into 'pet'"),
        (ClassEdit(kind="delete", classes=("cat",)), "delete 'cat'"),
        (ClassEdit(kind="replace", classes=("cat",)), "replace 'cat'"),
    ],
)
def test_it_says_in_words_what_it_does(edit: ClassEdit, words: str) -> None:
    edit.check(KNOWN)
    assert edit.words == words


def test_the_words_of_a_large_merge_are_few() -> None:
    edit = ClassEdit(kind="merge", classes=tuple(map(str, range(9))), name="all", prompt="all")
    assert edit.words == "merge '0', '1', '2', '3', '4' and more into 'all'"


def test_a_class_that_is_not_known_cannot_be_edited() -> None:
    with pytest.raises(ClassNotFoundError, match="'emu' is not known"):
        ClassEdit(kind="delete", classes=("emu",)).check(KNOWN)


def test_a_name_that_another_class_has_is_refused() -> None:
    with pytest.raises(ClassExistsError, match="merge the two, or swap their names"):
        ClassEdit(kind="rename", classes=("cat",), name="dog").check(KNOWN)
    ClassEdit(kind="merge", classes=("cat", "dog"), name="dog", prompt="a dog").check(KNOWN)
