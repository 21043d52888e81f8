"""Normalizes class names and compares them with known ones."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping, Sequence

from app.errors import TaskRefusedError
from segp_cl.errors import ClassExistsError

MAX_NAME_LENGTH = 200
_REFUSED_CATEGORIES = {"Cc", "Cs", "Zl", "Zp"}
_BIDI_CONTROLS = set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u200e\u200f\u061c")


def clean_name(raw: str) -> str:
    """Return a class name in Unicode form NFC, without surrounding space.

    Raises:
        TaskRefusedError: it is empty, longer than 200 characters, or has invisible characters.
    """
    name = unicodedata.normalize("NFC", raw).strip()
    if not name:
        raise TaskRefusedError("a class has an empty name")
    if len(name) > MAX_NAME_LENGTH:
        raise TaskRefusedError(
            f"the class name that begins {name[:40]!a} has {len(name)} characters; expected at most {MAX_NAME_LENGTH}"
        )
    bad = [c for c in name if unicodedata.category(c) in _REFUSED_CATEGORIES or c in _BIDI_CONTROLS]
    if bad:
        raise TaskRefusedError(
            f"the class name {name!a} has a control character (U+{ord(bad[0]):04X}); expected visible text"
        )
    return name


def clean_names(raw_names: Sequence[str]) -> Mapping[str, str]:
    """Map every raw name to its clean name.

    Raises:
        TaskRefusedError: a name is invalid, or two differ only by case, Unicode form or surrounding space.
    """
    cleaned: dict[str, str] = {}
    seen: dict[str, str] = {}
    for raw in raw_names:
        name = clean_name(raw)
        other = seen.setdefault(fold(name), raw)
        if other != raw:
            raise TaskRefusedError(
                f"the classes {other!a} and {raw!a} differ only by case, Unicode form or surrounding space; "
                "give each class one name"
            )
        cleaned[raw] = name
    return cleaned


def fold(name: str) -> str:
    """Return what is equal for two names that differ only by case or Unicode form."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFKC", name).casefold())


def check_against_known(names: Iterable[str], known: Iterable[str], *, extend: bool) -> None:
    """Refuse names that are already known, unless `extend` is true.

    Raises:
        ClassExistsError: a class is known and `extend` is false, or a known class is spelled a little differently.
    """
    by_fold = {fold(name): name for name in known}
    for name in names:
        existing = by_fold.get(fold(name))
        if existing is None:
            continue
        if existing != name:
            raise ClassExistsError(
                f"the class {name!a} differs from the known class {existing!a} only by case or Unicode form"
            )
        if not extend:
            raise ClassExistsError(f"the class {name!r} is already known; send extend=true to teach more images of it")
