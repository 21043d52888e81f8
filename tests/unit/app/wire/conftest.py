from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import pytest

from tests.unit.app.wire.wire import LIMITS, Running, running
from tests.waiting import wait_until


@pytest.fixture
def run_with() -> Iterator[Callable[..., Running]]:
    """Starts servers with some limits changed; they end with the test."""
    with ExitStack() as stack:

        def start(*, grace_s: float = 5.0, **changes: Any) -> Running:
            return stack.enter_context(running(replace(LIMITS, **changes), grace_s=grace_s))

        yield start


@pytest.fixture(scope="module")
def _one() -> Iterator[Running]:
    with running(LIMITS) as one:
        yield one


@pytest.fixture
def run(_one: Running) -> Iterator[Running]:
    """A server with small limits and time-outs that no test reaches, as new. Nothing of a test may be left in it."""
    _one.echo.go.clear()
    _one.echo.begun = _one.echo.hung_up = 0
    _one.ended.clear()
    yield _one
    _one.echo.go.set()
    for peer in _one.peers:
        peer.socket.close()
    _one.peers.clear()
    wait_until(_one.is_empty)
