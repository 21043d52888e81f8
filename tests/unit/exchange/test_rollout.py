"""The protocol against a real Redis, with servers that are threads."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from exchange import rollout
from exchange.redis_client import BrokerUnavailableError
from exchange.rollout import (
    Limits,
    RolloutBusyError,
    RolloutRefusedError,
    RolloutTimeoutError,
    RolloutUnfinishedError,
    roll_out,
)
from exchange.roster import Roster, ServerReport
from exchange.settings import SharedSettings
from tests.waiting import wait_until

OLD, NEW = "000001-aaaaaaaaaaaa", "000002-bbbbbbbbbbbb"
LIMITS = Limits(turn_s=0.2, prepare_s=5, serve_s=5, lost_after_s=0.3)


class Server(threading.Thread):
    """Reports and answers as the app's member does; its model is a name."""

    def __init__(self, name: str, roster: Roster, pointer: list[str]) -> None:
        super().__init__(daemon=True)
        self.name, self.roster, self.pointer = name, roster, pointer
        self.serving, self.answered, self.prepared = OLD, None, None  # type: tuple[str, str | None, str | None]
        self.refuses: str | None = None
        self.frozen = threading.Event()
        self.over = threading.Event()
        self.deaf = False
        self.stuck = False

    def run(self) -> None:
        while not self.over.is_set():
            if not self.frozen.is_set():
                self.turn()
            time.sleep(0.01)

    def turn(self) -> None:
        if not self.stuck:
            self.serving = self.pointer[0]
        refused = self.refuses if self.answered else None
        report = ServerReport(
            id=self.name,
            host="here",
            pid=1,
            device="cpu",
            serving=self.serving,
            prepared=self.prepared,
            state="refused" if refused else "serving",
            answered=self.answered,
            reason=refused,
        )
        move = self.roster.report(report)
        if move is not None and move.state == "preparing" and not self.deaf:
            self.answered, self.prepared = move.id, move.version_id


@pytest.fixture
def roster(redis_url: str) -> Iterator[Roster]:
    roster = Roster(redis_url, f"test-{time.time_ns()}")
    yield roster
    roster.close()


@pytest.fixture
def pointer() -> list[str]:
    return [OLD]


@pytest.fixture
def start(roster: Roster, pointer: list[str]) -> Iterator[Callable[[str], Server]]:
    started: list[Server] = []

    def make(name: str) -> Server:
        server = Server(name, roster, pointer)
        server.start()
        started.append(server)
        wait_until(lambda: name in [seen.report.id for seen in roster.servers()])
        return server

    yield make
    for server in started:
        server.over.set()
        server.join()


def test_all_servers_are_ready_before_the_pointer_moves_and_serve_when_it_is_over(
    roster: Roster, pointer: list[str], start: Callable[[str], Server]
) -> None:
    servers = [start("a"), start("b")]
    ready: list[str | None] = []

    def move() -> None:
        ready.extend(server.prepared for server in servers)
        pointer[0] = NEW

    done = roll_out(roster, NEW, move, limits=LIMITS)
    assert ready == [NEW, NEW]
    assert done.members == ("a", "b")
    assert [server.serving for server in servers] == [NEW, NEW]
    last = roster.move()
    assert last is not None
    assert (last.version_id, last.state, last.members) == (NEW, "committed", ("a", "b"))


def test_without_servers_the_pointer_moves(roster: Roster, pointer: list[str]) -> None:
    assert roll_out(roster, NEW, lambda: pointer.__setitem__(0, NEW), limits=LIMITS).members == ()
    assert pointer == [NEW]


def test_servers_that_were_all_silent_get_the_time_to_report(
    roster: Roster, pointer: list[str], start: Callable[[str], Server], redis_url: str
) -> None:
    server = start("a")
    server.frozen.set()
    time.sleep(LIMITS.lost_after_s + 0.1)
    threading.Timer(LIMITS.lost_after_s / 2, server.frozen.clear).start()
    done = roll_out(roster, NEW, lambda: pointer.__setitem__(0, NEW), limits=LIMITS)
    assert done.members == ("a",)


def test_one_refusal_stops_the_move_everywhere(
    roster: Roster, pointer: list[str], start: Callable[[str], Server]
) -> None:
    start("a")
    start("b").refuses = "its tensors are damaged"
    with pytest.raises(RolloutRefusedError, match="b: its tensors are damaged"):
        roll_out(roster, NEW, lambda: pointer.__setitem__(0, NEW), limits=LIMITS)
    assert pointer == [OLD]
    last = roster.move()
    assert last is not None
    assert last.state == "abandoned"


def test_a_server_that_dies_while_it_prepares_is_left_out(
    roster: Roster, pointer: list[str], start: Callable[[str], Server]
) -> None:
    start("a")
    dying = start("b")
    dying.deaf = True
    threading.Timer(0.1, dying.frozen.set).start()
    done = roll_out(roster, NEW, lambda: pointer.__setitem__(0, NEW), limits=LIMITS)
    assert done.members == ("a",)
    assert pointer == [NEW]
    assert dying.serving == OLD


def test_a_server_that_lives_but_is_never_ready_stops_the_move(
    roster: Roster, pointer: list[str], start: Callable[[str], Server]
) -> None:
    start("a")
    start("b").deaf = True
    with pytest.raises(RolloutTimeoutError, match="b did not prepare"):
        roll_out(roster, NEW, lambda: pointer.__setitem__(0, NEW), limits=Limits(prepare_s=0.2))
    assert pointer == [OLD]


