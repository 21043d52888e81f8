"""Sessions: begun, found and ended by any server of a store, and nothing to steal on its disk."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest

from app.sessions import FOLDER, MOST, Sessions, SessionsError


class Clock:
    """A clock that tests set."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def sessions(tmp_path: Path, clock: Clock) -> Sessions:
    return Sessions(tmp_path, length_s=100, clock=clock)


def test_another_server_of_the_store_knows_a_session_until_it_is_ended(
    sessions: Sessions, tmp_path: Path, clock: Clock
) -> None:
    begun = sessions.begin("abcd")
    other = Sessions(tmp_path, length_s=100, clock=clock)
    assert other.find(begun.secret) == begun
    other.end(begun.secret)
    assert sessions.find(begun.secret) is None
    other.end(begun.secret)


def test_a_session_ends_by_itself_and_is_removed_by_the_next(sessions: Sessions, tmp_path: Path, clock: Clock) -> None:
    begun = sessions.begin("abcd")
    clock.now += 99
    assert sessions.find(begun.secret) is not None
    clock.now += 1
    assert sessions.find(begun.secret) is None
    sessions.begin("abcd")
    assert len(list((tmp_path / FOLDER).iterdir())) == 1


def test_what_is_on_disk_lets_nobody_in(sessions: Sessions, tmp_path: Path) -> None:
    begun = sessions.begin("abcd")
    (path,) = (tmp_path / FOLDER).iterdir()
    assert begun.secret not in path.name + path.read_text()
    assert sessions.find(path.name) is None
    assert sessions.find(path.name[:43]) is None
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


@pytest.mark.parametrize("secret", ["", "../keys.json", "x" * 43, "x" * 10_000, "\0" * 43, "ä" * 43])
def test_a_secret_that_was_not_given_out_is_no_session(sessions: Sessions, secret: str) -> None:
    sessions.begin("abcd")
    assert sessions.find(secret) is None
    sessions.end(secret)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"key_id": "abcd"}', '{"key_id": "a", "ends_at": "never"}'])
def test_a_damaged_file_lets_nobody_in(sessions: Sessions, tmp_path: Path, content: str) -> None:
    begun = sessions.begin("abcd")
    (path,) = (tmp_path / FOLDER).iterdir()
    path.write_text(content)
    assert sessions.find(begun.secret) is None
    sessions.begin("abcd")
    assert not path.exists()


def test_a_new_session_ends_the_oldest_once_there_are_too_many(
    sessions: Sessions, tmp_path: Path, clock: Clock
) -> None:
    first, second = sessions.begin("abcd"), None
    for number in range(MOST - 1):
        (tmp_path / FOLDER / f"{number:064x}").write_text(json.dumps({"key_id": "x", "ends_at": clock.now + 101}))
    second = sessions.begin("abcd")
    assert sessions.find(first.secret) is None
    assert sessions.find(second.secret) is not None
    assert len(list((tmp_path / FOLDER).iterdir())) == MOST


def test_a_store_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    with pytest.raises(SessionsError, match=r"nobody can sign in: .* No such file or directory"):
        Sessions(tmp_path / "gone", length_s=100).begin("abcd")


def test_a_csrf_token_is_that_of_one_session(sessions: Sessions) -> None:
    one, other = sessions.begin("abcd"), sessions.begin("abcd")
    assert one.allows(one.csrf_token)
    assert not one.allows(other.csrf_token)
    assert not one.allows(None)
    assert not one.allows("")
    assert not one.allows("ä")
    assert one.secret not in one.csrf_token


def test_what_a_crash_left_half_written_is_removed_later(sessions: Sessions, tmp_path: Path, clock: Clock) -> None:
    sessions.begin("abcd")
    half = tmp_path / FOLDER / ".half"
    half.write_text("")
    os.utime(half, (clock.now, clock.now))
    clock.now += 50
    sessions.begin("abcd")
    assert half.exists()
    clock.now += 51
    sessions.begin("abcd")
    assert not half.exists()
