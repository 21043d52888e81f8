"""A broker's address, as redis-py and Celery write it."""

from __future__ import annotations

import pytest

from exchange.addresses import celery_url


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("redis://:secret@host:6379/0", "redis://:secret@host:6379/0"),
        ("rediss://host/1?ssl_cert_reqs=none", "rediss://host/1?ssl_cert_reqs=none"),
        ("unix:///run/broker.sock?db=2", "redis+socket:///run/broker.sock?virtual_host=2"),
        ("unix:///with%20space/b.sock", "redis+socket:///with%20space/b.sock?"),
        ("unix://:secret@/run/b.sock?db=0", "redis+socket://:secret@/run/b.sock?virtual_host=0"),
    ],
)
def test_a_unix_socket_has_another_scheme_in_celery(given: str, expected: str) -> None:
    assert celery_url(given) == expected
