"""A broker between the program and the real one, which can be told to answer as a broker in trouble does."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable
from typing import Final
from urllib.parse import urlsplit

Fault = Callable[[list[bytes]], bytes | None]
"""Gets a command; returns the bytes to answer instead of passing it on, or None."""

REPLIES: Final = {
    "READONLY": b"-READONLY You can't write against a read only replica.\r\n",
    "OOM": b"-OOM command not allowed when used memory > 'maxmemory'.\r\n",
    "MISCONF": b"-MISCONF Errors writing to the AOF file: No space left on device\r\n",
    "NOREPLICAS": b"-NOREPLICAS Not enough good replicas to write.\r\n",
    "LOADING": b"-LOADING Valkey is loading the dataset in memory\r\n",
    "CLUSTERDOWN": b"-CLUSTERDOWN Hash slot not served\r\n",
    "MASTERDOWN": b"-MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.\r\n",
    "BUSY": b"-BUSY Valkey is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.\r\n",
    "NOAUTH": b"-NOAUTH Authentication required.\r\n",
    "WRONGPASS": b"-WRONGPASS invalid username-password pair or user is disabled.\r\n",
    "NOPERM": b"-NOPERM User default has no permissions to run the 'eval' command\r\n",
    "TRYAGAIN": b"-TRYAGAIN Multiple keys request during rehashing of slot\r\n",
    "DENIED": b"-DENIED Running in protected mode because protected mode is enabled.\r\n",
    "EXECABORT": b"-EXECABORT Transaction discarded because of: OOM command not allowed\r\n",
    "clients": b"-ERR max number of clients reached\r\n",
    "in a script, new": b"-OOM command not allowed when used memory > 'maxmemory'. script: 3f2, on @user_script:3.\r\n",
    "in a script, old": b"-ERR Error running script (call to f_3f2): @user_script:2: -READONLY You can't write "
    b"against a read only replica.\r\n",
    "misconf in a script": b"-ERR Error running script (call to f_3f2): @user_script:2: @user_script: 2: -MISCONF "
    b"Errors writing to the AOF file\r\n",
    "noperm in a script": b"-ERR ACL failure in script: User default has no permissions to run the 'zadd' command "
    b"script: 3f2, on @user_script:5.\r\n",
    "a web server": b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n",
    "a shell server": b"SSH-2.0-OpenSSH_9.6\r\n",
    "bytes": b"\x15\x03\x03\x00\x02\x02\x46\xff\xfe\r\n",
}
"""What brokers in trouble answer, and what other programs on their port do."""

OUR_MISTAKES: Final = {
    "a script": b"-ERR user_script:1: Script attempted to access nonexistent global variable 'x' script: 3f2\r\n",
    "a type": b"-WRONGTYPE Operation against a key holding the wrong kind of value\r\n",
    "an argument": b"-ERR wrong number of arguments for 'hget' command\r\n",
}


def always(reply: bytes) -> Fault:
    """Answer everything so, the greeting of a new connection too."""
    return lambda command: reply


def to(reply: bytes, *commands: str) -> Fault:
    """Answer these commands so."""
    names = {name.upper().encode() for name in commands}
    return lambda command: reply if command[0].upper() in names else None


class BrokerProxy:
    """Passes commands on to a broker, or answers them as `fault` says. Use as a context manager.

    Attributes:
        fault: what goes wrong now; None: nothing.
        silent: set while commands are read and nothing is answered.
    """

    def __init__(self, redis_url: str) -> None:
        address = urlsplit(redis_url)
        self._target = (address.hostname or "127.0.0.1", address.port or 6379)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: set[socket.socket] = set()
        self.fault: Fault | None = None
        self.silent = threading.Event()
        self.subscriptions = 0
        self.url = f"redis://127.0.0.1:{self._listener.getsockname()[1]}{address.path}"

    def __enter__(self) -> BrokerProxy:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()
        self.drop()

    def drop(self) -> None:
        """Cut all connections."""
        for each in list(self._open):
            self._cut(each)

    def _cut(self, *ends: socket.socket) -> None:
        for end in ends:
            self._open.discard(end)
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                broker = socket.create_connection(self._target)
            except OSError:
                client.close()
                continue
            self._open |= {client, broker}
            threading.Thread(target=self._answer, args=(broker, client), daemon=True).start()
            threading.Thread(target=self._ask, args=(client, broker), daemon=True).start()

    def _answer(self, broker: socket.socket, client: socket.socket) -> None:
        try:
            while data := broker.recv(65536):
                if not self.silent.is_set():
                    client.sendall(data)
        except OSError:
            pass
        self._cut(broker, client)

    def _ask(self, client: socket.socket, broker: socket.socket) -> None:
        reader = client.makefile("rb")
        try:
            while head := reader.readline():
                command, raw = [], head
                for _ in range(int(head[1:])):
                    size = reader.readline()
                    data = reader.read(int(size[1:]) + 2)
                    command.append(data[:-2])
                    raw += size + data
                self.subscriptions += command[0].upper() == b"SUBSCRIBE"
                reply = self.fault(command) if self.fault else None
                if self.silent.is_set():
                    continue
                if reply is None:
                    broker.sendall(raw)
                else:
                    client.sendall(reply)
        except (OSError, ValueError):
            pass
        self._cut(client, broker)
