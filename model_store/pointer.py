"""CURRENT, the one pointer to the version that is served. Needs no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from model_store import policy
from model_store.types import DamagedPointerError, VersionId

POINTER_FILE: Final = "CURRENT"
_MAX_BYTES: Final = 256  # more than any version id


def read_pointer(path: Path) -> VersionId | None:
    """Return the version that a pointer file names; None if there is no file.

    Raises:
        DamagedPointerError: it cannot be read, or does not hold a version id.
    """
    try:
        with path.open("rb") as pointer:
            text = pointer.read(_MAX_BYTES).decode(errors="replace").removesuffix("\n")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise DamagedPointerError(f"{path} cannot be read: {error.strerror}; roll back to a named version") from error
    if not policy.is_version_id(text):
        raise DamagedPointerError(f"{path} holds {text[:80]!r}, expected a version id; roll back to a named version")
    return text
