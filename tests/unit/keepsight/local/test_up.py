"""How `keepsight up` puts its parts together, and what it does with them, with small programs in their place."""

from __future__ import annotations

import os
import signal
import stat
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from keepsight.local import up
from keepsight.local.errors import StartError
from keepsight.local.instance import Instance
from keepsight.local.supervisor import Part
from keepsight.local.up import StopSignals, UpSettings, parts, service_url, without_password
from tests.waiting import wait_until

SOCKET = Path("/run/b.sock")
SETTINGS = ("KEEPSIGHT_THREADS", "KEEPSIGHT_SPOOL", "KEEPSIGHT_STORE", "OMP_NUM_THREADS")


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in SETTINGS:
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:8000"),
        ("0.0.0.0", "http://127.0.0.1:8000"),
        ("::", "http://[::1]:8000"),
        ("::1", "http://[::1]:8000"),
        ("example.org", "http://example.org:8000"),
    ],
)
def test_the_address_to_open_follows_from_the_address_that_is_bound(host: str, url: str) -> None:
    assert service_url(host, 8000) == url


def test_broker_worker_and_server_share_one_set_of_places(tmp_path: Path) -> None:
    made = parts(UpSettings(store=tmp_path / "store"), port=1234, broker_socket=SOCKET, sockets=(5, 6))
    assert [part.name for part in made] == ["broker", "worker", "server"]
    assert [part.stop_last for part in made] == [True, False, False]
    for part in made[1:]:
        environment = dict(part.environment)
        assert environment["KEEPSIGHT_STORE"] == str(tmp_path / "store")
        assert environment["KEEPSIGHT_SPOOL"] == str(tmp_path / "spool")
        assert environment["KEEPSIGHT_REDIS_URL"] == "unix:///run/b.sock?db=0"
        assert environment["KEEPSIGHT_PORT"] == "1234"
        assert environment["OMP_NUM_THREADS"] == str(min(2, os.cpu_count() or 1))
        assert part.log.parent == tmp_path / "log"
    assert [part.sockets for part in made] == [(), (), (5, 6)]
    assert made[2].environment["KEEPSIGHT_LISTEN_FDS"] == "5,6"
    assert [part.waited_for for part in made] == [True, False, False]
    assert str(tmp_path / "broker") in made[0].command


def test_several_servers_share_the_port_and_take_devices_in_turn(tmp_path: Path) -> None:
    settings = UpSettings(store=tmp_path / "s", api_processes=3, devices=("cuda:0", "cuda:1"), metrics_port=9100)
    servers = [part for part in parts(settings, port=1, broker_socket=SOCKET) if part.name.startswith("server")]
    assert [part.name for part in servers] == ["server", "server-2", "server-3"]
    assert len({part.log for part in servers}) == 3
    assert [part.environment["KEEPSIGHT_DEVICE"] for part in servers] == ["cuda:0", "cuda:1", "cuda:0"]
    assert [part.environment["KEEPSIGHT_METRICS_PORT"] for part in servers] == ["9100", "9101", "9102"]


def test_one_server_has_the_device_and_the_metrics_of_its_settings(tmp_path: Path) -> None:
    server = parts(UpSettings(store=tmp_path / "s"), port=1, broker_socket=SOCKET)[-1]
    assert not server.environment.keys() & {"KEEPSIGHT_SHARE_PORT", "KEEPSIGHT_DEVICE", "KEEPSIGHT_METRICS_PORT"}


def test_a_broker_that_runs_already_is_used(tmp_path: Path) -> None:
    made = parts(UpSettings(store=tmp_path / "s", redis_url="redis://there/1"), port=1, broker_socket=SOCKET)
    assert [part.name for part in made] == ["worker", "server"]
    assert all(part.environment["KEEPSIGHT_REDIS_URL"] == "redis://there/1" for part in made)


