"""One service for each store, and addresses that are free."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from keepsight.local.errors import LocalError, StartError
from keepsight.local.instance import Instance, check_port, free_port

HOLDER = """
import signal, sys, time
from pathlib import Path
from keepsight.local.instance import Instance
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
instance = Instance(Path(sys.argv[1]))
with instance.held():
    if sys.argv[2] == "note":
        import os
        instance.write_note({"url": "http://127.0.0.1:1", "pid": os.getpid()})
    print("held", flush=True)
    time.sleep(60)
"""


def hold(store: Path, note: str = "note") -> subprocess.Popen[str]:
    """Another process that has the store."""
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(store), note], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    with process.stdout:
        assert process.stdout.readline() == "held\n"
    return process


def test_a_second_service_on_one_store_is_told_where_the_first_is(tmp_path: Path) -> None:
    process = hold(tmp_path / "store")
    try:
        with (
            pytest.raises(
                StartError, match=rf"already runs on the store .* at http://127.0.0.1:1 \(process {process.pid}"
            ),
            Instance(tmp_path / "store").held(),
        ):
            raise AssertionError("both hold it")
    finally:
        process.kill()
        process.wait()


def test_a_killed_service_does_not_keep_the_store(tmp_path: Path) -> None:
    process = hold(tmp_path / "store")
    process.kill()
    process.wait()
    instance = Instance(tmp_path / "store")
    assert not instance.is_running()
    with instance.held():
        assert instance.note() is None


def test_two_stores_in_one_folder_do_not_disturb_each_other(tmp_path: Path) -> None:
    with Instance(tmp_path / "a").held(), Instance(tmp_path / "b").held():
        assert Instance(tmp_path / "a").note_path != Instance(tmp_path / "b").note_path


def test_stop_ends_the_service_and_its_note(tmp_path: Path) -> None:
    process = hold(tmp_path / "store")
    instance = Instance(tmp_path / "store")
    assert instance.is_running()
    assert instance.stop(timeout_s=10) is True
    assert process.wait(5) == 0
    assert not instance.note_path.exists()
    assert instance.stop() is False


def test_stop_waits_for_no_service_that_is_still_starting(tmp_path: Path) -> None:
    process = hold(tmp_path / "store", note="none")
    try:
        with pytest.raises(LocalError, match="still starting or already stopping"):
            Instance(tmp_path / "store").stop()
    finally:
        process.kill()
        process.wait()


def test_stop_never_signals_a_process_that_does_not_hold_the_store(tmp_path: Path) -> None:
    instance = Instance(tmp_path / "store")
    with instance.held():
        pass
    instance.write_note({"url": "http://127.0.0.1:1", "pid": os.getpid()})  # left over from a kill; the pid is now ours
    assert instance.stop() is False


def test_a_damaged_note_is_no_note(tmp_path: Path) -> None:
    instance = Instance(tmp_path / "store")
    instance.note_path.write_text("{")
    assert instance.note() is None


def test_a_port_in_use_is_named_with_the_way_out() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        with pytest.raises(StartError, match=rf"port {port} of 127\.0\.0\.1 is in use; .*--port"):
            check_port("127.0.0.1", port)
    check_port("127.0.0.1", free_port())


def test_an_address_of_another_machine_is_refused() -> None:
    with pytest.raises(StartError, match=r"cannot listen on 192\.0\.2\.1:8000"):
        check_port("192.0.2.1", 8000)
