"""The steady client: a process that asks for a picture's class all the time, and writes down how each request ended.

    python -m benchmarks.faults.client URL PICTURE RECORD PATIENCE_S

Requests start at a fixed rate, whatever became of those before. Three of four go over connections that are kept, the
fourth over one of its own, as clients of both habits do. A line of JSON is appended to RECORD for each answer, and one
every `BEAT_S` seconds that names the oldest request that still waits.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final, Self
from urllib.parse import urlsplit

from benchmarks.common.process import ROOT

PER_S: Final = 20
PATIENCE_S: Final = 25.0
"""Seconds after which a request without an answer has failed, at least: less than what the server allows itself."""
BEAT_S: Final = 0.25
KEPT: Final = 6
"""Connections that are kept open: enough that every server has some."""
_FRESH_EVERY: Final = 4


@dataclass(frozen=True)
class Asked:
    """One request: when it began (CLOCK_MONOTONIC), its seconds, and what was wrong with its answer, if anything."""

    at: float
    seconds: float
    why: str | None


class Steady:
    """The client's process, and what it has written so far.

    Args:
        url: the service's address.
        picture: what it asks about.
        folder: where it writes.
        patience_s: seconds that a request may take.
    """

    def __init__(self, url: str, picture: bytes, folder: Path, *, patience_s: float = PATIENCE_S) -> None:
        self._record = folder / "steady.jsonl"
        image = folder / "steady.png"
        image.write_bytes(picture)
        self._record.touch()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.faults.client", url, str(image), str(self._record), str(patience_s)],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
        )
        self._position = 0
        self._asked: list[Asked] = []
        self._beat = (0.0, 0.0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(PATIENCE_S)

    def between(self, begin: float, end: float) -> list[Asked]:
        """The requests that began in [begin, end) and have ended."""
        self._read()
        return [asked for asked in self._asked if begin <= asked.at < end]

    def settled(self, at: float) -> bool:
        """Whether all requests that began before `at` have ended.

        Raises:
            ClientError: the client itself has ended.
        """
        if self._process.poll() is not None:
            raise ClientError(f"the steady client ended with exit status {self._process.returncode}")
        self._read()
        beat, oldest = self._beat
        return beat > at and oldest > at

    def _read(self) -> None:
        with self._record.open("rb") as file:
            file.seek(self._position)
            lines = file.read().splitlines(keepends=True)
        for line in lines:
            if not line.endswith(b"\n"):
                break
            self._position += len(line)
            entry = json.loads(line)
            if "beat" in entry:
                self._beat = (entry["beat"], entry["oldest"])
            else:
                self._asked.append(Asked(**entry))


class ClientError(RuntimeError):
    """The steady client cannot do its work."""


# --- within the process -----------------------------------------------------------------------------------------------


class _Connection:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, host: str, port: int) -> Self:
        return cls(*await asyncio.open_connection(host, port))

    @property
    def usable(self) -> bool:
        """Whether the server has not closed it, as far as is known here."""
        return not self._reader.at_eof() and not self._writer.is_closing()

    async def ask(self, request: bytes) -> tuple[int, bytes]:
        """(status, body) of one request."""
        self._writer.write(request)
        await self._writer.drain()
        head = await self._reader.readuntil(b"\r\n\r\n")
        first, *lines = head.split(b"\r\n")
        headers = dict(line.lower().split(b": ", 1) for line in lines if b": " in line)
        body = await self._reader.readexactly(int(headers.get(b"content-length", b"0")))
        if headers.get(b"connection") == b"close":
            self.close()
        return int(first.split()[1]), body

    def close(self) -> None:
        self._writer.close()


class _Client:
    def __init__(self, url: str, picture: bytes, record: IO[str], patience_s: float) -> None:
        address = urlsplit(url)
        self._host, self._port = str(address.hostname), int(address.port or 80)
        self._request = classify_request(picture, f"{self._host}:{self._port}")
        self._record = record
        self._patience_s = patience_s
        self._idle: list[_Connection] = []
        self._busy = 0
        self._open: set[float] = set()

    async def run(self) -> None:
        begun = time.monotonic()
        tasks: set[asyncio.Task[None]] = set()
        beats = asyncio.create_task(self._beat())
        for number in range(sys.maxsize):
            await asyncio.sleep(max(0.0, begun + number / PER_S - time.monotonic()))
            tasks = {task for task in tasks if not task.done()}
            tasks.add(asyncio.create_task(self._one(fresh=number % _FRESH_EVERY == 0)))
            if beats.done():
                beats.result()

    async def _beat(self) -> None:
        while True:
            now = time.monotonic()
            self._write({"beat": now, "oldest": min(self._open, default=now)})
            await asyncio.sleep(BEAT_S)

    async def _one(self, *, fresh: bool) -> None:
        at = time.monotonic()
        while at in self._open:
            at += 1e-6
        self._open.add(at)
        why: str | None
        try:
            async with asyncio.timeout(self._patience_s):
                why = await self._ask(fresh=fresh)
        except TimeoutError:
            why = f"no answer in {self._patience_s:g} s"
        except (OSError, asyncio.IncompleteReadError) as error:
            why = f"{type(error).__name__}: {error}"
        self._open.discard(at)
        self._write({"at": at, "seconds": round(time.monotonic() - at, 4), "why": why})

    async def _ask(self, *, fresh: bool) -> str | None:
        self._idle = [connection for connection in self._idle if connection.usable]
        if fresh or not self._idle or len(self._idle) + self._busy < KEPT:
            connection = await _Connection.open(self._host, self._port)
        else:
            connection = self._idle.pop(0)
        self._busy += not fresh
        try:
            status, body = await connection.ask(self._request)
        except BaseException:
            connection.close()
            raise
        finally:
            self._busy -= not fresh
        if fresh or len(self._idle) >= KEPT:
            connection.close()
        else:
            self._idle.append(connection)
        return wrong_with(status, body)

    def _write(self, entry: dict[str, Any]) -> None:
        self._record.write(json.dumps(entry) + "\n")
        self._record.flush()


def classify_request(picture: bytes, host: str) -> bytes:
    """One picture as a form, ready to be sent."""
    mark = "steady-client-boundary"
    body = (
        f'--{mark}\r\nContent-Disposition: form-data; name="images"; filename="steady.png"\r\n\r\n'.encode()
        + picture
        + f"\r\n--{mark}--\r\n".encode()
    )
    head = (
        f"POST /v1/classify?top_k=1 HTTP/1.1\r\nHost: {host}\r\n"
        f"Content-Type: multipart/form-data; boundary={mark}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def wrong_with(status: int, body: bytes) -> str | None:
    """What is wrong with an answer to `classify_request`; None if it names a class."""
    if status != 200:
        return f"{status} {body[:160].decode(errors='replace')}"
    try:
        (result,) = json.loads(body)["results"]
        answered = bool(result["predictions"]) and result["error"] is None
    except (ValueError, KeyError, TypeError):
        answered = False
    return None if answered else f"200 without a class: {body[:160].decode(errors='replace')}"


def _go_first() -> None:
    """Wait for no core: a client has a machine of its own, and what is measured is the service's time, not its own."""
    with contextlib.suppress(OSError, AttributeError):  # only root may, and not on every system
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))


def main() -> None:
    """Ask until a signal ends it, or the process that started it is gone."""
    url, picture, record, patience_s = sys.argv[1:]
    parent = os.getppid()
    _go_first()

    async def until_orphaned() -> None:
        with Path(record).open("a", encoding="utf-8") as file:
            asking = asyncio.create_task(_Client(url, Path(picture).read_bytes(), file, float(patience_s)).run())
            while os.getppid() == parent and not asking.done():
                await asyncio.sleep(1)
            asking.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await asking

    asyncio.run(until_orphaned())


if __name__ == "__main__":
    main()
