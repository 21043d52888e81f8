"""Clients that misbehave among clients that do not: hang up without a word, send slowly, send what is no form."""

from __future__ import annotations

import asyncio
import collections
import json
import random
import socket
import struct
from collections.abc import Sequence
from typing import Any, Final

from benchmarks.serving.child import say
from benchmarks.serving.wire import Connection, Shape

CLASSIFY: Final = Shape(path="/v1/classify?top_k=1", style="multipart")
HEALTHY: Final = "healthy"
MISDEEDS: Final = ("reset_mid_body", "reset_after_sending", "slow_body", "no_form", "cut_form", "wrong_field")
EXPECTED: Final[dict[str, tuple[int, ...]]] = {
    HEALTHY: (200,),
    "slow_body": (200,),
    "no_form": (400, 415, 422),
    "cut_form": (400, 422),
    "wrong_field": (422,),
}
"""Statuses that a kind of request may be answered with; kinds that hang up have none."""

_SLOW_PIECES: Final = 5
_SLOW_S: Final = 1.0
_PATIENCE_S: Final = 60.0


def plan(requests: int, share: float, seed: int) -> list[str]:
    """What each request does: `share` of them a misdeed, each kind as often as the others, in random order."""
    bad = round(requests * share)
    kinds = [MISDEEDS[i % len(MISDEEDS)] for i in range(bad)] + [HEALTHY] * (requests - bad)
    random.Random(seed).shuffle(kinds)
    return kinds


async def abuse(
    photos: Sequence[bytes], *, port: int, requests: int, share: float, clients: int, seed: int = 0
) -> dict[str, Any]:
    """Send `requests` requests from `clients` clients; how many of each kind were answered how.

    Returns:
        `answers`: counts by kind and status ("0": the connection broke, "hung up": so it was meant, "timeout");
        `wrong`: those that are not as `EXPECTED`.
    """
    work = list(reversed(plan(requests, share, seed)))
    answers: collections.Counter[tuple[str, str]] = collections.Counter()

    async def client(number: int) -> None:
        connection = Connection(port)
        while work:
            kind, photo = work.pop(), photos[len(work) % len(photos)]
            try:
                async with asyncio.timeout(_PATIENCE_S):
                    if kind == HEALTHY:
                        status = str((await connection.ask(CLASSIFY.request([photo])))[0])
                    else:
                        status = await misdeed(kind, port, photo)
            except TimeoutError:
                status = "timeout"
                connection.close()
                connection = Connection(port)
            answers[kind, status] += 1
            if sum(answers.values()) % 500 == 0:
                say(event=f"{sum(answers.values())} of {requests} requests")
        connection.close()

    await asyncio.gather(*(client(number) for number in range(clients)))
    table: dict[str, dict[str, int]] = {}
    for (kind, status), count in sorted(answers.items()):
        table.setdefault(kind, {})[status] = count
    return {"answers": table, "wrong": wrong(table)}


def wrong(table: dict[str, dict[str, int]]) -> int:
    """How many requests were not answered as their kind should be."""
    return sum(
        count
        for kind, statuses in table.items()
        if kind in EXPECTED
        for status, count in statuses.items()
        if status not in {str(allowed) for allowed in EXPECTED[kind]}
    )


async def misdeed(kind: str, port: int, photo: bytes) -> str:
    """Carry out one misdeed on a connection of its own; the status that came back, or `hung up`."""
    request = _request(kind, photo)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        if kind.startswith("reset"):
            writer.write(request[: len(request) // 2] if kind == "reset_mid_body" else request)
            await writer.drain()
            if kind == "reset_after_sending":
                await asyncio.sleep(0.02)
            _reset(writer)
            return "hung up"
        pieces = _SLOW_PIECES if kind == "slow_body" else 1
        for i in range(pieces):
            writer.write(request[i * len(request) // pieces : (i + 1) * len(request) // pieces])
            await writer.drain()
            if pieces > 1:
                await asyncio.sleep(_SLOW_S / pieces)
        line = await reader.readline()
        words = line.split()
        return words[1].decode() if len(words) > 1 else "0"
    except OSError:
        return "0"
    finally:
        writer.close()


def _request(kind: str, photo: bytes) -> bytes:
    if kind == "wrong_field":
        return CLASSIFY.model_copy(update={"field": "pictures"}).request([photo])
    whole = CLASSIFY.request([photo])
    if kind == "no_form":
        return whole.replace(b"multipart/form-data; boundary=keepsightbenchmark", b"multipart/form-data", 1)
    if kind == "cut_form":
        head, _, body = whole.partition(b"\r\n\r\n")
        cut = body[: len(body) // 2]
        return head.replace(b"Content-Length: %d" % len(body), b"Content-Length: %d" % len(cut)) + b"\r\n\r\n" + cut
    return whole


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close with RST instead of FIN, as a machine does that lost its program."""
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


def eight_with_one_bad(photos: Sequence[bytes]) -> bytes:
    """A request with eight images, the fourth of which is none."""
    images = [photos[i % len(photos)] for i in range(8)]
    images[3] = b"this is no image at all"
    return CLASSIFY.request(images)


def seven_right_one_error(status: int, body: bytes) -> bool:
    """Whether the answer to `eight_with_one_bad` has seven predictions and one clear error in its place."""
    if status != 200:
        return False
    results = json.loads(body)["results"]
    good = [bool(result["predictions"]) and result["error"] is None for result in results]
    error = results[3]["error"] or {}
    return (
        len(results) == 8 and good == [i != 3 for i in range(8)] and error.get("type", "").endswith("undecodable-image")
    )
