"""Lines of the journal for readers of the page: what the service wrote in their words, what people typed as it is."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from fastapi import Request

from app.version_book import Book, VersionLine, gate_of
from app.web.languages import language_of
from app.web.navigation import N_
from app.web.version_words import words_for
from exchange.contracts import GateCheck
from model_store.first_version import FIRST_REASON
from model_store.types import PROMOTED_ANYWAY, JournalEntry

_FIRST: Final = N_("the base model, before any task")
_LEARNED: Final = N_("learned: %(name)s")
_CORRECTED: Final = N_("corrections learned")
_MERGED: Final = N_("merged: %(reason)s")
_ANYWAY: Final = N_("held, promoted anyway: %(reason)s")


@dataclass(frozen=True)
class Told:
    """A line of the journal. `words` is its reason; if the gate holds a version, `checks` are those not passed."""

    entry: JournalEntry
    words: str
    checks: tuple[GateCheck, ...] = ()


def told(request: Request, entries: Iterable[JournalEntry], book: Book) -> list[Told]:
    """Return lines of the journal as a request's reader is told them."""
    lines = {line.manifest.version_id: line for line in book.lines}
    what, say = words_for(request), language_of(request).translations.gettext
    return [_told(entry, lines.get(entry.to or ""), what, say) for entry in entries]


def _told(
    entry: JournalEntry,
    line: VersionLine | None,
    what: Callable[[VersionLine], str | None],
    say: Callable[[str], str],
) -> Told:
    if entry.reason.startswith(PROMOTED_ANYWAY):
        return Told(entry, say(_ANYWAY) % {"reason": entry.reason.removeprefix(PROMOTED_ANYWAY)})
    if entry.reason == FIRST_REASON:
        return Told(entry, say(_FIRST))
    if line is None:  # pruned or damaged, so nothing is known of its job
        return Told(entry, entry.reason)
    gate = gate_of(line.manifest) if entry.action == "hold" else None
    if gate is not None and (failed := tuple(check for check in gate.checks if check.passed is False)):
        return Told(entry, "", failed)
    by_job = f"job {line.manifest.job_id}"
    if line.manifest.job_id is None or not entry.reason.startswith(by_job):
        return Told(entry, entry.reason)
    return Told(entry, _of_job(entry.reason.removeprefix(by_job), line, what(line), say))


def _of_job(reason: str, line: VersionLine, what: str | None, say: Callable[[str], str]) -> str:
    edit = line.manifest.edit
    if edit is not None and reason.startswith(f": {edit.words}"):
        return f"{what}{reason.removeprefix(f': {edit.words}')}"
    if line.manifest.made == "merged":
        return say(_MERGED) % {"reason": reason.partition(": ")[2]}
    if line.manifest.made == "corrected":
        return say(_CORRECTED)
    return reason.strip() if what is None else say(_LEARNED) % {"name": what}
