"""Files that only this user may read: the mode of new files, folders of ours, and where the broker's socket lies."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from keepsight.local.errors import StartError

UMASK = "KEEPSIGHT_UMASK"
DEFAULT_UMASK = "077"
LONGEST_SOCKET_PATH = 100
"""In bytes. The kernel's own limit is 107 (Linux) or 103 (macOS)."""


@contextmanager
def private_files() -> Iterator[None]:
    """Let what is written within the block, and by processes that are started in it, be for this user only.

    `KEEPSIGHT_UMASK` names another umask, for folders that several users share.

    Raises:
        StartError: it is not an octal number.
    """
    asked = os.environ.get(UMASK) or DEFAULT_UMASK
    try:
        before = os.umask(int(asked, 8))
    except ValueError as error:
        raise StartError(f"{UMASK} is {asked!r}, expected an octal number such as 077") from error
    try:
        yield
    finally:
        os.umask(before)


def private_folder(folder: Path) -> None:
    """Make a folder that only this user may enter, or take this from the others.

    Raises:
        PermissionError: it belongs to somebody else.
        OSError: it cannot be made.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = folder.lstat()  # of a link itself: whoever may move the link decides where it leads
    if status.st_uid != os.geteuid() and os.geteuid() != 0:
        raise PermissionError(f"{folder} belongs to another user (uid {status.st_uid})")
    if stat.S_IMODE(status.st_mode) & 0o077:
        folder.chmod(0o700)


@contextmanager
def socket_address(folder: Path) -> Iterator[Path]:
    """Return where the broker's socket lies: in `folder`, or elsewhere while the block lasts if that path is too long.

    The kernel's limit on the path of a socket is about a hundred bytes.
    """
    address = folder / "broker.sock"
    if len(os.fsencode(address)) <= LONGEST_SOCKET_PATH:
        yield address
        return
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    where = runtime if runtime and len(os.fsencode(runtime)) < LONGEST_SOCKET_PATH - 40 else None
    with tempfile.TemporaryDirectory(prefix="keepsight-", dir=where, ignore_cleanup_errors=True) as made:
        yield Path(made) / "broker.sock"


def socket_url(address: Path) -> str:
    """Return the address of a unix socket as redis-py reads it."""
    return f"unix://{quote(str(address))}?db=0"
