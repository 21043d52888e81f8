"""How `keepsight up` puts its parts together, and what it does with them, with small programs in their place."""

from __future__ import annotations

import os
import signal
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
    made = parts(UpSettings(store=tmp_path / "store"), port=1234, broker_port=4321)
    assert [part.name for part in made] == ["broker", "worker", "server"]
    assert [part.stop_last for part in made] == [True, False, False]
    for part in made[1:]:
        environment = dict(part.environment)
        assert environment["KEEPSIGHT_STORE"] == str(tmp_path / "store")
        assert environment["KEEPSIGHT_SPOOL"] == str(tmp_path / "spool")
        assert environment["KEEPSIGHT_REDIS_URL"] == "redis://127.0.0.1:4321/0"
        assert environment["KEEPSIGHT_PORT"] == "1234"
        assert environment["OMP_NUM_THREADS"] == str(min(2, os.cpu_count() or 1))
        assert part.log.parent == tmp_path / "log"
    assert str(tmp_path / "broker") in made[0].command


def test_several_servers_share_the_port_and_take_devices_in_turn(tmp_path: Path) -> None:
    settings = UpSettings(store=tmp_path / "s", api_processes=3, devices=("cuda:0", "cuda:1"), metrics_port=9100)
    servers = [part for part in parts(settings, port=1, broker_port=2) if part.name.startswith("server")]
    assert [part.name for part in servers] == ["server", "server-2", "server-3"]
    assert len({part.log for part in servers}) == 3
    assert [part.environment["KEEPSIGHT_DEVICE"] for part in servers] == ["cuda:0", "cuda:1", "cuda:0"]
    assert [part.environment["KEEPSIGHT_METRICS_PORT"] for part in servers] == ["9100", "9101", "9102"]
    assert all(part.environment["KEEPSIGHT_SHARE_PORT"] == "true" and part.replaceable for part in servers)


def test_one_server_has_its_port_for_itself_and_is_not_replaced(tmp_path: Path) -> None:
    server = parts(UpSettings(store=tmp_path / "s"), port=1, broker_port=2)[-1]
    assert not server.environment.keys() & {"KEEPSIGHT_SHARE_PORT", "KEEPSIGHT_DEVICE", "KEEPSIGHT_METRICS_PORT"}
    assert not server.replaceable


def test_a_broker_that_runs_already_is_used(tmp_path: Path) -> None:
    made = parts(UpSettings(store=tmp_path / "s", redis_url="redis://there/1"), port=1, broker_port=2)
    assert [part.name for part in made] == ["worker", "server"]
    assert all(part.environment["KEEPSIGHT_REDIS_URL"] == "redis://there/1" for part in made)


def test_without_a_worker_there_is_none(tmp_path: Path) -> None:
    made = parts(UpSettings(store=tmp_path / "s", worker=False), port=1, broker_port=2)
    assert [part.name for part in made] == ["broker", "server"]


def test_options_win_over_the_environment_and_threads_bound_openmp(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KEEPSIGHT_THREADS", "1")
    settings = UpSettings(store=tmp_path / "s", environment={"KEEPSIGHT_THREADS": "7", "KEEPSIGHT_MODEL": "ViT-B-16"})
    server = parts(settings, port=1, broker_port=2)[-1]
    assert server.environment["KEEPSIGHT_THREADS"] == server.environment["OMP_NUM_THREADS"] == "7"
    assert server.environment["KEEPSIGHT_MODEL"] == "ViT-B-16"


def test_a_password_is_never_shown() -> None:
    assert without_password("redis://:secret@host:6379/0") == "redis://:***@host:6379/0"
    assert without_password("redis://user:secret@host/0") == "redis://user:***@host/0"
    assert without_password("redis://host/0") == "redis://host/0"


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


def test_when_one_part_dies_the_others_are_stopped_and_it_is_named(small_parts: Callable[..., UpSettings]) -> None:
    settings = small_parts(
        lives="import time; time.sleep(60)", dies="import time; time.sleep(0.5); raise SystemExit('oh')"
    )
    notes: list[dict[str, Any]] = []
    with pytest.raises(StartError, match=r"(?s)the dies ended with exit code 1; .*oh"):
        up.run(settings, on_ready=notes.append)
    assert not any(Path(f"/proc/{pid}").exists() for pid in notes[0]["parts"].values())


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
    settings = small_parts(dies="import time; print('one'); print('two'); time.sleep(0.5)")
    lines: list[str] = []
    verbose = UpSettings(store=settings.store, port=0, verbose=True)
    with pytest.raises(StartError):
        up.run(verbose, on_ready=lambda note: None, write=lines.append)
    assert lines == ["dies   | one", "dies   | two"]


def test_the_second_signal_is_passed_on() -> None:
    signals = StopSignals()
    calls: list[str] = []
    signals.on_second = lambda: calls.append("now")
    signals.receive(signal.SIGINT, None)
    assert (signals.is_set(), calls) == (True, [])
    signals.receive(signal.SIGINT, None)
    assert calls == ["now"]
