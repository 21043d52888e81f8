"""What a server tells of its own work."""

from __future__ import annotations

from app.figures import figures_of
from app.metrics import Metrics


def test_counts_are_of_the_routes_that_answer() -> None:
    metrics = Metrics()
    for route, seconds in (("/v1/classify", 0.02), ("/v1/embeddings", 0.2), ("/part/live", 9.0), ("/v1/versions", 9.0)):
        metrics.request_seconds.labels(route).observe(seconds)
    metrics.count_answer(0.5, unknown=True)
    metrics.count_answer(0.75, unknown=False)
    metrics.count_answer(0.25, unknown=None)
    metrics.queue_depth.set(7)
    metrics.in_hand.set(2)
    found = figures_of(metrics)
    assert found.requests == 2
    counts = dict(zip(found.latency_bounds_s, found.latency, strict=False))
    assert (counts[0.01], counts[0.025], counts[0.25], found.latency[-1]) == (0, 1, 2, 2)
    assert (found.answers, found.probability_sum, found.unknown, found.known) == (3, 1.5, 1, 1)
    assert (found.queue, found.in_hand) == (7, 2)


def test_a_server_that_answered_nothing_says_so() -> None:
    found = figures_of(Metrics())
    assert (found.requests, found.answers, found.latency) == (0, 0, ())
