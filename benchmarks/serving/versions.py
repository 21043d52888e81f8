"""Keepsight's own routes as the benchmark uses them: moving the pointer, and which process serves what."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from typing import Any, Final

from benchmarks.serving.servers import Server, ServerError

_ALL_S: Final = 60.0
_POLL_S: Final = 0.02


@dataclass(frozen=True)
class Move:
    """One promote or rollback, in seconds of the monotonic clock; `commit_s` and `prepare_s` are the server's words."""

    kind: str
    to: str
    begin: float
    answered: float
    all_serving: float
    prepare_s: float | None
    commit_s: float | None

    @property
    def wall_s(self) -> float:
        """From the call until all processes served it."""
        return self.all_serving - self.begin

    def as_record(self) -> dict[str, Any]:
        """For the record, as JSON."""
        return {**asdict(self), "wall_s": self.wall_s}


def living(server: Server) -> list[dict[str, Any]]:
    """What each process serves, as the rollout tells; those that have been given up are left out.

    Raises:
        ServerError: the server does not tell.
    """
    status, body = server.get("/v1/admin/rollout")
    if status != 200:
        raise ServerError(f"{server.name}: /v1/admin/rollout answered {status}: {body[:300].decode(errors='replace')}")
    return [process for process in json.loads(body)["processes"] if process.get("state") != "dead"]


def serving(server: Server) -> list[str | None]:
    """The versions of the processes that have not been given up."""
    return [process["serving"] for process in living(server)]


def move(server: Server, kind: str, to: str) -> Move:
    """Promote or roll back to a version, and wait until every process serves it.

    Raises:
        ServerError: it is refused, or not all processes follow in time.
    """
    begin = time.monotonic()
    status, answer = server.post(f"/v1/admin/{kind}", {"version_id": to, "reason": "measured"})
    answered = time.monotonic()
    if status != 200:
        raise ServerError(f"{kind} to {to} was answered {status}: {answer}")
    done = answered  # if the first look finds all of them there, they were there when the answer came
    while set(serving(server)) != {to}:
        time.sleep(_POLL_S)
        done = time.monotonic()
        if done - answered > _ALL_S:
            raise ServerError(f"{to} is not served by all processes {_ALL_S:g} s after the answer: {serving(server)}")
    return Move(kind, to, begin, answered, done, answer.get("prepare_s"), answer.get("commit_s"))


def api_pids(server: Server, expected: int, *, timeout_s: float = _ALL_S) -> list[int]:
    """The server processes, once all of them serve.

    The port is answered as soon as the first of several is ready, so the others are waited for.

    Raises:
        ServerError: after `timeout_s` they are not as many as expected.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        pids = [int(process["pid"]) for process in living(server) if process["serving"] is not None]
        if len(pids) == expected:
            return pids
        if time.monotonic() > deadline:
            raise ServerError(f"expected {expected} server processes, found {len(pids)}")
        time.sleep(0.2)