def test_a_server_that_does_not_swap_is_named(
    roster: Roster, pointer: list[str], start: Callable[[str], Server]
) -> None:
    start("a")
    start("b").stuck = True
    with pytest.raises(RolloutUnfinishedError, match=f"b serves {OLD}"):
        roll_out(roster, NEW, lambda: pointer.__setitem__(0, NEW), limits=Limits(serve_s=0.2))
    assert pointer == [NEW]
    # its turn is over all the same
    assert roll_out(roster, NEW, lambda: None, limits=Limits(turn_s=0, lost_after_s=-1)).members == ()


def test_a_move_whose_pointer_cannot_move_is_abandoned_and_the_next_may_begin(
    roster: Roster, pointer: list[str], start: Callable[[str], Server]
) -> None:
    start("a")

    def fail() -> None:
        raise OSError("no space")

    with pytest.raises(OSError, match="no space"):
        roll_out(roster, NEW, fail, limits=LIMITS)
    last = roster.move()
    assert last is not None
    assert last.state == "abandoned"
    roll_out(roster, NEW, lambda: pointer.__setitem__(0, NEW), limits=LIMITS)
    assert pointer == [NEW]


def test_a_move_that_was_called_off_does_not_hide_who_was_left_out_of_the_one_before(
    roster: Roster, pointer: list[str], start: Callable[[str], Server]
) -> None:
    start("a")
    roll_out(roster, NEW, lambda: pointer.__setitem__(0, NEW), limits=LIMITS)
    other = roster.begin(OLD, hold_s=60)
    assert other is not None
    roster.commit(other, ("a", "b"))
    roster.end(other, abandoned=True)
    assert roster.members(NEW) == ("a",)
    assert roster.members("000003-cccccccccccc") is None


def test_moves_take_turns(roster: Roster, pointer: list[str]) -> None:
    other = roster.begin(NEW, hold_s=60)
    assert other is not None
    with pytest.raises(RolloutBusyError):
        roll_out(roster, NEW, lambda: pointer.__setitem__(0, NEW), limits=LIMITS)
    assert pointer == [OLD]
    threading.Timer(0.1, lambda: roster.end(other, abandoned=True)).start()
    roll_out(roster, NEW, lambda: pointer.__setitem__(0, NEW), limits=Limits(turn_s=5))
    assert pointer == [NEW]


def test_a_mover_that_lost_its_turn_moves_nothing(
    roster: Roster, pointer: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = rollout._until_ready

    def slowly(*arguments: object) -> tuple[str, ...] | None:
        members = real(*arguments)  # type: ignore[arg-type]
        roster._redis.delete(roster._turn)
        assert roster.begin(OLD, hold_s=10) is not None
        return members

    monkeypatch.setattr(rollout, "_until_ready", slowly)
    with pytest.raises(RolloutTimeoutError, match="took too long"):
        roll_out(roster, NEW, lambda: pointer.__setitem__(0, NEW), limits=LIMITS)
    assert pointer == [OLD]
    last = roster.move()
    assert last is not None
    assert (last.version_id, last.state) == (OLD, "preparing"), "the other's move is not touched"


def test_without_redis_nothing_moves(pointer: list[str]) -> None:
    nowhere = Roster("redis://127.0.0.1:1/0", "x", timeout_s=0.2)
    with pytest.raises(BrokerUnavailableError):
        roll_out(nowhere, NEW, lambda: pointer.__setitem__(0, NEW), limits=LIMITS)
    assert pointer == [OLD]


def test_a_mover_that_lives_keeps_its_turn_for_longer_than_it_may_be_silent(
    roster: Roster, pointer: list[str], start: Callable[[str], Server]
) -> None:
    start("a").deaf = True
    with pytest.raises(RolloutTimeoutError, match="did not prepare"):
        roll_out(roster, NEW, lambda: None, limits=Limits(prepare_s=1.5, hold_s=0.4, lost_after_s=5))


def test_a_mover_that_is_killed_or_stopped_frees_its_turn(roster: Roster, pointer: list[str], redis_url: str) -> None:
    program = f"""
import threading
from exchange.rollout import Limits, roll_out
from exchange.roster import Roster

def move():
    print("moving", flush=True)
    threading.Event().wait()

roster = Roster({redis_url!r}, {roster._turn.split(":")[2]!r})
roll_out(roster, {NEW!r}, move, limits=Limits(hold_s=1.0))
"""
    for sign in (signal.SIGSTOP, signal.SIGKILL):
        mover = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
        try:
            assert mover.stdout is not None
            assert mover.stdout.readline() == "moving\n"
            with pytest.raises(RolloutBusyError):
                roll_out(roster, NEW, lambda: None, limits=Limits(turn_s=0.2))
            mover.send_signal(sign)
            roll_out(roster, NEW, lambda: pointer.append(NEW), limits=Limits(turn_s=30))
        finally:
            mover.kill()
            mover.wait()
            assert mover.stdout is not None
            mover.stdout.close()
    assert pointer == [OLD, NEW, NEW]


def test_the_turn_is_waited_for_longer_than_a_mover_may_be_silent() -> None:
    for lost_after_s in (0.5, 5.0, 60.0):
        limits = Limits.of(SharedSettings(server_lost_after_s=lost_after_s))
        assert limits.turn_s > limits.hold_s > limits.lost_after_s
