"""Renders templates: one environment for each language, and what every page is given."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode

from babel import Locale
from babel.dates import format_datetime, format_timedelta
from babel.numbers import format_decimal, format_percent
from babel.units import format_unit
from fastapi import Request
from fastapi.responses import HTMLResponse, Response
from jinja2 import Environment, FileSystemLoader, StrictUndefined, pass_context
from jinja2.runtime import Context
from starlette.types import Receive, Scope, Send

from app.access import Caller
from app.offload import in_thread
from app.web import served_files
from app.web.languages import Language, language_of, languages, locale_of
from app.web.navigation import ENTRIES
from app.web.version_words import MADE_WORDS
from app.wire.root import outside_path, route_path

TEMPLATES: Final = Path(__file__).parent / "templates"
THEMES: Final = ("auto", "light", "dark")
_UNITS: Final = ("byte", "kilobyte", "megabyte", "gigabyte")
THEME_COOKIE: Final = "keepsight_theme"
HEADERS: Final = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' blob: data:; object-src 'none'; base-uri 'none'; "
    "form-action 'self'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
    "Vary": "Accept-Language, Cookie",
}
"""Headers of every page. Images may come from memory (`blob:`, previews) and from the style sheet's own (`data:`)."""


@dataclass(frozen=True)
class View:
    """What a page shows of the request it answers: who asks, in which language and region, and in which colours."""

    path: str
    caller: Caller | None
    language: Language
    locale: Locale
    theme: str
    version_id: str | None

    @property
    def texts(self) -> dict[str, str | list[str]]:
        """The texts of the page's scripts."""
        return dict(self.language.script_texts)

    @property
    def sentences(self) -> list[tuple[str, str]]:
        """What the service may say to the page's scripts, in order: JSON's objects are sorted by name."""
        return list(self.language.sentences.items())

    @classmethod
    def of(cls, request: Request, caller: Caller | None) -> View:
        """Return the view of a request; `caller` is None where nobody was let in."""
        theme = request.cookies.get(THEME_COOKIE, "auto")
        services = getattr(request.app.state, "services", None)
        language = language_of(request)
        return cls(
            path=route_path(request.scope),
            caller=caller,
            language=language,
            locale=locale_of(request, language),
            theme=theme if theme in THEMES else "auto",
            version_id=None if services is None or caller is None else services.live.version_id,
        )


def render(
    request: Request, template: str, caller: Caller | None = None, *, status: int = 200, **values: Any
) -> Response:
    """Return a page, or a part of one.

    Args:
        request: what is answered.
        template: the template's path under `templates/`.
        caller: who asks; None where nobody was let in.
        status: the answer's status.
        values: what the template shows. They are escaped.
    """

    def make() -> str:
        view = View.of(request, caller)
        entries = [] if caller is None else [e for e in ENTRIES if e.scope is None or e.scope in caller.scopes]
        return (
            _environment(view.language.code)
            .get_template(template)
            .render(
                view=view,
                entries=entries,
                languages=languages().values(),
                root=outside_path(request.scope, ""),
                csrf_token=None if caller is None else caller.csrf_token,
                **values,
            )
        )

    return _Rendered(make, status)


class _Rendered(Response):
    """A page that is rendered in a thread when it is sent: that takes milliseconds, and the event loop has others."""

    def __init__(self, make: Callable[[], str], status: int) -> None:
        super().__init__(status_code=status)
        self._make = make

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Render and send it."""
        content = await in_thread(self._make)
        await HTMLResponse(content, status_code=self.status_code, headers=HEADERS)(scope, receive, send)


@functools.cache
def _environment(code: str) -> Environment:
    language = languages()[code]
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=["jinja2.ext.i18n"],
        auto_reload=False,
    )
    environment.install_gettext_translations(language.translations, newstyle=True)  # type: ignore[attr-defined]
    made_words = {made: language.translations.gettext(words) for made, words in MADE_WORDS.items()}
    environment.globals |= {"url": _url, "asset": _asset, "made_words": made_words}
    environment.filters |= _FILTERS
    return environment


@pass_context
def _url(context: Context, path: str) -> str:
    """Return the address of a page or route as a browser reaches it."""
    return f"{context['root']}{path}"


@pass_context
def _asset(context: Context, name: str) -> str:
    """Return the address of one of the page's files."""
    served_files.known(name)
    return f"{context['root']}/assets/{served_files.digest()}/{name}"


@pass_context
def _number(context: Context, value: float, digits: int = 0) -> str:
    return str(format_decimal(value, format=f"#,##0.{'0' * digits}" if digits else "#,##0", locale=_locale(context)))


@pass_context
def _percent(context: Context, value: float, digits: int = 0) -> str:
    """Return a share in [0, 1] as per cent."""
    locale = _locale(context)
    pattern = locale.percent_formats[None].pattern.replace("#,##0", f"#,##0{'.' + '0' * digits if digits else ''}")
    return str(format_percent(value, format=pattern, locale=locale))


@pass_context
def _moment(context: Context, value: datetime) -> str:
    """Return a time in UTC; scripts show it in the reader's own zone."""
    return str(format_datetime(value, "medium", locale=_locale(context)))


@pass_context
def _size(context: Context, value: float) -> str:
    """Return bytes in the largest unit that gives a whole number of them."""
    step = min(int(math.log10(max(value, 1)) / 3), len(_UNITS) - 1)
    return str(format_unit(round(value / 1000**step, 1), _UNITS[step], length="short", locale=_locale(context)))


@pass_context
def _span(context: Context, value: timedelta) -> str:
    """Return a length of time: 14 days."""
    return str(format_timedelta(value, threshold=1.0, locale=_locale(context)))


def _locale(context: Context) -> Locale:
    view: View = context["view"]
    return view.locale


def _params(values: Mapping[str, object], **others: object) -> str:
    """Return values as the query of an address."""
    return urlencode({name: value for name, value in {**values, **others}.items() if value != ""})


_FILTERS: Final[Mapping[str, Callable[..., str]]] = {
    "number": _number,
    "percent": _percent,
    "moment": _moment,
    "size": _size,
    "span": _span,
    "params": _params,
}
