"""The page that compares two versions: what differs between them, and what each has right."""

from __future__ import annotations

import functools
from typing import Annotated, Any, Final

from fastapi import Query, Request
from fastapi.responses import Response

from app.deps import ServicesDep
from app.errors import NotEvaluatedError
from app.evaluations import compare
from app.services import Services
from app.version_book import changes_between
from app.web.page_routes import AnyReader, page_router
from app.web.rendering import render
from app.web.version_words import words_for
from model_store import policy
from model_store.types import NoSuchTestSetError, VersionId

router = page_router()
MOST_IMAGES: Final = 50
Version = Annotated[str | None, Query(max_length=40)]


@router.get("/versions/compare")
async def show(
    request: Request, services: ServicesDep, caller: AnyReader, a: Version = None, b: Version = None
) -> Response:
    """Show two versions side by side; CURRENT and its parent where none are named."""
    read = functools.partial(_compared, services, a, b)
    compared = await services.pools.store.run(read)
    return render(request, "versions/compare.html", caller, **compared, what=words_for(request))


def _compared(services: Services, a: VersionId | None, b: VersionId | None) -> dict[str, Any]:
    book = services.book.read()
    newer = b or book.current
    older = a or (None if newer is None else book.line(newer).manifest.parent)
    shown: dict[str, Any] = {"book": book, "a": older, "b": newer, "changes": None, "found": None, "why_not": None}
    if older is None or newer is None or older == newer:
        return shown
    older, newer = sorted((older, newer), key=policy.age)
    pair = (book.line(older).manifest, book.line(newer).manifest)
    changes = changes_between((line.manifest for line in book.lines), *pair)
    shown |= {"a": older, "b": newer, "changes": changes, "old": pair[0], "new": pair[1]}
    try:
        shown["found"] = compare(services.store, services.test_sets, older, newer, test_set=None, most=MOST_IMAGES)
    except NotEvaluatedError:
        shown["why_not"] = "not_evaluated"
    except NoSuchTestSetError:
        shown["why_not"] = "no_test_sets"
    return shown
