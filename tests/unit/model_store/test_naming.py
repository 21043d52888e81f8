"""Names of classes are followed through the edits of lineages, forwards and back."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from model_store.naming import Naming, _Step, translate
from segp_cl.class_edits import ClassEdit

DAY = datetime(2026, 11, 1, tzinfo=UTC)


def rename(old: str, new: str) -> ClassEdit:
    return ClassEdit(kind="rename", classes=(old,), name=new)


def naming(*steps: tuple[str, ClassEdit | None], classes: str) -> Naming:
    made = [_Step(version, DAY + timedelta(hours=hour), edit) for hour, (version, edit) in enumerate(steps)]
    return Naming(frozenset(classes.split()), tuple(made))


TAUGHT = ("2", None)
BEFORE = naming(TAUGHT, classes="cat dog")
AFTER = naming(TAUGHT, ("3", rename("cat", "puss")), classes="puss dog")


def test_a_renamed_class_is_found_by_its_old_name_and_by_its_new_one() -> None:
    assert translate(["cat", "dog"], BEFORE, AFTER) == {"cat": "puss", "dog": "dog"}
    assert translate(["puss", "dog"], AFTER, BEFORE) == {"puss": "cat", "dog": "dog"}
    assert translate(["cat"], BEFORE, BEFORE) == {"cat": "cat"}


def test_a_name_that_no_version_knows_stays() -> None:
    assert translate(["puss", "owl"], BEFORE, AFTER) == {"puss": "puss", "owl": "owl"}


def test_merged_classes_are_one_and_cannot_be_told_apart_again() -> None:
    merge = ClassEdit(kind="merge", classes=("cat", "dog"), name="pet", prompt="a pet.")
    merged = naming(TAUGHT, ("3", merge), classes="pet")
    assert translate(["cat", "dog"], BEFORE, merged) == {"cat": "pet", "dog": "pet"}
    assert translate(["pet"], merged, BEFORE) == {"pet": "pet"}


def test_a_swap_changes_no_label() -> None:
    swapped = naming(TAUGHT, ("3", ClassEdit(kind="swap", classes=("cat", "dog"))), classes="dog cat")
    assert translate(["cat", "dog"], BEFORE, swapped) == {"cat": "cat", "dog": "dog"}


def test_a_name_that_was_given_to_another_class_since_means_the_first_one() -> None:
    again = naming(TAUGHT, ("3", rename("cat", "puss")), ("4", None), classes="puss dog cat")
    assert translate(["cat"], BEFORE, again) == {"cat": "puss"}
    assert translate(["cat"], again, again) == {"cat": "cat"}


def test_names_go_over_the_last_version_that_two_lineages_share() -> None:
    one = naming(TAUGHT, ("3", rename("cat", "puss")), ("5", rename("puss", "kitty")), classes="kitty dog")
    other = naming(TAUGHT, ("3", rename("cat", "puss")), ("6", rename("dog", "hound")), classes="puss hound")
    assert translate(["kitty", "dog"], one, other) == {"kitty": "puss", "dog": "hound"}


def test_an_edit_that_was_made_again_on_another_version_is_one_edit() -> None:
    again = naming(TAUGHT, ("5", None), ("6", rename("cat", "puss")), classes="puss dog")
    assert translate(["puss"], AFTER, again) == {"puss": "puss"}
    not_yet = naming(TAUGHT, ("5", None), classes="cat dog")
    assert translate(["puss"], AFTER, not_yet) == {"puss": "cat"}


@pytest.mark.parametrize(("hours", "called"), [(0.5, "puss"), (1.5, "cat")])
def test_where_it_is_not_known_whose_names_they_are_time_decides(hours: float, called: str) -> None:
    assert translate(["cat"], None, AFTER, since=DAY + timedelta(hours=hours)) == {"cat": called}


def test_what_is_about_to_be_published_may_rename() -> None:
    new = BEFORE.then(["puss", "dog"], rename("cat", "puss"))
    assert translate(["cat"], BEFORE, new) == {"cat": "puss"}
