"""The languages of the page: gettext catalogues, read once, and which of them a request wants."""

from __future__ import annotations

import functools
import io
import re
from dataclasses import dataclass
from gettext import GNUTranslations
from pathlib import Path
from types import MappingProxyType
from typing import Final

from babel import Locale, UnknownLocaleError
from babel.messages.catalog import Catalog
from babel.messages.mofile import write_mo
from babel.messages.pofile import read_po
from fastapi import Request

SENTENCES_IN: Final = "app/web/sentences.py"
FOLDER: Final = Path(__file__).parent / "locale"
DEFAULT: Final = "en"
COOKIE: Final = "keepsight_language"
PLACE: Final = re.compile(r"%\((\w+)\)s")
"""Where a text takes a value."""
_PLURALS_SENT = 200
"""Rules of plurals look at a number's last two digits and at small numbers, so these counts tell all."""


@dataclass(frozen=True)
class Language:
    """One language: its name in itself, its rules for numbers and dates, and its texts.

    `script_texts` are those that the page's scripts show: a text, or its plural forms, by the English text.
    `sentences` are those of the service (`app.web.sentences`), by the English one; English has none.
    """

    code: str
    locale: Locale
    translations: GNUTranslations
    script_texts: MappingProxyType[str, str | list[str]]
    sentences: MappingProxyType[str, str]

    @property
    def name(self) -> str:
        """What the language calls itself."""
        return self.locale.get_display_name(self.code) or self.code

    @property
    def plurals(self) -> list[int]:
        """Which plural form each of the first counts takes."""
        rule = self.translations.plural  # type: ignore[attr-defined]
        return [int(rule(count)) for count in range(_PLURALS_SENT)]


@functools.cache
def languages() -> MappingProxyType[str, Language]:
    """Return all languages by their codes: one for each catalogue in `locale/`."""
    found = {path.stem: _read(path) for path in sorted(FOLDER.glob("*.po"))}
    return MappingProxyType(found)


def language_of(request: Request) -> Language:
    """Return the language that was chosen on the page, else the one that the browser prefers."""
    known = languages()
    chosen = request.cookies.get(COOKIE, "")
    if chosen in known:
        return known[chosen]
    wanted = (tag.partition("-")[0].lower() for tag in _accepted(request.headers.get("accept-language", "")))
    return next((known[code] for code in wanted if code in known), known[DEFAULT])


def locale_of(request: Request, language: Language) -> Locale:
    """Return how the reader writes numbers and dates: a language's rules in the region that the browser names."""
    for tag in _accepted(request.headers.get("accept-language", "")):
        try:
            wanted = Locale.parse(tag, sep="-")
        except (ValueError, UnknownLocaleError):
            continue
        if wanted.language == language.code and wanted.territory:
            return wanted
    return language.locale


def _accepted(header: str) -> list[str]:
    """Return the tags of an Accept-Language header, the most wanted first."""
    weighed = []
    for part in header[:500].split(","):
        tag, _, parameters = part.strip().partition(";")
        try:
            weight = float(parameters.partition("q=")[2] or 1)
        except ValueError:
            weight = 0.0
        weighed.append((-weight, tag))
    return [tag for weight, tag in sorted(weighed, key=lambda each: each[0]) if weight < 0]


def _read(path: Path) -> Language:
    with path.open("rb") as file:
        catalog = read_po(file, locale=path.stem)
    compiled = io.BytesIO()
    write_mo(compiled, catalog)
    compiled.seek(0)
    translations = GNUTranslations(compiled)
    return Language(path.stem, Locale.parse(path.stem), translations, _script_texts(catalog), _sentences(catalog))


def _script_texts(catalog: Catalog) -> MappingProxyType[str, str | list[str]]:
    texts: dict[str, str | list[str]] = {}
    for message in catalog:
        if not message.id or all(name.endswith(".html") or name == SENTENCES_IN for name, _ in message.locations):
            continue
        if isinstance(message.id, str):
            if message.string and message.string != message.id:  # scripts know the English text themselves
                texts[message.id] = str(message.string)
        else:
            texts[message.id[0]] = [str(form) for form in message.string or ()]
    return MappingProxyType(texts)


def _sentences(catalog: Catalog) -> MappingProxyType[str, str]:
    """Return what the service says, the most particular first: other sentences may have the form of a general one."""
    said = {
        str(message.id): str(message.string)
        for message in catalog
        if message.string != message.id and any(name == SENTENCES_IN for name, _ in message.locations)
    }
    return MappingProxyType(dict(sorted(said.items(), key=lambda pair: _particular(pair[0]), reverse=True)))


def _particular(text: str) -> tuple[int, str]:
    """Return by how many letters of its own a text is known again, and the text."""
    return len(PLACE.sub("", text)), text
