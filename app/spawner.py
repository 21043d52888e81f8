"""Starts processes for work that is kept apart from the server: at low priority, and without holding it up.

`subprocess` holds the interpreter, and with it every answer, until the new process runs its program. On a busy machine
that takes tens of milliseconds, so the system's own function is called here without the interpreter.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import signal
from collections.abc import Mapping, Sequence
from typing import Any, BinaryIO, Final, Self

from segp_cl.runtime.process import yield_to_others

_LIBC: Final = ctypes.CDLL(None)  # whose functions are called without the interpreter
_ACTIONS_WORDS: Final = 128  # several times what any system needs
_FIRST_FREE: Final = 3  # not one of the standard files


class Process:
    """A process that is ours to end. Use as a context manager: it is gone afterwards.

    Attributes:
        pid: its id.
        stdin: the pipe that it reads, if it was to have one.
        stdout: the pipe that it writes.
    """

    def __init__(self, pid: int, stdin: BinaryIO | None, stdout: BinaryIO) -> None:
        self.pid = pid
        self.stdin = stdin
        self.stdout = stdout
        self._status: int | None = None

    def kill(self) -> None:
        """End it now, if it has not been waited for."""
        if self._status is None:
            os.kill(self.pid, signal.SIGKILL)

    def wait(self) -> int:
        """Wait for its end: its exit status, or the negative number of the signal that ended it."""
        if self._status is None:
            self._status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self._status

    def close(self) -> None:
        """End it, and close its pipes."""
        self.kill()
        self.wait()
        self.stdout.close()
        if self.stdin is not None:
            self.stdin.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def start(
    command: Sequence[str],
    *,
    env: Mapping[str, str],
    pass_fds: Sequence[int] = (),
    stdin: bool = False,
    quiet: bool = False,
) -> Process:
    """Start a process of low priority, whose standard output is a pipe.

    Args:
        command: the program, which is looked for as a shell does, and its arguments.
        env: its environment.
        pass_fds: descriptors that it has under the same numbers.
        stdin: it has a pipe to read; otherwise there is nothing to read.
        quiet: what it writes to its standard error goes nowhere.

    Raises:
        OSError: it could not be started.
    """
    theirs: list[int] = []
    ours: list[BinaryIO] = []
    try:
        if stdin:
            to_read, to_fill = _pipe()
            theirs.append(to_read)
            ours.append(os.fdopen(to_fill, "wb"))
        else:
            theirs.append(_high(os.open(os.devnull, os.O_RDONLY)))
        to_drain, to_write = _pipe()
        ours.append(os.fdopen(to_drain, "rb", buffering=0))
        theirs.append(to_write)
        if quiet:
            theirs.append(_high(os.open(os.devnull, os.O_WRONLY)))
        pid = _spawn(command, env, {**dict(enumerate(theirs)), **{kept: kept for kept in pass_fds}})
    except BaseException:
        for pipe in ours:
            pipe.close()
        raise
    finally:
        for descriptor in theirs:
            os.close(descriptor)
    yield_to_others(pid)
    return Process(pid, ours[0] if stdin else None, ours[-1])


def _pipe() -> tuple[int, int]:
    read, write = os.pipe()
    return _high(read), _high(write)


def _high(descriptor: int) -> int:
    """Return a descriptor that none of the standard files takes the place of, where the server lacks some of them."""
    if descriptor >= _FIRST_FREE:
        return descriptor
    try:
        return fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, _FIRST_FREE)
    finally:
        os.close(descriptor)


def _spawn(command: Sequence[str], env: Mapping[str, str], files: Mapping[int, int]) -> int:
    """Start a process and return its id; `files` says which of our descriptors it has under which number."""
    actions = (ctypes.c_uint64 * _ACTIONS_WORDS)()
    pid = ctypes.c_int()
    _checked(_LIBC.posix_spawn_file_actions_init(actions))
    try:
        for number in _inherited() - files.keys():
            _checked(_LIBC.posix_spawn_file_actions_addclose(actions, number))
        for number, descriptor in files.items():
            # one with the same number as before is kept open, instead of being closed as all others are
            _checked(_LIBC.posix_spawn_file_actions_adddup2(actions, descriptor, number))
        words, settings = _strings(command), _strings([f"{name}={value}" for name, value in env.items()])
        _checked(_LIBC.posix_spawnp(ctypes.byref(pid), words[0], actions, None, words, settings))
    finally:
        _LIBC.posix_spawn_file_actions_destroy(actions)
    return pid.value


def _inherited() -> set[int]:
    """Return the files that every new process would have: what the server got when it was started, such as a socket."""
    found = set()
    for name in os.listdir("/dev/fd"):
        number = int(name)
        with contextlib.suppress(OSError):  # it was closed meanwhile, as that of the list itself
            if number >= _FIRST_FREE and os.get_inheritable(number):
                found.add(number)
    return found


def _strings(texts: Sequence[str]) -> Any:
    encoded = [os.fsencode(text) for text in texts]
    if any(b"\0" in text for text in encoded):
        raise ValueError("embedded null byte")
    return (ctypes.c_char_p * (len(encoded) + 1))(*encoded, None)


def _checked(number: int) -> None:
    if number:
        raise OSError(number, os.strerror(number))