def test_without_a_worker_there_is_none(tmp_path: Path) -> None:
    made = parts(UpSettings(store=tmp_path / "s", worker=False), port=1, broker_socket=SOCKET)
    assert [part.name for part in made] == ["broker", "server"]


def test_options_win_over_the_environment_and_threads_bound_openmp(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KEEPSIGHT_THREADS", "1")
    settings = UpSettings(store=tmp_path / "s", environment={"KEEPSIGHT_THREADS": "7", "KEEPSIGHT_MODEL": "ViT-B-16"})
    server = parts(settings, port=1, broker_socket=SOCKET)[-1]
    assert server.environment["KEEPSIGHT_THREADS"] == server.environment["OMP_NUM_THREADS"] == "7"
    assert server.environment["KEEPSIGHT_MODEL"] == "ViT-B-16"


def test_a_password_is_never_shown() -> None:
    assert without_password("redis://:secret@host:6379/0") == "redis://:***@host:6379/0"
    assert without_password("redis://user:secret@host/0") == "redis://user:***@host/0"
    assert without_password("redis://host/0") == "redis://host/0"
    assert without_password("unix:///a/b.sock?db=0") == "unix:///a/b.sock?db=0"
    assert without_password("unix:///a/b.sock?db=0&password=secret") == "unix:///a/b.sock?db=0&password=***"
    assert without_password("redis://host/0?password=secret&db=1") == "redis://host/0?password=***&db=1"


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., UpSettings]:
    """Replace the service's programs by the given ones; it is ready at once."""

    def replace(**programs: str) -> UpSettings:
        made = [
            Part(
                name, (sys.executable, "-c", code), tmp_path / f"{name}.log", {"KEEPSIGHT_REDIS_URL": "redis://x"}, 5.0
            )
            for name, code in programs.items()
        ]
        monkeypatch.setattr(up, "parts", lambda settings, **ports: made)
        monkeypatch.setattr(up, "probe", lambda url: lambda: True)
        return UpSettings(store=tmp_path / "store", port=0)

    return replace


