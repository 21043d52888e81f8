"""The page says what the service says in the reader's language, and knows no sentence that nobody says."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.web.languages import PLACE, languages
from app.web.sentences import SENTENCES, form_of, in_words_of

ROOT = Path(__file__).parents[4]
SAID_IN = ("app", "exchange", "model_store", "segp_cl", "worker")
VALUE = "VALUE"


def texts(tree: ast.AST) -> Iterator[str]:
    """Every text of a program as a pattern: what is put in by a format is anything."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield re.escape(node.value)
        elif isinstance(node, ast.JoinedStr):
            parts = (part.value if isinstance(part, ast.Constant) else None for part in node.values)
            yield "".join(".*" if part is None else re.escape(str(part)) for part in parts)


@pytest.fixture(scope="module")
def said() -> list[re.Pattern[str]]:
    """The texts of all other modules, with five letters of their own at least."""
    files = (path for package in SAID_IN for path in (ROOT / package).rglob("*.py"))
    trees = (ast.parse(path.read_text("utf-8")) for path in files if path.name != "sentences.py")
    found = {pattern for tree in trees for pattern in texts(tree)}
    return [re.compile(pattern, re.DOTALL) for pattern in found if len(pattern.replace(".*", "")) >= 5]


@pytest.mark.parametrize("known", SENTENCES)
def test_every_sentence_is_said_somewhere(known: str, said: list[re.Pattern[str]]) -> None:
    assert any(pattern.fullmatch(PLACE.sub(VALUE, known)) for pattern in said)


@pytest.mark.parametrize("known", SENTENCES)
def test_every_sentence_is_known_again_and_translated_with_its_values(known: str) -> None:
    german = languages()["de"]
    names = PLACE.findall(known)
    sentence = known % {name: f"the {name}" for name in names}
    told = in_words_of(german, sentence)
    assert told is not None
    assert told != sentence
    assert told == german.sentences[known] % {name: f"the {name}" for name in names}, "another one is more particular"
    found = form_of(known).fullmatch(sentence)
    assert found is not None
    assert set(PLACE.findall(german.sentences[known])) == set(names), "no value is lost"


def test_a_value_that_is_a_sentence_is_told_too() -> None:
    english = "another version is being rolled out; nothing moved; the version is kept and can be promoted by hand"
    assert in_words_of(languages()["de"], english) == (
        "Gerade wird eine andere Version verteilt; nichts wurde geändert. Die Version bleibt; Sie können sie unter "
        "„Versionen“ antworten lassen."
    )


def test_a_name_that_reads_like_a_sentence_stays_a_name() -> None:
    assert (
        in_words_of(languages()["de"], "the classes are the folders in hidden")
        == "Die Klassen sind die Ordner in hidden."
    )


def test_what_nobody_translated_and_what_is_english_stay_as_they_are() -> None:
    assert in_words_of(languages()["de"], "the moon is full") is None
    assert in_words_of(languages()["en"], SENTENCES[2]) is None


def test_values_with_line_breaks_and_percent_signs_are_kept() -> None:
    told = in_words_of(languages()["de"], "the class '100 %\n(x)s' is not known")
    assert told == "Die Klasse '100 %\n(x)s' ist nicht bekannt."
