"""The servers of a store and its last rollout, as recorded in Redis.

Nothing here decides what is served: the store's CURRENT does. If all of it is lost, every server still follows
CURRENT, and reports again.
"""

from __future__ import annotations

import json
from typing import Final, Literal
from uuid import uuid4

from pydantic import BaseModel, ConfigDict, Field

from exchange.contracts import CURRENT_CHANNEL
from exchange.redis_client import RedisClient, reaching

FORGET_MS: Final = 3_600_000
"""Milliseconds after which a silent server is no longer listed."""

ServerState = Literal["starting", "serving", "loading", "ready", "refused", "behind"]
"""The state that a server reports.

`starting`: it has nothing to serve yet. `loading`: it loads a version. `ready`: it has prepared the version that
CURRENT is about to move to. `refused`: it cannot serve that version. `behind`: it cannot serve CURRENT.
"""


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")  # a newer release may report fields that are unknown here


class ServerFigures(_Record):
    """What a server has done since its start. `latency` counts requests that took at most each of the bounds, and all.

    `answers` are images that were answered, with `probability_sum` of their best labels. Of those about which the
    version can tell, `unknown` look like no class, and `known` like one.
    """

    requests: int
    latency_bounds_s: tuple[float, ...]
    latency: tuple[int, ...]
    in_hand: int
    queue: int
    answers: int
    probability_sum: float
    unknown: int
    known: int


class ServerReport(_Record):
    """What a server process reports of itself. `answered` is the id of the last move that it prepared or refused."""

    id: str
    host: str
    pid: int
    device: str
    serving: str | None
    prepared: str | None = None
    state: ServerState
    answered: str | None = None
    reason: str | None = None
    figures: ServerFigures | None = None


class SeenServer(_Record):
    """A report, and for how many seconds its server has been silent, by the broker's clock.

    While the broker itself could not be reached or written, no server was silent.
    """

    report: ServerReport
    seen_s: float


class Move(_Record):
    """One rollout's move of CURRENT. `members` are the servers that were ready when it was committed."""

    id: str
    version_id: str
    state: Literal["preparing", "committed", "abandoned"]
    members: tuple[str, ...] = Field(default=())


class Roster(RedisClient):
    """The servers of one store. Thread-safe; every method may raise `BrokerUnavailableError`.

    Args:
        redis_url: `redis://host:port/db`.
        store_id: the store's `identity()`.
        timeout_s: seconds to wait for a connection or an answer.
    """

    def __init__(self, redis_url: str, store_id: str, *, timeout_s: float = 3.0) -> None:
        super().__init__(redis_url, timeout_s=timeout_s)
        prefix = f"keepsight:store:{store_id}"
        self._servers, self._beats = f"{prefix}:servers", f"{prefix}:beats"
        self._move, self._turn, self._members = f"{prefix}:move", f"{prefix}:turn", f"{prefix}:members"
        self._back = f"{prefix}:back"

    # --- a server's side ------------------------------------------------------------------------------------------

    def report(self, report: ServerReport, *, after_failure: bool = False) -> Move | None:
        """Store this server's report and return the last move.

        `after_failure`: its last report did not reach the broker. Then those of the others did not either, and their
        silence is counted from now on.
        """
        keys = [self._servers, self._beats, self._move, self._back]
        raw = self._script(
            _REPORT, keys, [report.id, report.model_dump_json(), str(FORGET_MS), "1" if after_failure else "0"]
        )
        return Move.model_validate_json(raw) if raw else None

    def leave(self, server_id: str) -> None:
        """Remove a server that has ended, so that no rollout waits for it."""
        with reaching():
            self._redis.hdel(self._servers, server_id)
            self._redis.hdel(self._beats, server_id)

    def members(self, version_id: str) -> tuple[str, ...] | None:
        """Return the servers that were ready when CURRENT last moved to this version; None if none was known.

        Later moves that failed do not change it.
        """
        with reaching():
            raw = self._redis.hget(self._members, version_id)
        return None if raw is None else tuple(json.loads(str(raw)))

    def move(self) -> Move | None:
        """Return the last move, running or ended."""
        with reaching():
            raw = self._redis.get(self._move)
        return Move.model_validate_json(str(raw)) if raw else None

    # --- the mover's side -----------------------------------------------------------------------------------------

    def servers(self) -> list[SeenServer]:
        """Return all servers that reported within the last hour, by id."""
        rows = json.loads(self._script(_SERVERS, [self._servers, self._beats, self._back], [str(FORGET_MS)]))
        seen = [SeenServer(report=ServerReport.model_validate_json(raw), seen_s=ms / 1000) for raw, ms in rows]
        return sorted(seen, key=lambda server: server.report.id)

    def begin(self, version_id: str, *, hold_s: float) -> Move | None:
        """Ask all servers to prepare a version. Return None if another move is running.

        The turn ends `hold_s` after it was begun or last renewed, so that a mover that died or was stopped frees it.
        """
        move = Move(id=uuid4().hex, version_id=version_id, state="preparing")
        keys = [self._turn, self._move]
        begun = self._script(_BEGIN, keys, [move.id, str(int(hold_s * 1000)), move.model_dump_json(), CURRENT_CHANNEL])
        return move if begun == "begun" else None

    def renew(self, move: Move, *, hold_s: float) -> bool:
        """Keep the turn for `hold_s` from now on. Return False if it was lost, because it was not renewed in time."""
        keys = [self._turn, self._move]
        return self._script(_RENEW, keys, [move.id, str(int(hold_s * 1000))]) == "renewed"

    def commit(self, move: Move, members: tuple[str, ...] | None) -> bool:
        """Record which servers are ready, before CURRENT moves. Return False, recording nothing, if the move ended.

        None: no server is known, as when the broker has just lost its data. Then none is left out either.
        """
        committed = move.model_copy(update={"state": "committed", "members": members or ()})
        return self._end(committed, last=False, members="" if members is None else json.dumps(members))

    def end(self, move: Move, *, abandoned: bool) -> None:
        """End a move, so that the next can begin; if CURRENT did not move, tell the servers to drop the version."""
        self._end(move.model_copy(update={"state": "abandoned"}) if abandoned else None, last=True, move_id=move.id)

    def wake(self, version_id: str) -> None:
        """Make all servers read CURRENT now."""
        with reaching():
            self._redis.publish(CURRENT_CHANNEL, version_id)

    def _end(self, move: Move | None, *, last: bool, move_id: str = "", members: str = "") -> bool:
        arguments = [move.id if move else move_id, move.model_dump_json() if move else "", "1" if last else "0"]
        arguments += [CURRENT_CHANNEL, move.version_id if move else "", members]
        return self._script(_SAY, [self._turn, self._move, self._members], arguments) == "said"


