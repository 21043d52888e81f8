"""What a server reports of its own work, in each sign of life, so that one of them can show all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from prometheus_client.metrics_core import Metric
from prometheus_client.samples import Sample

from app.metrics import Metrics
from exchange.roster import ServerFigures

_ROUTES = ("/v1/classify", "/v1/embeddings", "/infer")


def figures_of(metrics: Metrics) -> ServerFigures:
    """Return the counts since this server's start, of the routes that answer images and texts."""
    latency: Counter[float] = Counter()
    for sample in _samples(metrics.request_seconds.collect()):
        if sample.name.endswith("_bucket") and _answers(sample.labels["route"]):
            latency[float(sample.labels["le"])] += int(sample.value)
    outcomes = {sample.labels["unknown"]: int(sample.value) for sample in _samples(metrics.answers.collect(), "_total")}
    probability = {
        sample.name.rpartition("_")[2]: sample.value for sample in _samples(metrics.answer_probability.collect())
    }
    bounds = sorted(latency)
    return ServerFigures(
        requests=latency[bounds[-1]] if bounds else 0,
        latency_bounds_s=tuple(bound for bound in bounds if bound != float("inf")),
        latency=tuple(latency[bound] for bound in bounds),
        in_hand=int(_value(metrics.in_hand.collect())),
        queue=int(_value(metrics.queue_depth.collect())),
        answers=int(probability.get("count", 0)),
        probability_sum=probability.get("sum", 0.0),
        unknown=outcomes.get("yes", 0),
        known=outcomes.get("no", 0),
    )


def _answers(route: str) -> bool:
    return route.endswith(_ROUTES)


def _samples(metrics: Iterable[Metric], suffix: str = "") -> list[Sample]:
    return [sample for metric in metrics for sample in metric.samples if sample.name.endswith(suffix)]


def _value(metrics: Iterable[Metric]) -> float:
    return float(_samples(metrics)[0].value)
