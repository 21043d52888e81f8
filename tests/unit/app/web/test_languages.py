"""The page's languages: every text in each, and the right one for whoever asks."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from fastapi import Request

from app.web.languages import COOKIE, language_of, languages, locale_of

ROOT = Path(__file__).parents[4]


def asking(accepted: str = "", chosen: str = "") -> Request:
    headers = [(b"accept-language", accepted.encode())]
    if chosen:
        headers.append((b"cookie", f"{COOKIE}={chosen}".encode()))
    return Request({"type": "http", "headers": headers})


def test_every_text_is_in_every_catalogue_and_translated() -> None:
    ran = subprocess.run(
        [sys.executable, "scripts/_messages.py", "--check"], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert (ran.stderr.strip(), ran.returncode) == ("", 0)


@pytest.mark.parametrize(
    ("accepted", "expected"),
    [
        ("", "en"),
        ("de", "de"),
        ("de-AT,de;q=0.9,en;q=0.8", "de"),
        ("en-GB,en;q=0.9,de;q=0.8", "en"),
        ("fr,de;q=0.5,en;q=0.4", "de"),
        ("fr", "en"),
        ("de;q=0,en;q=0.1", "en"),
        ("de;q=abc, *", "en"),
        (",;q=;;=,", "en"),
    ],
)
def test_the_language_is_the_one_that_the_browser_prefers(accepted: str, expected: str) -> None:
    assert language_of(asking(accepted)).code == expected


def test_a_chosen_language_counts_more_unless_there_is_none_of_that_name() -> None:
    assert language_of(asking("de", chosen="en")).code == "en"
    assert language_of(asking("de", chosen="../en")).code == "de"


def test_scripts_get_their_texts_and_the_rule_of_plurals() -> None:
    german = languages()["de"]
    assert german.script_texts["The service cannot be reached"] == "Der Dienst ist nicht erreichbar"
    assert german.plurals[:3] == [1, 0, 1]
    assert "Skip to the content" not in german.script_texts, "texts of templates are not sent twice"


def test_numbers_follow_the_region_that_the_browser_names() -> None:
    german, english = languages()["de"], languages()["en"]
    swiss = locale_of(asking("de-CH,de;q=0.9,en;q=0.8"), german)
    assert (str(swiss), str(locale_of(asking("de-CH"), english))) == ("de_CH", "en")
    assert str(locale_of(asking("de,en-GB;q=0.5"), english)) == "en_GB"
    for nonsense in ("", "de-", "en-a-b-c", "en-QQ9", "x" * 600):
        assert locale_of(asking(nonsense), english) == english.locale
