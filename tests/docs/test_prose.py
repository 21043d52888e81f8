"""The documentation reads easily: short sentences, plain words, one word per thing, numbers of few digits."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.docs.markdown import DOCS, ROOT, blocks, prose, read

README = ROOT / "README.md"
WRITTEN = [README, ROOT / "CONTRIBUTING.md", *sorted(DOCS.glob("*.md"))]
"""Pages that people write. Reports under docs/results are written by programs."""
NAMES = [str(page.relative_to(ROOT)) for page in WRITTEN]

MOST_README_LINES = 120
MOST_WORDS = 35
MOST_DIGITS = 4
UNPLAIN = ("so many", "that is none", "is none of", "speaks for", "speak for", "is told", "are told", "told apart")
"""Phrases that have to be read twice."""
OTHER_WORDS = {
    r"serving process": "server",
    r"server process(es)?": "server",
    r"kept[- ]back": "held out",
    r"keeps? back": "hold out",
}
"""What is not said, and the word of docs/architecture.md that is."""


def paragraphs(page: Path) -> list[str]:
    """The page's running text, a list item each by itself: without code blocks, tables, headings and pictures."""
    found: list[str] = []
    current: list[str] = []
    for line in [*prose(page).splitlines(), ""]:
        text = line.strip()
        item = re.match(r"(?:[-*] |\d+\. )(?=\S)", text)
        if not text or item or text.startswith(("|", "#", "![")):
            found.append(" ".join(current))
            current = []
        if text and not text.startswith(("|", "#", "![")):
            current.append(text[item.end() :] if item else text)
    return [paragraph for paragraph in found if paragraph]


def sentences(paragraph: str) -> list[str]:
    """A paragraph's sentences. A link counts as its text, a code span as one word without stops."""
    text = re.sub(r"`[^`]+`", "code", paragraph)
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", text).replace("*", "")
    return [sentence for sentence in re.split(r"(?<=[.!?])[\"”)]?\s+", text) if sentence]


def words(sentence: str) -> int:
    return len(re.findall(r"\w+(?:[-'.,/·]\w+)*", sentence))


@pytest.mark.parametrize("page", WRITTEN, ids=NAMES)
def test_no_sentence_is_longer_than_a_breath(page: Path) -> None:
    long = [s for paragraph in paragraphs(page) for s in sentences(paragraph) if words(s) > MOST_WORDS]
    assert long == []


def test_sentences_are_split_and_their_words_counted() -> None:
    assert sentences("It has `a.b. C` in it. See [the page](x.md). “No.” Then 1.5 s pass!") == [
        "It has code in it.",
        "See the page.",
        "“No.",
        "Then 1.5 s pass!",
    ]
    assert words("Then 1.5 s pass, one after-thought.") == 6


@pytest.mark.parametrize("page", WRITTEN, ids=NAMES)
def test_phrases_that_have_to_be_read_twice_do_not_occur(page: Path) -> None:
    text = " ".join(prose(page).lower().split())
    assert [phrase for phrase in UNPLAIN if re.search(rf"\b{phrase}\b", text)] == []


@pytest.mark.parametrize("page", WRITTEN, ids=NAMES)
def test_a_thing_has_one_word(page: Path) -> None:
    text = " ".join(prose(page).lower().split())
    assert {said: word for said, word in OTHER_WORDS.items() if re.search(rf"\b{said}\b", text)} == {}


def test_the_readme_is_short() -> None:
    assert len(read(README).splitlines()) <= MOST_README_LINES


def digits(number: str) -> int:
    """Significant digits: `0.0240` has three, `119.0` four."""
    return len(number.lstrip("-").replace(".", "").lstrip("0"))


def test_numbers_of_the_readmes_answers_are_short() -> None:
    answers = [block for block in blocks(README) if block.language == "json"]
    assert answers
    for block in answers:
        outside_of_texts = re.sub(r'"[^"]*"', "", block.text)
        assert [n for n in re.findall(r"-?\d[\d.]*", outside_of_texts) if digits(n) > MOST_DIGITS] == []


def test_digits_are_counted_as_they_are_read() -> None:
    assert [digits(number) for number in ("0.0240", "-119.0", "3", "0.23601886")] == [3, 4, 1, 8]
