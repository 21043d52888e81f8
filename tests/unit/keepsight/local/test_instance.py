"""One service for each store, and addresses that are free."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from keepsight.local.errors import LocalError, StartError
from keepsight.local.instance import Instance, check_port, listening_sockets

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


def test_stop_ends_a_service_that_is_still_starting_or_lost_its_note(tmp_path: Path) -> None:
    process = hold(tmp_path / "store", note="none")
    assert Instance(tmp_path / "store").stop(timeout_s=10) is True
    assert process.wait(5) == 0


def test_stop_wakes_a_service_that_was_stopped(tmp_path: Path) -> None:
    process = hold(tmp_path / "store")
    process.send_signal(signal.SIGSTOP)
    assert Instance(tmp_path / "store").stop(timeout_s=10) is True
    assert process.wait(5) == 0


def test_stop_says_so_if_nothing_names_the_process(tmp_path: Path) -> None:
    process = hold(tmp_path / "store", note="none")
    try:
        instance = Instance(tmp_path / "store")
        os.truncate(instance.lock_path, 0)
        with pytest.raises(
            LocalError, match=r"neither store\.up\.json nor store\.up\.lock beside it names its process"
        ):
            instance.stop()
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("removed", ["note_path", "lock_path"])
def test_what_is_removed_beside_a_running_service_comes_back(tmp_path: Path, removed: str) -> None:
    instance, note = Instance(tmp_path / "store"), {"url": "http://127.0.0.1:1", "pid": os.getpid()}
    with instance.held():
        instance.write_note(note)
        getattr(instance, removed).unlink()
        instance.keep(note)
        assert Instance(tmp_path / "store").note() == note
        with pytest.raises(StartError, match="already runs"), Instance(tmp_path / "store").held():
            raise AssertionError("both hold it")
    assert not instance.is_running()


def test_a_lock_that_another_took_meanwhile_is_left_to_it(tmp_path: Path) -> None:
    instance = Instance(tmp_path / "store")
    with instance.held():
        instance.lock_path.unlink()
        with Instance(tmp_path / "store").held(), pytest.raises(OSError, match="another process has taken"):
            instance.keep({})


def test_a_folder_that_cannot_be_used_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(StartError, match="cannot use the folder of the store"),
        Instance(tmp_path / "file" / "s").held(),
    ):
        raise AssertionError("it is held")


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
    check_port("127.0.0.1", 0)


def test_a_name_with_two_addresses_has_one_port_on_all_that_exist() -> None:
    sockets = listening_sockets("localhost", 0)
    try:
        assert len({bound.getsockname()[1] for bound in sockets}) == 1
        assert "127.0.0.1" in {bound.getsockname()[0] for bound in sockets}
        for bound in sockets:
            with socket.socket(bound.family) as client, pytest.raises(ConnectionRefusedError):
                client.connect(bound.getsockname())
    finally:
        for bound in sockets:
            bound.close()


def test_an_address_of_another_machine_is_refused() -> None:
    with pytest.raises(StartError, match=r"cannot listen on 192\.0\.2\.1:8000"):
        check_port("192.0.2.1", 8000)
