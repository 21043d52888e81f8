"""Which characters of a name can be seen, and what two names look like when they are compared."""

from __future__ import annotations

import re
import unicodedata

import idna

_ZWNJ, _ZWJ = "\u200c", "\u200d"
_VIRAMA = 9
"""The combining class of the signs that join consonants in the scripts of India."""
_REPEATED_JOINER = re.compile(f"([{_ZWNJ}{_ZWJ}])\\1+")
_TAGS = re.compile("[\U000e0000-\U000e007f]+")
_FLAG = re.compile("\U0001f3f4[\U000e0020-\U000e007e]{2,6}\U000e007f")
_BLANK = frozenset("\u2800\u3164\uffa0\u115f\u1160")  # drawn as nothing, though they count as letters or symbols
_IGNORABLE = frozenset("\u034f\u17b4\u17b5\u2065\ufffc")  # of other categories than Cf
_UNASSIGNED_IGNORABLE = re.compile("[\ufff0-\ufff8\U000e0080-\U000e00ff\U000e01f0-\U000e0fff]")
_DRAWN = frozenset("\u06dd\u070f\u0890\u0891\u08e2\U000110bd\U000110cd")  # of category Cf, and yet visible
_LOOKALIKES = {
    **dict(zip("АВЕЅІЈКМНОРСТУХ", "ABESIJKMHOPCTYX", strict=True)),
    **dict(zip("аеіјорсухѕһԁԛԝ", "aeijopcyxshdqw", strict=True)),
    **dict(zip("ΑΒΕΖΗΙΚΜΝΟΡΤΥΧο", "ABEZHIKMNOPTYXo", strict=True)),
}


def is_refused(char: str) -> bool:
    """Return whether a character has no place in a name: control, surrogate, private use, override, or undecodable."""
    if unicodedata.category(char) in ("Cc", "Cs", "Co", "Zl", "Zp"):
        return True
    code = ord(char)
    noncharacter = code & 0xFFFE == 0xFFFE or 0xFDD0 <= code <= 0xFDEF
    return noncharacter or 0x202A <= code <= 0x202E or 0x2066 <= code <= 0x2069 or char == "\ufffd"


def without_invisible(name: str) -> str:
    """Return a name without the characters that change nothing that is seen, and with single spaces.

    Joiners stay where a script or an emoji needs them, variation selectors behind what they vary, and tags in flags.
    """
    name = "".join(" " if char.isspace() or char in _BLANK else char for char in name if not _is_ignorable(char))
    flags = {at for flag in _FLAG.finditer(name) for at in range(*flag.span())}
    name = "".join(char for at, char in enumerate(name) if at in flags or not _TAGS.match(char))
    name = _REPEATED_JOINER.sub(r"\1", name)
    name = "".join(char for at, char in enumerate(name) if char not in (_ZWNJ, _ZWJ) or _joins(name, at))
    name = "".join(char for at, char in enumerate(name) if not _is_selector(char) or _varies(name, at))
    return " ".join(name.split())


def looks(name: str) -> frozenset[str]:
    """Return what a name looks like. Two that share one of these differ by no more than case, width or lookalikes."""
    # _ is read as a space in prompts, so two such names are one to the text tower
    plain = unicodedata.normalize("NFKC", without_invisible(name)).replace("_", " ")
    plain = "".join(char for char in plain if not _is_selector(char))
    latin = "".join(_LOOKALIKES.get(char, char) for char in plain)
    return frozenset(
        " ".join(unicodedata.normalize("NFC", text.casefold()).split()).rstrip(". ") for text in (plain, latin)
    )


def _is_ignorable(char: str) -> bool:
    if char in (_ZWNJ, _ZWJ) or _TAGS.match(char):
        return False
    if unicodedata.category(char) != "Cf":
        return char in _IGNORABLE or _UNASSIGNED_IGNORABLE.match(char) is not None
    return not (char in _DRAWN or "\u0600" <= char <= "\u0605" or "\U00013430" <= char <= "\U0001343f")


def _is_selector(char: str) -> bool:
    return "\ufe00" <= char <= "\ufe0f" or "\U000e0100" <= char <= "\U000e01ef" or char in "\u180b\u180c\u180d\u180f"


def _joins(name: str, at: int) -> bool:
    """Return whether the joiner at this place changes how its neighbours are drawn."""
    before = next((char for char in reversed(name[:at]) if not _is_selector(char)), None)
    after = name[at + 1] if at + 1 < len(name) else None
    if before is None or after is None:
        return False
    if name[at] == _ZWJ:
        if unicodedata.combining(after) == _VIRAMA and before.isalpha():
            return True
        if _is_emoji(before) and _is_emoji(after):
            return True
    try:
        return idna.valid_contextj(name, at)
    except ValueError:  # beside a character that this Python's Unicode does not know
        return False


def _is_emoji(char: str) -> bool:
    # those that are newer than this Python's Unicode are unassigned to it
    return unicodedata.category(char) in ("So", "Sk") or ("\U0001f000" <= char <= "\U0001faff")


def _varies(name: str, at: int) -> bool:
    """Return whether the variation selector at this place may change how the character before it is drawn."""
    if at == 0:
        return False
    before = name[at - 1]
    if before in "0123456789#*":
        return name[at + 1 : at + 2] == "\u20e3"  # a keycap
    return _is_emoji(before) or unicodedata.category(before) in ("Lo", "Sm") or before in "©®‼⁉™"
