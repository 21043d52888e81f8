"""The page of the classes: how well they are told apart, and edits of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any, Final, Literal

from fastapi import Query, Request
from fastapi.responses import Response

from app.class_facts import ClassFacts, class_facts
from app.deps import ServicesDep
from app.services import Services
from app.web.page_routes import AnyReader, Training, page_router
from app.web.paging import page_of
from app.web.rendering import render
from segp_cl.errors import ClassNotFoundError

router = page_router()
Order = Literal["name", "images", "accuracy", "task"]
_KEYS: Final[dict[Order, Callable[[ClassFacts], Any]]] = {
    "name": lambda known: known.name.casefold(),
    "images": lambda known: (-known.images, known.name.casefold()),
    "accuracy": lambda known: (2.0 if known.accuracy is None else known.accuracy, known.name.casefold()),
    "task": lambda known: (-known.task, known.name.casefold()),
}
Text = Annotated[str, Query(alias="q", max_length=200)]
Number = Annotated[int, Query(alias="page", ge=1, le=1_000_000)]


@router.get("/classes")
async def show(
    request: Request, services: ServicesDep, caller: AnyReader, text: Text = "", order: Order = "name", page: Number = 1
) -> Response:
    """Show the classes of CURRENT, and what may be done with them."""
    return render(request, "classes/page.html", caller, **await _listed(services, text, order, page))


@router.get("/part/classes")
async def rows(
    request: Request, services: ServicesDep, caller: AnyReader, text: Text = "", order: Order = "name", page: Number = 1
) -> Response:
    """Show a part of the list."""
    return render(request, "classes/rows.html", caller, **await _listed(services, text, order, page))


@router.get("/part/classes/edit")
async def edit(
    request: Request, services: ServicesDep, caller: Training, name: Annotated[list[str], Query(max_length=1000)]
) -> Response:
    """Show what may be done with one class, or how several become one."""
    known = {each.name: each for each in await _facts(services)}
    lacking = next((each for each in name if each not in known), None)
    if lacking is not None:
        raise ClassNotFoundError(f"the class {lacking[:200]!r} is not known")
    template = "classes/edit.html" if len(name) == 1 else "classes/merge.html"
    return render(request, template, caller, chosen=[known[each] for each in name], names=list(known))


async def _listed(services: Services, text: str, order: Order, number: int) -> dict[str, Any]:
    known = await _facts(services)
    found = [each for each in known if text.casefold() in each.name.casefold()] if text else known
    measured = [each.accuracy for each in known if each.accuracy is not None]
    return {
        "page": page_of(sorted(found, key=_KEYS[order]), number),
        "text": text,
        "order": order,
        "known": len(known),
        "measured": len(measured),
        "mean_accuracy": sum(measured) / len(measured) if measured else None,
        "images": sum(each.images for each in known),
    }


async def _facts(services: Services) -> Sequence[ClassFacts]:
    def work() -> Sequence[ClassFacts]:
        return class_facts(services.store, services.test_sets, services.store.known_current()).classes

    return await services.pools.store.run(work)
