"""The server's metrics, in their own registry, so that two apps in one process do not share counts."""

from __future__ import annotations

from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, generate_latest

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_STALLS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5)
_SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.99, 1)
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)


class Metrics:
    """Prometheus metrics of one app."""

    def __init__(self) -> None:
        registry = CollectorRegistry()
        self.registry = registry
        self.requests = Counter(
            "keepsight_requests", "Requests answered.", ["method", "route", "status"], registry=registry
        )
        self.request_seconds = Histogram(
            "keepsight_request_seconds", "Time to answer.", ["route"], buckets=_SECONDS, registry=registry
        )
        self.refusals_held = Counter(
            "keepsight_refusals_held", "Refusals held back, because their caller got too many.", registry=registry
        )
        self.images = Counter("keepsight_images", "Images answered or refused.", ["outcome"], registry=registry)
        self.answer_probability = Histogram(
            "keepsight_answer_probability",
            "Probability of the best label of an image.",
            buckets=_SHARES,
            registry=registry,
        )
        self.answers = Counter(
            "keepsight_answers", "Images answered, by whether they look like no class.", ["unknown"], registry=registry
        )
        self.inference_seconds = Histogram(
            "keepsight_inference_seconds", "Seconds of a forward pass, no waiting.", buckets=_SECONDS, registry=registry
        )
        self.batch_size = Histogram(
            "keepsight_batch_images", "Images in one forward pass.", buckets=_SIZES, registry=registry
        )
        self.in_hand = Gauge(
            "keepsight_requests_in_hand", "Requests that are being decoded, waiting or running.", registry=registry
        )
        self.queue_depth = Gauge("keepsight_inference_queue", "Images that wait for a forward pass.", registry=registry)
        self.swaps = Counter("keepsight_swaps", "Versions this server began to serve.", registry=registry)
        self.load_failures = Counter(
            "keepsight_version_load_failures", "Versions that could not be loaded.", registry=registry
        )
        self.load_seconds = Histogram(
            "keepsight_version_load_seconds", "Seconds to load and warm a version.", buckets=_SECONDS, registry=registry
        )
        self.serving = Info("keepsight_serving", "The version that is served.", registry=registry)
        self.engine = Info("keepsight_engine", "What runs the served version's image tower.", registry=registry)
        self.engine_failures = Counter(
            "keepsight_engine_failures", "Versions that PyTorch runs because OpenVINO failed.", registry=registry
        )
        self.classes = Gauge("keepsight_classes", "Classes of the version that is served.", registry=registry)
        self.connections = Gauge("keepsight_connections", "Connections that are open.", registry=registry)
        self.connections_ended = Counter(
            "keepsight_connections_ended",
            "Connections the server ended, by reason.",
            ["reason"],
            registry=registry,
        )
        self.loop_stall_seconds = Histogram(
            "keepsight_event_loop_stall_seconds",
            "How late the event loop comes back from a sleep.",
            buckets=_STALLS,
            registry=registry,
        )
        self.longest_loop_stall = Gauge(
            "keepsight_event_loop_longest_stall_seconds", "The longest such delay since the start.", registry=registry
        )
        self.loop_hold_seconds = Histogram(
            "keepsight_event_loop_hold_seconds",
            "The same without the time in which no core was free for it.",
            buckets=_STALLS,
            registry=registry,
        )
        self.longest_loop_hold = Gauge(
            "keepsight_event_loop_longest_hold_seconds", "The longest such hold since the start.", registry=registry
        )
        self.test_set_accuracy = Gauge(
            "keepsight_test_set_accuracy",
            "What the served version has right of a test set's images of known classes.",
            ["test_set", "path"],
            registry=registry,
        )
        self._test_sets: frozenset[tuple[str, str]] = frozenset()
        self.uploads = Counter("keepsight_uploads", "Task uploads, by outcome.", ["outcome"], registry=registry)

    def count_answer(self, probability: float, unknown: bool | None) -> None:
        """Count the answer to an image; `unknown` is None where the version cannot tell, or was asked other words."""
        self.answer_probability.observe(probability)
        if unknown is not None:
            self.answers.labels("yes" if unknown else "no").inc()

    def count_ended(self, reason: str) -> None:
        """Count a connection that the server ended."""
        self.connections_ended.labels(reason).inc()

    def set_test_sets(self, accuracies: Mapping[tuple[str, str], float]) -> None:
        """Set the accuracies by test set and path; those that are not among them are removed."""
        for labels in self._test_sets - accuracies.keys():
            self.test_set_accuracy.remove(*labels)
        for labels, value in accuracies.items():
            self.test_set_accuracy.labels(*labels).set(value)
        self._test_sets = frozenset(accuracies)

    def render(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return generate_latest(self.registry)
