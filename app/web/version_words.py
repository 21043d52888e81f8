"""What was taught or edited to make a version, in the reader's words."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from fastapi import Request

from app.version_book import VersionLine
from app.web.languages import language_of
from app.web.navigation import N_
from segp_cl.class_edits import ClassEdit

MOST_NAMES: Final = 5
"""Classes that an edit's words name."""
_QUOTED: Final = N_("'%(name)s'")
_WORDS: Final = {
    "rename": N_("rename %(names)s to %(new)s"),
    "prompt": N_("prompt of %(names)s: %(new)s"),
    "swap": N_("swap the names of %(names)s"),
    "merge": N_("merge %(names)s into %(new)s"),
    "delete": N_("delete %(names)s"),
    "replace": N_("replace %(names)s"),
}
MADE_WORDS: Final = {
    "instant": N_("instant"),
    "trained": N_("trained"),
    "merged": N_("merged"),
    "edited": N_("edited"),
    "corrected": N_("corrected"),
    "held": N_("held"),
    "first": N_("begun"),
}
"""What is said of how a version was made; see `VersionLine.shown_as`."""
_AND_MORE: Final = N_("%(names)s and more")


def words_for(request: Request) -> Callable[[VersionLine], str | None]:
    """Return what says of a version, in the language of a request, what was taught or edited; None where none knows."""
    say = language_of(request).translations.gettext

    def words(line: VersionLine) -> str | None:
        edit = line.manifest.edit
        return line.dataset_name if edit is None else _edited(edit, say)

    return words


def _edited(edit: ClassEdit, say: Callable[[str], str]) -> str:
    def quoted(name: str) -> str:
        return say(_QUOTED) % {"name": name}

    names = ", ".join(quoted(name) for name in edit.classes[:MOST_NAMES])
    if len(edit.classes) > MOST_NAMES:
        names = say(_AND_MORE) % {"names": names}
    sentence = "prompt" if edit.kind == "rename" and edit.name is None else edit.kind
    return say(_WORDS[sentence]) % {"names": names, "new": quoted(edit.name or edit.prompt or "")}
