"""When a request is sent again, and how long to wait before."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import httpx

RETRY_STATUSES = frozenset({429, 503})
MAX_DOUBLINGS = 16


@dataclass(frozen=True)
class Retries:
    """Requests that could not be delivered, or were turned away for now (429, 503), are sent again.

    The wait doubles with every attempt, and half of it is random, so that clients that were turned away together do
    not come back together. `Retry-After` is never undercut; one that asks for more than `max_wait_s` ends the attempts.
    A connection that breaks once it stands is not tried again: the request may have arrived.

    Args:
        attempts: How often a request is sent in all; 1 means never again.
        backoff_s: The longest wait after the first attempt, where the service asks for none.
        max_wait_s: Bounds the doubling, and what `Retry-After` may ask for.
        jitter: Draws from [0, 1).
    """

    attempts: int = 4
    backoff_s: float = 0.5
    max_wait_s: float = 30.0
    jitter: Callable[[], float] = random.random

    def wait_s(self, attempt: int, outcome: httpx.Response | Exception) -> float | None:
        """Seconds until the next attempt, or None if this outcome, of the 1-based `attempt`, is the last."""
        asked = asked_wait_s(outcome)
        if asked is None or asked > self.max_wait_s or attempt >= self.attempts:
            return None
        backoff = min(self.backoff_s * 2.0 ** min(attempt - 1, MAX_DOUBLINGS), self.max_wait_s)
        return max(asked, backoff / 2) + self.jitter() * backoff / 2


def asked_wait_s(outcome: httpx.Response | Exception) -> float | None:
    """Seconds that another attempt has to wait at least; None if another attempt would not help, or might do harm."""
    if isinstance(outcome, httpx.Response):
        return retry_after_s(outcome) if outcome.status_code in RETRY_STATUSES else None
    return 0.0 if isinstance(outcome, httpx.ConnectError | httpx.ConnectTimeout) else None


def retry_after_s(response: httpx.Response) -> float:
    """`Retry-After` in seconds, whether it is a number or a date; 0 if it is neither, or has passed."""
    said = response.headers.get("Retry-After", "")
    try:
        wait = float(said)
    except ValueError:
        then = http_date(said)
        # by the service's own clock where it tells it: ours may be wrong
        wait = (
            (then - (http_date(response.headers.get("Date", "")) or datetime.now(UTC))).total_seconds() if then else 0
        )
    return max(wait, 0.0) if math.isfinite(wait) else 0.0


def http_date(text: str) -> datetime | None:
    """An HTTP date; None if it is none."""
    try:
        moment = parsedate_to_datetime(text)
    except ValueError:
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
