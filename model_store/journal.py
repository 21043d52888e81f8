"""journal.jsonl: one line per action, appended under the store's lock."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from model_store.disk import Disk
from model_store.types import JournalEntry, StoreError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Journal:
    """The content of a journal. `damaged` are the numbers (from 1) of unreadable lines; `size` is its length in bytes.

    A last line without its newline was cut off by a crash. Its action did not happen, or the next change to the store
    explains it (see `policy.unexplained`), so it is neither an entry nor damaged, and `size` does not include it.
    """

    entries: tuple[JournalEntry, ...]
    damaged: tuple[int, ...]
    size: int


def read_journal(path: Path) -> Journal:
    """Read the journal at `path`; a missing file is an empty journal. Damaged lines are logged and left out.

    Raises:
        StoreError: the file cannot be read.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return Journal((), (), 0)
    except OSError as error:
        raise StoreError(f"{path} cannot be read: {error.strerror}") from error
    whole = data[: data.rfind(b"\n") + 1]
    entries: list[JournalEntry] = []
    damaged: list[int] = []
    for number, line in enumerate(whole.split(b"\n")[:-1], start=1):
        try:
            entries.append(JournalEntry.model_validate_json(line))
        except ValidationError:
            damaged.append(number)
    if damaged:
        logger.warning("%s: lines %s cannot be read and are left out", path, damaged)
    return Journal(tuple(entries), tuple(damaged), len(whole))


def append_journal(disk: Disk, path: Path, entries: Iterable[JournalEntry], *, at: int) -> int:
    """Write entries at byte `at`, over a cut-off line if there is one, and sync them to disk.

    Returns:
        The journal's new size in bytes.

    Raises:
        OSError: not written; the journal ends at byte `at` as before.
    """
    data = b"".join(entry.model_dump_json(by_alias=True).encode() + b"\n" for entry in entries)
    if data:
        disk.append(path, data, at=at)
    return at + len(data)
