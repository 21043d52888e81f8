from __future__ import annotations

import unicodedata

import pytest

from app.errors import TaskRefusedError
from app.intake.names import check_against_known, clean_name, clean_names
from segp_cl.errors import ClassExistsError

COMPOSED, DECOMPOSED = unicodedata.normalize("NFC", "café"), unicodedata.normalize("NFD", "café")


def test_names_become_composed_and_lose_surrounding_space() -> None:
    assert clean_name(f"  {DECOMPOSED} ") == COMPOSED


@pytest.mark.parametrize("name", ["a" * 201, "a" * 10_000])
def test_a_very_long_name_is_refused_without_being_repeated_in_full(name: str) -> None:
    with pytest.raises(TaskRefusedError, match=f"{len(name)} characters; expected at most 200") as caught:
        clean_name(name)
    assert len(str(caught.value)) < 200


def test_the_longest_name_is_allowed() -> None:
    assert clean_name("a" * 200) == "a" * 200


@pytest.mark.parametrize("name", ["", "   ", "cat\n", "a\x00b", "a\x1bb", "cat\u202egpj", "a\udcffb", "x\u2028y"])
def test_names_that_cannot_be_seen_are_refused(name: str) -> None:
    if name == "cat\n":  # a newline at the end is surrounding space
        assert clean_name(name) == "cat"
        return
    with pytest.raises(TaskRefusedError):
        clean_name(name)


@pytest.mark.parametrize(
    ("first", "second"),
    [("Cat", "cat"), (COMPOSED, DECOMPOSED), ("cat", "cat "), ("Straße", "STRASSE"), ("ﬁsh", "fish")],
)
def test_names_that_differ_only_by_case_or_form_are_refused_naming_both(first: str, second: str) -> None:
    with pytest.raises(TaskRefusedError) as caught:
        clean_names([first, second])
    assert ascii(first) in str(caught.value)
    assert ascii(second) in str(caught.value)


def test_clean_names_maps_what_the_upload_says() -> None:
    assert clean_names(["b ", DECOMPOSED]) == {"b ": "b", DECOMPOSED: COMPOSED}


def test_a_known_class_needs_extend() -> None:
    with pytest.raises(ClassExistsError, match="'cat' is already known"):
        check_against_known(["dog", "cat"], ["cat"], extend=False)
    check_against_known(["dog", "cat"], ["cat"], extend=True)
    check_against_known(["dog"], ["cat"], extend=False)


@pytest.mark.parametrize("extend", [True, False])
def test_a_known_class_in_another_spelling_is_refused_either_way(extend: bool) -> None:
    with pytest.raises(ClassExistsError, match="only by case"):
        check_against_known(["Cat"], ["cat"], extend=extend)
