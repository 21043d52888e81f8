"""Reads parquet files with the columns `image` and `label`, as Hugging Face ships them, in a process of its own."""

from __future__ import annotations

import json
import os
import select
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any, BinaryIO, Final

from app import spawner
from app.errors import ArchiveError, ArchiveTooLargeError
from app.intake.limits import IntakeLimits, Meter, always_wanted
from app.intake.source import Item
from exchange.contracts import PassedOver

COMMAND: Final = (sys.executable, "-P", "-m", "app.intake.parquet_child")
"""A new interpreter, not a fork of one with threads. -P: a folder `app` in the working directory is somebody else's."""
MEMORY_BYTES: Final = 160 * 1024 * 1024
"""What that process may allocate beside the loaded libraries."""
MAX_LABEL_CHARS: Final = 1000

_NEEDS: Final = f"needs more than {MEMORY_BYTES // 1024**2} MiB of memory to be read; write it in smaller pages"
_PIECE_BYTES: Final = 64 * 1024  # what a pipe holds
_LOOK_S: Final = 0.25
_LINE_SLACK: Final = 1024
_JSON_CHAR_BYTES: Final = 12  # an escaped pair of surrogates
_turn = threading.Lock()  # one such process at a time, for all uploads: their memory would add up


class ParquetSource:
    """A table of images: `image` is binary or a struct with `bytes`, `label` is text or an integer.

    Integers become the names that the file's Hugging Face schema gives them, else their decimal digits.

    Args:
        file: a file of the operating system's.

    Raises:
        ArchiveError: it is damaged, lacks one of the columns, or has them with other types.
        ArchiveTooLargeError: it has more rows or more unpacked bytes than allowed, or needs more memory to be read.
    """

    held_out_labels: tuple[str, ...] = ()
    test_labels: tuple[str, ...] = ()
    passed_over: tuple[PassedOver, ...] = ()
    passed_over_count = 0
    notes: tuple[str, ...] = ()

    def __init__(
        self, file: BinaryIO, archive_bytes: int, limits: IntakeLimits, check: Callable[[], None] = always_wanted
    ) -> None:
        self._limits = limits
        self._meter = Meter(limits.budget(archive_bytes), check)
        file.flush()
        allowed = {
            "memory_bytes": MEMORY_BYTES,
            "max_rows": limits.max_members,
            "max_classes": limits.max_classes,
            "max_label_chars": MAX_LABEL_CHARS,
            "max_image_bytes": limits.max_image_bytes,
            "max_unpacked_bytes": limits.budget(archive_bytes),
        }
        self._reader = _Reader(file.fileno(), allowed, check)
        try:
            most = _LINE_SLACK + limits.max_classes * (MAX_LABEL_CHARS * _JSON_CHAR_BYTES + 4)
            self.labels = tuple(self._reader.message(most)["labels"])
        except BaseException:
            self.close()
            raise

    def items(self) -> Iterator[Item]:
        row = 0
        while "end" not in (said := self._reader.message(_LINE_SLACK + MAX_LABEL_CHARS * _JSON_CHAR_BYTES)):
            row += 1
            where, label = f"row {row}", said["label"]
            data = None
            if "size" in said:
                self._meter.count(said["size"])
                data = self._reader.read(said["size"])
            if label is None:
                yield Item(where, None, None, "no label")
            elif data is not None:
                yield Item(where, label, data)
            elif "too_large" in said:
                most = self._limits.max_image_bytes
                yield Item(where, label, None, f"{said['too_large']} bytes; at most {most} per image are allowed")
            else:
                yield Item(where, label, None, "no image bytes; paths are not followed")

    def close(self) -> None:
        """End the process that reads the file."""
        self._reader.close()


class _Reader:
    """The process, and what it says. Waiting for it ends when the upload is no longer wanted."""

    def __init__(self, descriptor: int, allowed: Mapping[str, int], check: Callable[[], None]) -> None:
        self._check = check
        self._buffer = bytearray()
        while not _turn.acquire(timeout=_LOOK_S):
            check()
        try:
            self._process = _start(descriptor, allowed)
        except BaseException:
            _turn.release()
            raise
        self._has_turn = True
        self._pipe = self._process.stdout.fileno()
        self._poll = select.poll()
        self._poll.register(self._pipe, select.POLLIN)
        try:
            self._ready = False
            self._ready = bool(self.message(_LINE_SLACK)["ready"])
        except BaseException:
            self.close()
            raise

    def message(self, most: int) -> dict[str, Any]:
        """Return the next line.

        Raises:
            ArchiveError: the process refuses the file, or has ended.
        """
        while (end := self._buffer.find(b"\n")) < 0:
            assert len(self._buffer) <= most, "the process keeps its lines short"
            self._fill()
        said: dict[str, Any] = json.loads(self._buffer[:end])
        del self._buffer[: end + 1]
        if "refused" in said:
            if said["refused"] == "memory":
                raise ArchiveTooLargeError(f"the parquet file {_NEEDS}")
            kind = ArchiveTooLargeError if said["too_large"] else ArchiveError
            raise kind("".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in said["refused"]))
        return said

    def read(self, size: int) -> bytes:
        """Return the `size` bytes that follow a line."""
        parts: list[bytes] = []
        left = size
        while left:
            if not self._buffer:
                self._fill()
            parts.append(bytes(self._buffer[:left]))
            left -= len(parts[-1])
            del self._buffer[: len(parts[-1])]
        return b"".join(parts)  # which holds up no thread, as a buffer does that moves whenever it grows

    def close(self) -> None:
        self._process.close()
        if self._has_turn:
            self._has_turn = False
            _turn.release()

    def _fill(self) -> None:
        while not self._poll.poll(1000 * _LOOK_S):
            self._check()
        piece = os.read(self._pipe, _PIECE_BYTES)
        if piece:
            self._buffer += piece
        elif self._ready:
            raise ArchiveError(f"the parquet file is damaged, or {_NEEDS}")
        else:  # nothing of the file has been read yet: the fault is ours
            raise RuntimeError(f"the process that reads parquet files ended with status {self._process.wait()}")


def _start(descriptor: int, allowed: Mapping[str, int]) -> spawner.Process:
    return spawner.start(
        [*COMMAND, str(descriptor), json.dumps(allowed)],
        env=_environment(),
        pass_fds=[descriptor],
        quiet=True,  # a library that aborts says so there; names of the upload could be in it
    )


def _environment() -> dict[str, str]:
    """Return our environment, but for settings that make an allocator keep what it was given."""
    environment = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}
    return environment | {"ARROW_DEFAULT_MEMORY_POOL": "system", "MALLOC_ARENA_MAX": "1", "OMP_NUM_THREADS": "1"}
