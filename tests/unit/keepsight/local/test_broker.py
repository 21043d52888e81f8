"""The embedded broker as a process."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from keepsight.local.instance import free_port


def start(folder: Path, port: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "keepsight.local.broker", "--data-dir", str(folder), "--port", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line.startswith(f"broker: redis://127.0.0.1:{port}/0"), line
    return process


def stop(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    with process.stdout:
        process.send_signal(signal.SIGTERM)
        assert process.wait(15) == 0


def ask(port: int, *words: str) -> str:
    """One command in the Redis protocol."""
    request = f"*{len(words)}\r\n" + "".join(f"${len(word)}\r\n{word}\r\n" for word in words)
    with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        connection.sendall(request.encode())
        return connection.recv(4096).decode()


def test_what_it_holds_outlives_a_restart(tmp_path: Path) -> None:
    port = free_port()
    first = start(tmp_path, port)
    assert ask(port, "SET", "job", "queued") == "+OK\r\n"
    stop(first)
    second = start(tmp_path, port)
    assert ask(port, "GET", "job") == "$6\r\nqueued\r\n"
    stop(second)


def test_it_ends_with_an_error_when_the_server_does(tmp_path: Path) -> None:
    port = free_port()
    process = start(tmp_path, port)
    with pytest.raises((ConnectionError, IndexError)):
        _ = ask(port, "SHUTDOWN", "NOSAVE")[0]
    assert process.stdout is not None
    with process.stdout:
        assert process.wait(20) == 1
        assert "the process ended; its log is" in process.stdout.read()


def test_a_taken_port_is_a_sentence(tmp_path: Path) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        command = [sys.executable, "-m", "keepsight.local.broker", "--data-dir", str(tmp_path), "--port", str(port)]
        began = time.monotonic()
        ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    assert ran.returncode == 1
    assert ran.stderr.startswith("broker: ")
    assert "Traceback" not in ran.stderr
    assert time.monotonic() - began < 20