def test_up_runs_until_it_is_asked_to_stop_and_leaves_nothing(
    small_parts: Callable[..., UpSettings], tmp_path: Path
) -> None:
    settings = small_parts(one="import time; time.sleep(60)", two="import time; time.sleep(60)")
    notes: list[dict[str, Any]] = []

    def ready(note: dict[str, Any]) -> None:
        notes.append(note)
        assert Instance(settings.store).note() == note
        threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGTERM)).start()

    before = signal.getsignal(signal.SIGTERM)
    began = time.monotonic()
    assert up.run(settings, on_ready=ready) == []
    assert time.monotonic() - began < 10
    assert set(notes[0]["parts"]) == {"one", "two"}
    assert notes[0]["url"].startswith("http://127.0.0.1:")
    assert not any(Path(f"/proc/{pid}").exists() for pid in notes[0]["parts"].values())
    assert not Instance(settings.store).is_running()
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_part_that_dies_before_the_service_is_ready_stops_the_others(
    small_parts: Callable[..., UpSettings], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = small_parts(lives="import time; time.sleep(60)", dies="raise SystemExit('oh')")
    monkeypatch.setattr(up, "probe", lambda url: lambda: False)
    with pytest.raises(StartError, match=r"(?s)the dies ended with exit code 1; .*oh"):
        up.run(settings, on_ready=lambda note: None)
    assert not Instance(settings.store).is_running()


def test_later_it_is_started_again_and_the_note_follows(small_parts: Callable[..., UpSettings]) -> None:
    settings = small_parts(lives="import time; time.sleep(60)", mortal="import time; time.sleep(60)")
    first, notices = dict[str, int](), list[str]()

    def ready(note: dict[str, Any]) -> None:
        first.update(note["parts"])
        os.kill(first["mortal"], signal.SIGKILL)
        threading.Thread(target=stop_when_replaced).start()

    def stop_when_replaced() -> None:
        try:
            wait_until(lambda: (note := Instance(settings.store).note()) and note["parts"]["mortal"] != first["mortal"])
        finally:
            os.kill(os.getpid(), signal.SIGTERM)

    assert up.run(settings, on_ready=ready, on_loss=notices.append) == []
    assert len(notices) == 1
    assert "the mortal was killed by SIGKILL" in notices[0]


def test_nothing_that_fails_around_it_ends_a_service(
    small_parts: Callable[..., UpSettings], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = small_parts(lives="import time; time.sleep(60)")
    calls = list[str]()

    def fail(*arguments: object) -> None:
        calls.append("tried")
        if len(calls) == 8:
            os.kill(os.getpid(), signal.SIGTERM)
        raise OSError(28, "No space left on device")

    def gone(*arguments: object) -> None:
        raise SystemExit(1)  # as rich does when its pipe is closed

    monkeypatch.setattr(Instance, "write_note", fail)
    monkeypatch.setattr(up, "WATCH_S", 0.01)
    notices = list[str]()

    def tell(notice: str) -> None:
        notices.append(notice)
        raise BrokenPipeError

    assert up.run(settings, on_ready=gone, on_stopping=gone, on_loss=tell) == []
    assert len(calls) == 8
    assert len(notices) == 1
    assert "No space left on device" in notices[0]


def test_what_is_written_is_for_this_user_only_unless_the_setting_says_otherwise(
    small_parts: Callable[..., UpSettings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = "import os; open(os.environ['MADE'], 'w').close(); import time; time.sleep(60)"
    settings = small_parts(writer=code)
    before = os.umask(0o022)
    try:
        for umask, mode in (("", 0o600), ("027", 0o640)):
            monkeypatch.setenv("KEEPSIGHT_UMASK", umask)
            monkeypatch.setenv("MADE", str(tmp_path / f"made{umask}"))

            def stop(note: dict[str, Any]) -> None:
                wait_until((Path(os.environ["MADE"])).exists)
                os.kill(os.getpid(), signal.SIGTERM)

            up.run(settings, on_ready=stop)
            assert stat.S_IMODE(Path(os.environ["MADE"]).stat().st_mode) == mode
        assert stat.S_IMODE((tmp_path / "writer.log").stat().st_mode) == 0o600
        monkeypatch.setenv("KEEPSIGHT_UMASK", "rwx")
        with pytest.raises(StartError, match="KEEPSIGHT_UMASK is 'rwx', expected an octal number such as 077"):
            up.run(settings, on_ready=lambda note: None)
        assert os.umask(0o022) == 0o022
    finally:
        os.umask(before)


def test_a_port_that_is_taken_starts_nothing(small_parts: Callable[..., UpSettings], tmp_path: Path) -> None:
    import socket

    small_parts(one="print('started')")
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        settings = UpSettings(store=tmp_path / "store", port=listener.getsockname()[1])
        with pytest.raises(StartError, match="is in use"):
            up.run(settings, on_ready=lambda note: None)
    assert not (tmp_path / "one.log").exists()


def test_verbose_copies_the_logs_with_the_parts_names(small_parts: Callable[..., UpSettings]) -> None:
    settings = small_parts(talks="import time; print('one'); print('two'); time.sleep(60)")
    lines: list[str] = []

    def stop(note: dict[str, Any]) -> None:
        wait_until(lambda: len(lines) == 2)
        os.kill(os.getpid(), signal.SIGTERM)

    up.run(UpSettings(store=settings.store, port=0, verbose=True), on_ready=stop, write=lines.append)
    assert lines == ["talks  | one", "talks  | two"]


def test_the_second_signal_is_passed_on() -> None:
    signals = StopSignals()
    calls: list[str] = []
    signals.on_second = lambda: calls.append("now")
    signals.receive(signal.SIGINT, None)
    assert (signals.is_set(), calls) == (True, [])
    signals.receive(signal.SIGINT, None)
    assert calls == ["now"]
