"""The demo's measurements: accuracy by path, a version's answers, and a client that sends requests all the time."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from math import isclose
from pathlib import Path
from types import TracebackType
from typing import Self

from keepsight.client import Client
from keepsight.client.api import ImageResult, Prediction
from keepsight.client.batches import classify_files
from keepsight.client.retries import Retries
from keepsight.demo.data import DemoData, DemoTask
from keepsight.demo.errors import DemoError

STEADY_INTERVAL_S = 0.25
MAX_TOP_K = 1000
SAME = 1e-4  # relative and absolute; another version's numbers differ by far more


@dataclass(frozen=True)
class Accuracy:
    """Top-1 accuracies in [0, 1] on one task's held-out images; None if a path does not exist.

    `among` is the number of labels to choose from: the version's classes if the task was `taught`, otherwise the
    class names of all tasks, which only the text path can score.
    """

    text: float
    visual: float | None
    fused: float | None
    among: int
    taught: bool


@dataclass(frozen=True)
class Measured:
    """A version's accuracy on every task, and its complete answers for later comparison."""

    version_id: str
    accuracy: dict[str, Accuracy]
    answers: dict[str, list[ImageResult]]

    def to_json(self) -> dict[str, object]:
        """Return this as JSON, without the answers."""
        return {"version_id": self.version_id, "accuracy": {name: asdict(a) for name, a in self.accuracy.items()}}


def measure(client: Client, data: DemoData, *, taught: int) -> Measured:
    """Classify every task's held-out images with the served version, which has learned the first `taught` tasks.

    Raises:
        DemoError: the service moved to another version meanwhile.
        ClientError: a request failed.
    """
    accuracy: dict[str, Accuracy] = {}
    answers: dict[str, list[ImageResult]] = {}
    versions: set[str] = set()
    seen = sum(len(task.classes) for task in data.tasks[:taught])
    for number, task in enumerate(data.tasks):
        known = number < taught
        answer = classify_files(
            client,
            [path for path, _ in task.held_out],
            top_k=min(MAX_TOP_K, seen if known else len(data.classes)),
            path="fused" if known else "text",
            labels=() if known else data.classes,
            template=None if known else data.template,
        )
        versions.add(answer["model_version"])
        answers[task.name] = answer["results"]
        accuracy[task.name] = accuracy_of(
            answer["results"], task, among=seen if known else len(data.classes), taught=known
        )
    if len(versions) != 1:
        raise DemoError(f"the service moved between {', '.join(sorted(versions))} while it was being measured")
    return Measured(versions.pop(), accuracy, answers)


def same_answer(was: ImageResult, is_now: ImageResult) -> bool:
    """Return whether one version gave both: the same labels with the same numbers, except for rounding.

    The last bits of a score depend on which images share a forward pass, and so does the order of nearly equal labels.
    """

    def by_label(result: ImageResult) -> dict[str, Prediction]:
        return {prediction["label"]: prediction for prediction in result["predictions"]}

    def close(one: Prediction, other: Prediction) -> bool:
        return all(
            a == b or (a is not None and b is not None and isclose(a, b, rel_tol=SAME, abs_tol=SAME))
            for a, b in (
                (one["score"], other["score"]),
                (one["text_score"], other["text_score"]),
                (one["visual_score"], other["visual_score"]),
                (one["fused_score"], other["fused_score"]),
                (one["probability"], other["probability"]),
            )
        )

    before, now = by_label(was), by_label(is_now)
    same_rest = was["error"] == is_now["error"] and before.keys() == now.keys()
    return same_rest and all(close(before[label], now[label]) for label in before)


def accuracy_of(results: Sequence[ImageResult], task: DemoTask, *, among: int, taught: bool) -> Accuracy:
    """Return accuracy by path. An answer that lists all classes holds the ranking of every path.

    Raises:
        DemoError: no image could be read.
    """
    hits = {"text": 0, "visual": 0, "fused": 0}
    counted = 0
    for result, (_, truth) in zip(results, task.held_out, strict=True):
        if result["error"]:
            continue
        counted += 1
        predictions = result["predictions"]
        hits["text"] += best(predictions, "text_score") == truth
        if taught:
            hits["visual"] += best(predictions, "visual_score") == truth
            hits["fused"] += predictions[0]["label"] == truth
    if not counted:
        raise DemoError(f"none of the held-out images of {task.name!r} could be read")
    share = {name: count / counted for name, count in hits.items()}
    if not taught:
        return Accuracy(share["text"], None, None, among, taught)
    return Accuracy(share["text"], share["visual"], share["fused"], among, taught)


def best(predictions: Sequence[Prediction], path: str) -> str:
    """Return the label that a path ranks first."""
    scores = {p["label"]: p["text_score"] if path == "text_score" else p["visual_score"] for p in predictions}
    return max(scores, key=lambda label: -2.0 if scores[label] is None else scores[label] or 0.0)


@dataclass
class SteadyReport:
    """What the steady client saw. `failures` holds a sentence for every request that was not answered."""

    requests: int = 0
    failures: list[str] = field(default_factory=list)
    versions: list[str] = field(default_factory=list)
    slowest_s: float = 0.0


class SteadyClient:
    """Classifies one image again and again, without retries, and counts failures.

    It starts with labels that no version was taught, and uses the taught classes once `taught` is set.
    """

    def __init__(self, url: str, image: Path, labels: Sequence[str], template: str) -> None:
        self.report = SteadyReport()
        self.taught = threading.Event()
        self._client = Client(url, retries=Retries(attempts=1))
        self._image = ("steady" + image.suffix, image.read_bytes())
        self._labels = labels
        self._template = template
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="steady-client", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join()
        self._client.close()

    def has_seen(self, version_id: str, *, timeout_s: float = 30.0) -> bool:
        """Wait until the latest answer came from `version_id`; False if that did not happen in time."""
        deadline = time.monotonic() + timeout_s
        while self.report.versions[-1:] != [version_id]:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.02)
        return True

    def _run(self) -> None:
        while not self._stop.is_set():
            began = time.monotonic()
            self.report.requests += 1
            try:
                self._ask()
            except Exception as error:  # whatever went wrong, the request was not answered
                self.report.failures.append(str(error) or type(error).__name__)
            took = time.monotonic() - began
            self.report.slowest_s = max(self.report.slowest_s, took)
            self._stop.wait(max(0.0, STEADY_INTERVAL_S - took))

    def _ask(self) -> None:
        if self.taught.is_set():
            answer = self._client.classify([self._image])
        else:
            answer = self._client.classify([self._image], path="text", labels=self._labels, template=self._template)
        if answer["results"][0]["error"] or not answer["results"][0]["predictions"]:
            raise DemoError(f"the service answered without predictions: {answer['results'][0]}")
        if answer["model_version"] not in self.report.versions[-1:]:
            self.report.versions.append(answer["model_version"])
