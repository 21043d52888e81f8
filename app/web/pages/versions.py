"""The pages of the versions: their lineage, and each of them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Annotated, Any, Final, Literal

from fastapi import Query, Request
from fastapi.responses import JSONResponse, Response

from app.class_facts import class_facts
from app.deps import ServicesDep
from app.evaluations import labels_by
from app.offload import in_thread
from app.services import Services
from app.version_book import Book, VersionLine, gate_of
from app.web.journal_words import told
from app.web.page_routes import AnyReader, page_router
from app.web.paging import page_of
from app.web.rendering import render
from app.web.version_words import words_for
from exchange.redis_client import BrokerUnavailableError
from exchange.roster import ServerReport
from model_store.evaluations import Evaluations
from model_store.naming import Namings
from model_store.types import VersionId

router = page_router()
Only = Literal["all", "lineage", "held", "pinned"]
Number = Annotated[int, Query(alias="page", ge=1, le=1_000_000)]
MOST_LINES: Final = 20
"""Lines of the journal about a version that its page shows."""
MOST_CLASSES: Final = 5
"""Classes with the lowest accuracy that its page shows."""
_WANTED: Final[dict[Only, Callable[[VersionLine], bool]]] = {
    "all": lambda line: True,
    "lineage": lambda line: line.in_lineage,
    "held": lambda line: bool(line.held_because),
    "pinned": lambda line: line.pinned,
}


@router.get("/versions")
async def show(
    request: Request, services: ServicesDep, caller: AnyReader, only: Only = "all", page: Number = 1
) -> Response:
    """Show all versions: as a graph, and as a list."""
    book = await services.pools.store.run(services.book.read)
    return render(
        request,
        "versions/page.html",
        caller,
        **_listed(book, only, page),
        what=words_for(request),
        current=next((line for line in book.lines if line.is_current), None),
        servers=await _servers(services) if "admin" in caller.scopes else None,
        test_sets=await services.pools.store.run(services.test_sets.all),
    )


@router.get("/part/versions")
async def rows(
    request: Request, services: ServicesDep, caller: AnyReader, only: Only = "all", page: Number = 1
) -> Response:
    """Show a part of the list."""
    book = await services.pools.store.run(services.book.read)
    return render(request, "versions/rows.html", caller, **_listed(book, only, page), what=words_for(request))


@router.get("/part/versions/graph")
async def graph(request: Request, services: ServicesDep, caller: AnyReader) -> Response:
    """Return the versions as nodes, the oldest first, with their parents and the lane that each is drawn in."""
    book = await services.pools.store.run(services.book.read)
    return await in_thread(lambda: JSONResponse({"current": book.current, "nodes": _nodes(book, words_for(request))}))


@router.get("/versions/{version_id}")
async def one(version_id: str, request: Request, services: ServicesDep, caller: AnyReader) -> Response:
    """Show one version: how it was made, what the gate found, and what became of it."""
    details = await services.pools.store.run(functools.partial(_details, services, version_id, request))
    return render(request, "versions/version.html", caller, **details, what=words_for(request))


@router.get("/part/versions/{version_id}/held")
async def held(version_id: str, request: Request, services: ServicesDep, caller: AnyReader) -> Response:
    """Show what holds a version."""
    book = await services.pools.store.run(services.book.read)
    return render(request, "versions/held.html", caller, line=book.line(version_id))


def _details(services: Services, version_id: VersionId, request: Request) -> dict[str, Any]:
    store, book = services.store, services.book.read()
    line = book.line(version_id)
    manifest = line.manifest
    gate = gate_of(manifest)
    moves = [entry for entry in store.journal() if version_id in (entry.from_, entry.to)]
    evaluations = Evaluations(store.root)
    namings = Namings(services.store)
    naming = namings.as_far_as_known(version_id)
    measured = []
    for test_set in services.test_sets.all():
        stored = evaluations.get(version_id, test_set.digest)
        called = labels_by(namings, test_set, naming)
        known = sum(count for label, count in test_set.images_per_class.items() if called[label] in naming.classes)
        overall = None if stored is None else stored.results.get("overall")
        measured.append((test_set, known, stored is not None, overall if isinstance(overall, dict) else None))
    facts = [each for each in class_facts(store, services.test_sets, version_id).classes if each.accuracy is not None]
    return {
        "line": line,
        "gate": gate,
        "measured": measured,
        "worst": sorted(facts, key=lambda each: each.accuracy or 0.0)[:MOST_CLASSES],
        "journal": told(request, moves[: -MOST_LINES - 1 : -1], book),
        "children": [each.manifest for each in book.lines if version_id in each.manifest.parents],
        "bytes": store.bytes_of(version_id),
        "current": book.current,
    }


def _listed(book: Book, only: Only, number: int) -> dict[str, Any]:
    return {
        "book": book,
        "page": page_of([line for line in book.lines if _WANTED[only](line)], number),
        "only": only,
        "counts": {name: sum(map(is_wanted, book.lines)) for name, is_wanted in _WANTED.items()},
    }


def _nodes(book: Book, what: Callable[[VersionLine], str | None]) -> list[dict[str, Any]]:
    """Return a node for each version. The lineage of CURRENT is lane 0; every branch off it has a lane of its own."""
    lanes: dict[VersionId, int] = {}
    followed: set[VersionId | None] = set()
    highest = 0
    nodes = []
    for at, line in enumerate(reversed(book.lines)):
        manifest = line.manifest
        lane = lanes.get(manifest.parent or "", 0)
        if line.in_lineage:
            lane = 0
        elif not lane or manifest.parent in followed:  # the first version on a branch goes on in its lane
            highest += 1
            lane = highest
        if not line.in_lineage:
            followed.add(manifest.parent)
        lanes[manifest.version_id] = lane
        nodes.append(
            {
                "id": manifest.version_id,
                "number": manifest.number,
                "at": at,
                "lane": lane,
                "parents": list(manifest.parents),
                "made": line.shown_as,
                "classes": len(manifest.classes),
                "accuracy": line.accuracy,
                "pinned": line.pinned,
                "current": line.is_current,
                "created_at": manifest.created_at.isoformat(),
                "what": what(line),
            }
        )
    return nodes


async def _servers(services: Services) -> list[ServerReport] | None:
    """Return what each living server says of itself; None where that is not known."""
    try:
        seen = await services.pools.broker.run(services.roster.servers)
    except BrokerUnavailableError:
        return None
    return [each.report for each in seen if each.seen_s <= services.settings.server_lost_after_s]
