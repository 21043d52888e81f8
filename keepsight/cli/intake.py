"""What the service says of an upload, as lines for people: nothing that was left out or changed goes unsaid."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from keepsight.client.folders import Skipped

MOST_SHOWN = 10
MOST_LISTED = 1000  # that a service sends
_MOST_CLASSES = 20


def intake_lines(validation: Mapping[str, Any], most: int = MOST_SHOWN) -> list[str]:
    """Return a validation as lines, with at most so many rows of each list. Services of earlier releases say less."""
    return list(_lines(validation, most))


def skipped_lines(skipped: Sequence[Skipped], most: int = MOST_SHOWN) -> list[str]:
    """Return what the client itself has left behind; empty if that is nothing."""
    rows = [f"{each.path}: {each.reason}" for each in skipped]
    return [f"skipped: {len(rows)}", *_rows(rows, len(rows), most)] if rows else []


def encoding_lines(problem: Mapping[str, Any]) -> list[str]:
    """Return what the names of an archive read as in each encoding that may be theirs; empty if that is no question."""
    guesses = problem.get("encodings")
    if not isinstance(guesses, list):
        return []
    return [f"  --encoding {guess['encoding']}: {', '.join(map(repr, guess['reads']))}" for guess in guesses]


def _lines(found: Mapping[str, Any], most: int) -> Iterator[str]:
    yield f"images: {found['accepted']} accepted ({_counts(found['classes'])}), {found['rejected_count']} rejected"
    yield from _rows([f"{row['path']}: {row['reason']}" for row in found["rejected"]], found["rejected_count"], most)
    if held_out := found.get("held_out"):
        yield f"held out to measure on: {_counts(held_out)}"
    if test_set := found.get("test_set"):
        yield f"kept as a test set: {_counts(test_set)}"
    yield from (f"note: {note}" for note in found.get("notes", []))
    if count := found.get("passed_over_count", 0):
        yield f"passed over: {count}"
        rows = [f"{row['path']}{_entries(row['entries'])}: {row['reason']}" for row in found.get("passed_over", [])]
        yield from _rows(rows, count, most)
    if count := found.get("repeated_count", 0):
        yield f"the same picture in two places: {count}"
        rows = [
            f"{row['path']} ({row['label']}) is {row['first_path']} ({row['first_label']})"
            for row in found.get("repeated", [])
        ]
        yield from _rows(rows, count, most)
    if renamed := found.get("renamed", []):
        yield f"taught under a name without invisible characters: {len(renamed)}"
        yield from _rows([f"{row['typed']!a} as {row['taught']!r}" for row in renamed], len(renamed), most)


def _rows(rows: Sequence[str], count: int, most: int) -> Iterator[str]:
    shown = rows[:most]
    yield from (f"  {row}" for row in shown)
    if count > len(shown):
        yield f"  and {count - len(shown)} more"


def _counts(classes: Mapping[str, int]) -> str:
    shown = ", ".join(f"{name} {count}" for name, count in list(classes.items())[:_MOST_CLASSES])
    return shown + (f" and {len(classes) - _MOST_CLASSES} more" if len(classes) > _MOST_CLASSES else "")


def _entries(count: int) -> str:
    return f" ({count} entries)" if count > 1 else ""
