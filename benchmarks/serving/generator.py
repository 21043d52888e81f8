"""`python -m benchmarks.serving.generator`: the load, in a process of its own that is told what to do by JSON lines.

A closed loop: each client asks, waits for the answer and asks again. Images are taken in the order of the files' names.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.serving.abuse_client import abuse
from benchmarks.serving.child import say
from benchmarks.serving.counting import evenly
from benchmarks.serving.wire import Connection, Shape

OK = 200
PICTURES = (".jpg", ".bmp")


class Load:
    """So many clients that ask one server until they are told to stop: without pause, or `per_s` requests together."""

    def __init__(self, port: int, requests: Sequence[bytes], clients: int, *, per_s: float | None = None) -> None:
        self._port = port
        self._requests = requests
        self._clients = clients
        self._pause_s = None if per_s is None else clients / per_s
        self._order: Iterator[int] = itertools.cycle(range(len(requests)))
        self._stopping = False
        self.log: list[tuple[float, float, int, int, bytes]] = []
        """(begin, end, status, place of the request, body) of every answer; seconds of the monotonic clock."""

    async def run(self, *, keep_bodies: bool = False) -> None:
        """Ask until `stop` is called; what is under way then is waited for."""
        await asyncio.gather(*(self._client(keep_bodies) for _ in range(self._clients)))

    def stop(self) -> None:
        """Ask no more."""
        self._stopping = True

    async def _client(self, keep_bodies: bool) -> None:
        connection = Connection(self._port)
        due = time.monotonic() + (0.0 if self._pause_s is None else random.uniform(0, self._pause_s))
        while not self._stopping:
            if self._pause_s is not None:
                await asyncio.sleep(max(0.0, due - time.monotonic()))
                due += self._pause_s
            place = next(self._order)
            begun = time.monotonic()
            status, body = await connection.ask(self._requests[place])
            self.log.append((begun, time.monotonic(), status, place, body if keep_bodies or status != OK else b""))
            if status == 0:
                await asyncio.sleep(0.01)  # a server that is gone must not make this a busy loop
        connection.close()


async def window(load: Load, *, warm_s: float, measure_s: float) -> dict[str, Any]:
    """Load a server for `warm_s`, then count the answers that arrive during `measure_s`.

    Events `begin` and `end` are said when counting begins and ends, so that others can read the CPU's clocks then.
    """
    running = asyncio.create_task(load.run())
    await asyncio.sleep(warm_s)
    say(event="begin")
    begin, cpu = time.monotonic(), time.process_time()
    await asyncio.sleep(measure_s)
    end, cpu_s = time.monotonic(), time.process_time() - cpu
    say(event="end")
    load.stop()
    await running
    inside = [entry for entry in load.log if begin < entry[1] <= end]
    answered = [entry for entry in inside if entry[2] == OK]
    failed = [entry for entry in inside if entry[2] != OK]
    return {
        "seconds": end - begin,
        "answered": len(answered),
        "evenly": evenly([entry[1] for entry in load.log if entry[2] == OK], begin, end),
        "failed": len(failed),
        "first_failure": f"{failed[0][2]}: {failed[0][4][:300].decode(errors='replace')}" if failed else None,
        "latencies_ms": [round(1000 * (entry[1] - entry[0]), 2) for entry in answered],
        "client_cpu_s": cpu_s,
    }


class Generator:
    """Carries out one command after another; `soak` goes on in the background until `stop`."""

    def __init__(self, photos: Sequence[bytes]) -> None:
        self._photos = photos
        self._soak: tuple[Load, asyncio.Task[None], Path] | None = None
        self._ready: dict[tuple[str, int, int], list[bytes]] = {}

    async def do(self, command: dict[str, Any]) -> dict[str, Any]:
        """The answer to one command."""
        kind = command["op"]
        if kind == "abuse":
            return await abuse(self._photos, **{k: v for k, v in command.items() if k != "op"})
        if kind == "stop":
            return await self._stop()
        requests = self._requests(
            Shape.model_validate(command["shape"]), command.get("photos"), command.get("group", 1)
        )
        if kind == "ask":
            return await self._ask(command["port"], requests)
        if kind == "soak":
            load = Load(command["port"], self._mixed(command), command["clients"])
            self._soak = (load, asyncio.create_task(load.run(keep_bodies=True)), Path(command["out"]))
            return {}
        load = Load(command["port"], requests, command["clients"], per_s=command.get("per_s"))
        return await window(load, warm_s=command["warm_s"], measure_s=command["measure_s"])

    def _requests(self, shape: Shape, photos: int | None, group: int) -> list[bytes]:
        """A request for each photo; with `group`, for each run of so many."""
        count = len(self._photos) if photos is None else photos
        key = (shape.model_dump_json(), count, group)
        if key not in self._ready:
            self._ready[key] = [
                shape.request([self._photos[(place + i) % count] for i in range(group)]) for place in range(count)
            ]
        return self._ready[key]

    def _mixed(self, command: dict[str, Any]) -> list[bytes]:
        """Single images, and every fifth request one of four that follow each other."""
        shape, photos = Shape.model_validate(command["shape"]), command["photos"]
        single, four = self._requests(shape, photos, 1), self._requests(shape, photos, 4)
        return [four[i] if is_four(i) else single[i] for i in range(photos)]

    async def _ask(self, port: int, requests: Sequence[bytes]) -> dict[str, Any]:
        connection = Connection(port)
        answers = [await connection.ask(request) for request in requests]
        connection.close()
        return {"answers": [{"status": status, "body": body.decode()} for status, body in answers]}

    async def _stop(self) -> dict[str, Any]:
        assert self._soak is not None, "stop follows soak"
        load, running, out = self._soak
        load.stop()
        await running
        lines = (
            json.dumps(
                {"begin": begin, "end": end, "status": status, "place": place, "body": body.decode("utf-8", "replace")}
            )
            for begin, end, status, place, body in load.log
        )
        out.write_text("\n".join(lines) + "\n")
        self._soak = None
        return {"requests": len(load.log)}


def is_four(place: int) -> bool:
    """Whether the mixed load's request at this place holds four images."""
    return place % 5 == 4


def photos_of(requests_place: int, photos: int) -> list[int]:
    """Which photos the mixed load's request at a place holds, of so many."""
    return [(requests_place + i) % photos for i in range(4 if is_four(requests_place) else 1)]


async def serve(folder: Path) -> None:
    """Read commands from stdin until it ends."""
    generator = Generator([path.read_bytes() for path in sorted(folder.iterdir()) if path.suffix in PICTURES])
    reader = asyncio.StreamReader(limit=1 << 24)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        try:
            say(done=await generator.do(json.loads(line)))
        except Exception as error:  # the loop's edge: whoever gave the command is told
            say(error=f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    import uvloop

    uvloop.run(serve(Path(sys.argv[1])))
