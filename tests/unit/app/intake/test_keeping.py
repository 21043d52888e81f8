from __future__ import annotations

import errno

import pytest

from app.errors import SpoolFullError, SpoolUnusableError
from app.intake.keeping import keeping


@pytest.mark.parametrize(
    ("error", "becomes"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), SpoolFullError),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), SpoolFullError),
        (OSError(errno.EROFS, "Read-only file system"), SpoolUnusableError),
        (FileNotFoundError(errno.ENOENT, "No such file or directory"), SpoolUnusableError),
        (PermissionError(errno.EACCES, "Permission denied"), SpoolUnusableError),
        (ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"), ConnectionResetError),
        (TimeoutError(), TimeoutError),
        (ValueError("no"), ValueError),
    ],
)
def test_what_the_system_says_of_the_spool_is_told_as_such(error: Exception, becomes: type[Exception]) -> None:
    with pytest.raises(becomes), keeping():
        raise error