# KEYS: servers, beats, move, back. ARGV: id, report, milliseconds to keep, '1' if the last report failed
_REPORT: Final = """
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
redis.call('HSET', KEYS[2], ARGV[1], now)
if ARGV[4] == '1' then redis.call('SET', KEYS[4], now, 'PX', ARGV[3]) end
redis.call('PEXPIRE', KEYS[1], ARGV[3])
redis.call('PEXPIRE', KEYS[2], ARGV[3])
return redis.call('GET', KEYS[3]) or ''
"""

# KEYS: servers, beats, back. ARGV: milliseconds to keep
_SERVERS: Final = """
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local back = tonumber(redis.call('GET', KEYS[3]) or '0')
local rows = {}
local beats = redis.call('HGETALL', KEYS[2])
for i = 1, #beats, 2 do
  local age = now - tonumber(beats[i + 1])
  local report = redis.call('HGET', KEYS[1], beats[i])
  if report and age <= tonumber(ARGV[1]) then
    rows[#rows + 1] = {report, math.max(0, math.min(age, now - back))}
  else
    redis.call('HDEL', KEYS[1], beats[i])
    redis.call('HDEL', KEYS[2], beats[i])
  end
end
if #rows == 0 then return '[]' end
return cjson.encode(rows)
"""

# KEYS: turn, move. ARGV: move id, milliseconds of the turn, move, channel
_BEGIN: Final = """
if not redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2]) then return 'busy' end
redis.call('SET', KEYS[2], ARGV[3], 'PX', ARGV[2])
redis.call('PUBLISH', ARGV[4], ARGV[1])
return 'begun'
"""

# KEYS: turn, move. ARGV: move id, milliseconds of the turn
_RENEW: Final = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 'lost' end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
if redis.call('PTTL', KEYS[2]) >= 0 then redis.call('PEXPIRE', KEYS[2], ARGV[2]) end
return 'renewed'
"""

# KEYS: turn, move, members. ARGV: move id, move or '', '1' if it is over, channel, version, its members or ''
_SAY: Final = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 'lost' end
if ARGV[2] ~= '' then redis.call('SET', KEYS[2], ARGV[2]) end
if ARGV[6] ~= '' then redis.call('HSET', KEYS[3], ARGV[5], ARGV[6]) end
if ARGV[3] == '1' then
  redis.call('DEL', KEYS[1])
  redis.call('PUBLISH', ARGV[4], ARGV[1])
end
return 'said'
"""
