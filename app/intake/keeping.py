"""What becomes of the system's errors while an upload is written down."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from app.errors import SpoolFullError, SpoolUnusableError

_FULL = (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def keeping() -> Iterator[None]:
    """Convert the system's errors to those of the spool. Lost connections and time-outs are not the spool's.

    Raises:
        SpoolFullError: no space or quota is left.
        SpoolUnusableError: the spool is read-only, gone or damaged, or a limit of the process is reached.
    """
    try:
        yield
    except (ConnectionError, TimeoutError):
        raise
    except OSError as error:
        if error.errno in _FULL:
            raise SpoolFullError("the spool's disk is full; nothing of the upload was kept") from error
        why = error.strerror or type(error).__name__
        raise SpoolUnusableError(f"the upload cannot be written down ({why}); nothing of it was kept") from error
