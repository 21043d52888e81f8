"""Decides when a request is sent again, and how long to wait before that."""

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
    """How to retry requests that could not be delivered, or were refused for now (429, 503).

    The wait doubles with every attempt, and half of it is random, so that clients that were refused together do not
    come back together. It is never shorter than `Retry-After`; one longer than `max_wait_s` ends the attempts. A
    request whose connection breaks is not sent again: it may have arrived.

    Args:
        attempts: How often a request is sent in all; 1 means no retry.
        backoff_s: The longest wait after the first attempt, if the service asks for none.
        max_wait_s: Bounds the doubling, and what `Retry-After` may ask for.
        jitter: Draws from [0, 1).
    """

    attempts: int = 4
    backoff_s: float = 0.5
    max_wait_s: float = 30.0
    jitter: Callable[[], float] = random.random

    def wait_s(self, attempt: int, outcome: httpx.Response | Exception) -> float | None:
        """Return the seconds until the next attempt, or None if `attempt` (from 1), with this outcome, is the last."""
        asked = asked_wait_s(outcome)
        if asked is None or asked > self.max_wait_s or attempt >= self.attempts:
            return None
        backoff = min(self.backoff_s * 2.0 ** min(attempt - 1, MAX_DOUBLINGS), self.max_wait_s)
        return max(asked, backoff / 2) + self.jitter() * backoff / 2


def asked_wait_s(outcome: httpx.Response | Exception) -> float | None:
    """Return the seconds to wait at least before another attempt; None if it would not help, or might do harm."""
    if isinstance(outcome, httpx.Response):
        return retry_after_s(outcome) if outcome.status_code in RETRY_STATUSES else None
    return 0.0 if isinstance(outcome, httpx.ConnectError | httpx.ConnectTimeout) else None


def retry_after_s(response: httpx.Response) -> float:
    """Return `Retry-After`, a number or a date, in seconds; 0 if it is neither, or has passed."""
    said = response.headers.get("Retry-After", "")
    try:
        wait = float(said)
    except ValueError:
        then = http_date(said)
        # by the service's clock if it sends it: ours may be wrong
        wait = (
            (then - (http_date(response.headers.get("Date", "")) or datetime.now(UTC))).total_seconds() if then else 0
        )
    return max(wait, 0.0) if math.isfinite(wait) else 0.0


def http_date(text: str) -> datetime | None:
    """Parse an HTTP date; return None if it is invalid."""
    try:
        moment = parsedate_to_datetime(text)
    except ValueError:
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
