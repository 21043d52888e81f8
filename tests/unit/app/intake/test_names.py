from __future__ import annotations

import contextlib
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


PERSIAN = "می\u200cخواهم"
"""A word that its zero-width non-joiner shapes."""
FAMILY, RAINBOW_FLAG = "👨\u200d👩\u200d👧", "🏳\ufe0f\u200d🌈"
ENGLAND = "🏴\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f"
SCOTLAND = "🏴\U000e0067\U000e0062\U000e0073\U000e0063\U000e0074\U000e007f"
SINHALA = "ක\u0dca\u200dෂ"
BENGALI = "র\u200d\u09cdয"


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("Cat", "cat"),
        ("Straße", "STRASSE"),
        ("ﬁsh", "fish"),
        ("ｃａｔ", "cat"),
        ("cat.", "cat"),
        ("cat...", "cat"),
        ("hot_dog", "hot dog"),
        ("сat", "cat"),
        ("ΚΑΤ", "KAT"),
        ("Кот", "кот"),
        ("ΑΛΦΑ", "αλφα"),
        ("❤", "❤\ufe0f"),
        ("cat²", "cat2"),
    ],
)
def test_names_that_differ_too_little_are_refused_naming_both(first: str, second: str) -> None:
    with pytest.raises(TaskRefusedError, match="are they one class") as caught:
        clean_names([first, second])
    assert ascii(first) in str(caught.value)
    assert ascii(second) in str(caught.value)


@pytest.mark.parametrize(
    "same",
    [
        DECOMPOSED, "café ", " café", "ca\u200bfé", "\ufeffcafé", "café\u00ad", "café\u2060", "ca\u200dfé",
        "café\u200e", "café\U000e0fff",
        "café\u200f", "\u061ccafé", "café\ufe0f", "café\U000e0101", "café\U000e0067", "ca\u034ffé", "café\u3164",
        "café\u2800", "café\u00a0", "café\u180e", "ca\u2064fé",
    ],
)  # fmt: skip
def test_names_that_look_the_same_are_one_class(same: str) -> None:
    assert clean_names([COMPOSED, same]) == {COMPOSED: COMPOSED, same: COMPOSED}


@pytest.mark.parametrize("gap", ["  ", "\u00a0", "\u2003", "\u3000", " \u200b ", "\u202f", "\u2800"])
def test_every_gap_is_one_space(gap: str) -> None:
    assert clean_name(f"hot{gap}dog") == "hot dog"


@pytest.mark.parametrize(
    "name", [PERSIAN, FAMILY, RAINBOW_FLAG, ENGLAND, SINHALA, BENGALI, "1\ufe0f\u20e3", "葛\U000e0100"]
)
def test_joiners_selectors_and_tags_stay_where_they_are_seen(name: str) -> None:
    assert clean_name(name) == unicodedata.normalize("NFC", name)


def test_a_repeated_joiner_is_one() -> None:
    assert clean_name(PERSIAN.replace("\u200c", "\u200c\u200c\u200b")) == PERSIAN


def test_names_that_look_different_are_different_classes() -> None:
    names = [
        ENGLAND,
        SCOTLAND,
        "🏴",
        FAMILY,
        "👨👩👧",
        PERSIAN,
        PERSIAN.replace("\u200c", ""),
        "c at",
        "cat",
        "cot",
        "猫",
        "Ёж",
        "Еж",
    ]
    assert list(clean_names(names).values()) == [unicodedata.normalize("NFC", name) for name in names]


@pytest.mark.parametrize("name", ["\u200b", "\u2060\ufeff", "\u3164", "\u00ad "])
def test_a_name_of_nothing_visible_is_refused(name: str) -> None:
    with pytest.raises(TaskRefusedError, match=r"invisible|empty"):
        clean_name(name)


@pytest.mark.parametrize("char", ["\ufffd", "\ue000", "\uffff", "\u2066", "\U000f0000", "\x85a"])
def test_characters_that_cannot_be_shown_are_refused(char: str) -> None:
    with pytest.raises(TaskRefusedError, match="cannot be shown"):
        clean_name(f"cat{char}x")


def test_no_character_is_both_kept_and_invisible_at_the_end_of_a_name() -> None:
    """Format characters are the invisible ones; those that stay are the ones that are drawn."""
    kept = []
    for code in range(0x110000):
        if unicodedata.category(chr(code)) == "Cf":
            with contextlib.suppress(TaskRefusedError):
                if clean_name(f"cat{chr(code)}") != "cat":
                    kept.append(code)
    assert all(unicodedata.name(chr(c)).startswith(("ARABIC", "SYRIAC", "KAITHI", "EGYPTIAN")) for c in kept)


def test_clean_names_maps_what_the_upload_says() -> None:
    assert clean_names(["b ", DECOMPOSED]) == {"b ": "b", DECOMPOSED: COMPOSED}


def test_a_known_class_needs_extend() -> None:
    with pytest.raises(ClassExistsError, match="'cat' is already known"):
        check_against_known(["dog", "cat"], ["cat"], extend=False)
    check_against_known(["dog", "cat"], ["cat"], extend=True)
    check_against_known(["dog"], ["cat"], extend=False)


@pytest.mark.parametrize("extend", [True, False])
def test_a_known_class_in_another_spelling_is_refused_either_way(extend: bool) -> None:
    with pytest.raises(ClassExistsError, match=r"differs from the known class .* only by case"):
        check_against_known(["Cat"], ["cat"], extend=extend)


@pytest.mark.parametrize("spelled", ["hot_dog", "ｈot dog", "hot dоg", "Hot Dog."])
def test_a_known_class_that_looks_the_same_is_refused_even_to_extend(spelled: str) -> None:
    with pytest.raises(ClassExistsError, match="differs from the known class 'hot dog'"):
        check_against_known([clean_name(spelled)], ["hot dog"], extend=True)
