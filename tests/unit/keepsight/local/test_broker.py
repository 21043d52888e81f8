"""The embedded broker as a process."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis
from celery import Celery

from exchange.addresses import celery_url
from keepsight.local.private import socket_url
from keepsight.local.signs import SIGNS_FD, Listener
from tests.waiting import wait_until


class Broker:
    """The process, its client, and what it told its supervisor."""

    def __init__(self, data: Path) -> None:
        self.data = data
        self.address = data / "broker.sock"
        self.log = data.with_name("broker.log")
        self.signs = Listener()
        self.told: list[str] = []
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "keepsight.local.broker",
                    "--data-dir",
                    str(data),
                    "--socket",
                    str(self.address),
                ],
                stderr=log,
                stdout=log,
                pass_fds=[self.signs.writer],
                env={**os.environ, SIGNS_FD: str(self.signs.writer)},
            )
        self.signs.close_writer()
        self.client = redis.Redis.from_url(socket_url(self.address), decode_responses=True, socket_timeout=5)

    def is_ready(self) -> bool:
        try:
            return bool(self.client.ping())
        except redis.exceptions.RedisError:
            return False

    def listen(self) -> str:
        self.told += self.signs.look(0.0)
        return " ".join(self.told)

    def is_watched(self) -> bool:
        """Whether the process itself has reached the server."""
        self.listen()
        return self.signs.heard

    @property
    def server_pid(self) -> int:
        """The server itself, a child of the process."""
        return int(Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text())


@contextmanager
def running(data: Path) -> Iterator[Broker]:
    broker = Broker(data)
    try:
        wait_until(lambda: (broker.is_ready() and broker.is_watched()) or broker.process.poll() is not None)
        assert broker.process.poll() is None, broker.log.read_text()
        yield broker
    finally:
        broker.client.close()
        broker.process.terminate()
        broker.process.wait(60)
        broker.signs.close()


def increment_of(data: Path) -> Path:
    """The file to which commands are appended."""
    (file,) = (data / "appendonlydir").glob("*.incr.aof")
    return file


def test_what_it_holds_outlives_a_restart(tmp_path: Path) -> None:
    with running(tmp_path / "broker") as first:
        first.client.set("job", "queued")
        first.process.terminate()
        assert first.process.wait(60) == 0
    with running(tmp_path / "broker") as second:
        assert second.client.get("job") == "queued"
        assert second.listen() == ""


def test_only_this_user_may_reach_it_and_it_listens_on_no_port(tmp_path: Path) -> None:
    (tmp_path / "broker").mkdir(mode=0o755)
    with running(tmp_path / "broker") as broker:
        assert stat.S_IMODE(broker.address.stat().st_mode) == 0o600
        assert stat.S_IMODE(broker.data.stat().st_mode) == 0o700
        assert broker.client.config_get("port") == {"port": "0"}


@pytest.mark.parametrize("name", ["with space", "ü%20#?+&@:"])
def test_redis_and_celery_find_it_by_one_address_whatever_its_folder_is_called(tmp_path: Path, name: str) -> None:
    with running(tmp_path / name) as broker:
        celery = Celery("test", broker=celery_url(socket_url(broker.address)), set_as_current=False)
        celery.send_task("any", queue="updates", retry=False, ignore_result=True)
        assert broker.client.llen("updates") == 1
        celery.close()


def test_it_ends_with_an_error_when_the_server_does(tmp_path: Path) -> None:
    with running(tmp_path / "broker") as broker:
        os.kill(broker.server_pid, signal.SIGKILL)
        assert broker.process.wait(60) == 1
        assert "broker: the server ended with exit code -9" in broker.log.read_text()


def test_a_stopped_server_is_waited_for_and_gives_no_sign_of_life_meanwhile(tmp_path: Path) -> None:
    with running(tmp_path / "broker") as broker:
        broker.client.set("job", "queued")
        server = broker.server_pid
        broker.listen()
        os.kill(server, signal.SIGSTOP)
        try:
            for second in range(6):  # each look counts for a second at most
                broker.signs.look(float(second))
                with pytest.raises(subprocess.TimeoutExpired):
                    broker.process.wait(1)
            assert broker.signs.silent_s > 1
        finally:
            os.kill(server, signal.SIGCONT)
        wait_until(lambda: broker.signs.look(6.0) is not None and broker.signs.silent_s == 0)
        assert broker.client.get("job") == "queued"
        assert broker.server_pid == server


@pytest.mark.parametrize("damage", ["truncated", "garbage", "no command"])
def test_what_can_be_read_of_damaged_data_is_kept(tmp_path: Path, damage: str) -> None:
    data = tmp_path / "broker"
    with running(data) as first:
        first.client.set("job", "queued")
    with increment_of(data).open("ab") as file:
        file.write({"truncated": b"*3\r\n$3\r\nSET\r\n$1", "garbage": b"\0GARBAGE\r\n", "no command": b""}[damage])
        if damage == "no command":
            file.write(b"*1\r\n$7\r\nNOTHING\r\n")
    with running(data) as second:
        if damage == "no command":  # it cannot be told from sound data, so it starts empty
            assert second.client.keys() == []
        else:
            assert second.client.get("job") == "queued"
        aside = list(data.glob("damaged-*"))
        assert len(aside) == (0 if damage == "truncated" else 1)
        told = second.listen()
        assert ("the broker's data could not be loaded" in told) == bool(aside)
        assert all(str(folder) in told for folder in aside)
        second.client.set("another", "job")
    with running(data) as third:
        assert third.client.get("another") == "job"


@pytest.mark.parametrize("file", ["appendonly.aof.manifest", "*.base.rdb", "*.incr.aof"])
def test_data_that_is_all_damaged_is_set_aside_and_it_starts_empty(tmp_path: Path, file: str) -> None:
    data, nonsense = tmp_path / "broker", b"nothing of what it was" * 10
    with running(data) as first:
        first.client.set("job", "queued")
    (damaged,) = (data / "appendonlydir").glob(file)
    damaged.write_bytes(nonsense)
    with running(data) as second:
        assert second.client.keys() == []
        second.client.set("another", "job")
        (aside,) = data.glob("damaged-*")
        assert (aside / damaged.relative_to(data)).read_bytes() == nonsense
        assert not (data / "fresh").exists()


def test_a_folder_that_cannot_be_renamed_is_mended_where_it_is(tmp_path: Path) -> None:
    data = tmp_path / "broker"
    with running(data) as first:
        first.client.set("job", "queued")
    before = data.stat().st_ino  # of a mounted volume this cannot change
    with increment_of(data).open("ab") as file:
        file.write(b"\0GARBAGE\r\n")
    with running(data) as second:
        assert second.client.get("job") == "queued"
    assert data.stat().st_ino == before
    with increment_of(data).open("ab") as file:
        file.write(b"\0GARBAGE\r\n")
    with running(data) as third:
        assert third.client.get("job") == "queued"
    assert [path.name for path in data.glob("damaged-*/damaged-*")] == []


def test_what_was_deleted_while_it_ran_is_written_again(tmp_path: Path) -> None:
    data = tmp_path / "broker"
    with running(data) as first:
        first.client.set("job", "queued")
        data.rename(tmp_path / "away")
        shutil.rmtree(tmp_path / "away")
        assert first.process.wait(60) == 1
        assert "written again from the broker's memory" in first.listen()
    with running(data) as second:
        assert second.client.get("job") == "queued"


def test_a_folder_that_cannot_be_used_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "broker").write_text("a file")
    command = [sys.executable, "-m", "keepsight.local.broker", "--data-dir", str(tmp_path / "broker")]
    command += ["--socket", str(tmp_path / "broker.sock")]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert ran.returncode == 1
    assert ran.stderr.startswith("broker: ")
    assert "Traceback" not in ran.stderr


def test_a_socket_left_behind_by_a_killed_broker_is_replaced(tmp_path: Path) -> None:
    data = tmp_path / "broker"
    data.mkdir()
    with socket.socket(socket.AF_UNIX) as left_over:
        left_over.bind(str(data / "broker.sock"))
    with running(data) as broker:
        assert broker.client.ping()
