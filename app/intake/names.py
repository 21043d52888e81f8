"""Normalizes class names and compares them with known ones."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping, Sequence

from app.errors import TaskRefusedError
from app.intake.visible import is_refused, looks, without_invisible
from segp_cl.errors import ClassExistsError

MAX_NAME_LENGTH = 200
_DIFFERENCE = "only by case, width, dots or spaces, or by letters that look the same"


def clean_name(raw: str) -> str:
    """Return a class name in Unicode form NFC, without invisible characters, and with single spaces inside only.

    Raises:
        TaskRefusedError: nothing of it is visible, it is longer than 200 characters, or it has characters that cannot
            be shown or change how others are read.
    """
    bad = [char for char in raw.strip() if is_refused(char)]
    if bad:
        raise TaskRefusedError(
            f"the class name {raw[:80]!a} has the character U+{ord(bad[0]):04X}, which cannot be shown; "
            "expected visible text"
        )
    name = unicodedata.normalize("NFC", without_invisible(raw))
    if not name:
        raise TaskRefusedError(
            "a class has an empty name" if not raw.strip() else f"the class name {raw[:80]!a} is invisible"
        )
    if len(name) > MAX_NAME_LENGTH:
        raise TaskRefusedError(
            f"the class name that begins {name[:40]!a} has {len(name)} characters; expected at most {MAX_NAME_LENGTH}"
        )
    return name


def clean_names(raw_names: Sequence[str]) -> Mapping[str, str]:
    """Map every raw name to its clean name. Raw names that look the same are one class.

    Raises:
        TaskRefusedError: a name is invalid, or two differ so little that they may be meant as one class.
    """
    cleaned = {raw: clean_name(raw) for raw in raw_names}
    seen: dict[str, str] = {}
    for name in cleaned.values():
        for look in looks(name):
            other = seen.setdefault(look, name)
            if other != name:
                raise TaskRefusedError(
                    f"the classes {other!a} and {name!a} differ {_DIFFERENCE}; are they one class? then give it one "
                    "name, else give them names that differ more"
                )
    return cleaned


def check_against_known(names: Iterable[str], known: Iterable[str], *, extend: bool) -> None:
    """Refuse names that are already known, unless `extend` is true.

    Raises:
        ClassExistsError: a class is known and `extend` is false, or a known class is spelled a little differently.
    """
    exact = set(known)
    by_look = {look: name for name in exact for look in looks(name)}
    for name in names:
        if name in exact:
            if not extend:
                raise ClassExistsError(
                    f"the class {name!r} is already known; send extend=true to teach more images of it"
                )
            continue
        similar = next((by_look[look] for look in looks(name) if look in by_look), None)
        if similar is not None:
            raise ClassExistsError(f"the class {name!a} differs from the known class {similar!a} {_DIFFERENCE}")
