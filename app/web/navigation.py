"""The pages that the navigation leads to, in its order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Entry:
    """A page: its path, its name in English (a message of the catalogues), its icon, and the scope it asks for.

    `scope` is None for pages that any key opens.
    """

    path: str
    title: str
    icon: str
    scope: str | None = None


def N_(message: str) -> str:  # noqa: N802 - gettext's name for a text that is translated later
    """Mark a text for the catalogues."""
    return message


ENTRIES: Final = (
    Entry("/", N_("Try"), "scan-search", "classify"),
    Entry("/teach", N_("Teach"), "graduation-cap", "train"),
    Entry("/classes", N_("Classes"), "tags"),
    Entry("/versions", N_("Versions"), "git-branch"),
    Entry("/live", N_("Live"), "activity"),
    Entry("/test-sets", N_("Test sets"), "flask-conical"),
    Entry("/corrections", N_("Corrections"), "list-checks", "train"),
    Entry("/keys", N_("Keys"), "key-round", "admin"),
)
