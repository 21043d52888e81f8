"""The sockets that servers share."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from contextlib import ExitStack

import pytest
import uvloop

from app import listening
from app.listening import inherited_sockets, own_sockets, shared_socket
from keepsight.local import up


def test_both_sides_call_the_sockets_by_the_same_name() -> None:
    assert listening.LISTEN_FDS == up.LISTEN_FDS


def test_inherited_sockets_are_the_ones_that_were_bound_and_go_no_further(monkeypatch: pytest.MonkeyPatch) -> None:
    with ExitStack() as stack:
        bound = [stack.enter_context(socket.socket()) for _ in range(2)]
        for each in bound:
            each.bind(("127.0.0.1", 0))
        numbers = [os.dup(each.fileno()) for each in bound]
        for number in numbers:
            os.set_inheritable(number, True)
        monkeypatch.setenv(listening.LISTEN_FDS, ",".join(map(str, numbers)))
        inherited = [stack.enter_context(each) for each in inherited_sockets()]
        assert [each.getsockname() for each in inherited] == [each.getsockname() for each in bound]
        assert listening.LISTEN_FDS not in os.environ
        code = f"import os; os.fstat({numbers[0]})"
        ran = subprocess.run([sys.executable, "-c", code], close_fds=False, capture_output=True, check=False)
        assert ran.returncode != 0


def test_without_any_there_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(listening.LISTEN_FDS, "")
    assert inherited_sockets() == []
    assert listening.LISTEN_FDS not in os.environ
    assert inherited_sockets() == []


def test_an_address_may_be_bound_twice_where_both_agree() -> None:
    with shared_socket("127.0.0.1", 0) as first, shared_socket(*first.getsockname()) as second:
        assert first.getsockname() == second.getsockname()


@pytest.mark.parametrize("policy", [asyncio.DefaultEventLoopPolicy, uvloop.EventLoopPolicy])
def test_a_server_of_its_own_binds_what_its_host_stands_for(
    policy: type[asyncio.AbstractEventLoopPolicy],
) -> None:
    loop = policy().new_event_loop()
    with ExitStack() as stack:
        stack.callback(loop.close)
        (first,) = [stack.enter_context(each) for each in loop.run_until_complete(own_sockets("127.0.0.1", 0))]
        first.listen()
        address = first.getsockname()
        with socket.create_connection(address):
            first.accept()[0].close()
        with pytest.raises(OSError, match="in use"):
            loop.run_until_complete(own_sockets(*address))
