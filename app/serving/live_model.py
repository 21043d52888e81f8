"""Holds the served version as one reference: a request reads it once, a swap replaces it."""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch

from app.errors import NotReadyError, StaleError
from app.metrics import Metrics
from model_store.store import Store
from model_store.types import VersionId
from segp_cl.data.preprocessing import Preprocessing
from segp_cl.models.backbone import Backbone
from segp_cl.runtime.classifier import Classifier, NoClassesError, embedding_space
from segp_cl.runtime.engines.interface import Engine
from segp_cl.runtime.engines.torch_engine import TorchEngine
from segp_cl.runtime.golden import GoldenAnswers, GoldenAnswersError, pictures, replay, replay_features
from segp_cl.runtime.process import give_memory_back
from segp_cl.types import LearnedClass

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Served:
    """A version in memory, ready to answer. A request that holds it can finish after a swap."""

    version_id: VersionId
    classifier: Classifier
    preprocessing: Preprocessing

    @property
    def classes(self) -> tuple[LearnedClass, ...]:
        """The version's classes, in the order of its scores."""
        return self.classifier.state.classes

    def check_classes(self) -> None:
        """Check that the version has classes.

        Raises:
            NoClassesError: the version has learned no classes yet.
        """
        if not self.classes:
            raise NoClassesError(f"version {self.version_id} has learned no classes yet; teach it some, or send labels")

    @cached_property
    def space(self) -> str:
        """The name of its embedding space."""
        return embedding_space(self.classifier.state)


class Loader:
    """Loads versions and keeps the last `warm` of them in memory, so that going back to one loads nothing.

    A warm version shares all but its adapted weights with the base model. `engine` runs versions, by default PyTorch
    does. Use it from one thread at a time.
    """

    def __init__(self, store: Store, base: Backbone, *, warm: int, engine: Engine | None = None) -> None:
        self._store = store
        self._base = base
        self._warm = warm
        self._engine = engine or TorchEngine()
        self._kept: OrderedDict[VersionId, tuple[Served, GoldenAnswers | None]] = OrderedDict()

    def __call__(self, version_id: VersionId) -> Served:
        """Load a version on the base model, and check its files and its golden answers.

        A version that is in memory is not read again: the process that moves CURRENT to it verifies its files.

        Raises:
            VersionNotFoundError: there is no such version.
            CorruptVersionError: its bytes are not what was published.
            IncompatibleStateError: it belongs to another base model.
            GoldenAnswersError: it does not reproduce its golden answers.
        """
        kept = self._kept.pop(version_id, None)
        loaded = kept is None
        if kept is None:
            kept = self._load(version_id)
        elif kept[1] is not None:
            replay_features(kept[0].classifier, kept[1])
        self._kept[version_id] = kept
        while len(self._kept) > self._warm:
            self._kept.popitem(last=False)
        if loaded:
            give_memory_back()  # what loading needed, and the version that made way
        return kept[0]

    def _load(self, version_id: VersionId) -> tuple[Served, GoldenAnswers | None]:
        content = self._store.read(version_id)
        classifier = Classifier(self._base, content.state, engine=self._engine, keep_sums=False)
        served = Served(version_id, classifier, self._base.preprocessing)
        size = self._base.preprocessing.size
        for batch_size in self._engine.warm:
            classifier.features(torch.zeros(batch_size, 3, size, size, dtype=torch.uint8))
        if content.golden is not None:
            _replay(classifier, content.golden, size)
        else:  # published by an older release: run something
            served.classifier.features(pictures(size))
        _ = served.space  # hashes megabytes, so compute it before the first request
        return served, content.golden


def _replay(classifier: Classifier, golden: GoldenAnswers, size: int) -> None:
    """Compare with golden answers; where another engine than PyTorch does not give them, PyTorch has to.

    Raises:
        GoldenAnswersError: the answers differ.
    """
    try:
        replay(classifier, golden, size)
    except GoldenAnswersError as error:
        if not classifier.fall_back(str(error)):
            raise
        replay(classifier, golden, size)


def uptime_s() -> float:
    """Return seconds of a clock that goes on while this process is stopped or the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


class LiveModel:
    """The version that is served. Reading and replacing one reference is atomic, so there is no lock.

    Args:
        metrics: counts swaps.
        lease_s: seconds that this server may answer after it last read CURRENT; one that was stopped for longer may
            serve a version that the other servers have left.
        clock: returns seconds; it must go on while this process is stopped.
    """

    def __init__(
        self, metrics: Metrics, *, lease_s: float = float("inf"), clock: Callable[[], float] = uptime_s
    ) -> None:
        self._metrics = metrics
        self._lease_s = lease_s
        self._clock = clock
        self._confirmed_at = clock()
        self._refusal: str | None = None
        self._served: Served | None = None

    @property
    def version_id(self) -> VersionId | None:
        """The version that is served, None before the first is loaded."""
        return None if self._served is None else self._served.version_id

    def get(self) -> Served:
        """Return the version that answers a whole request.

        Raises:
            NotReadyError: no version is loaded.
            StaleError: the other servers may serve another version.
        """
        if self._served is None:
            raise NotReadyError("no version is loaded yet")
        if self._refusal is not None:
            raise StaleError(self._refusal)
        unseen_s = self._clock() - self._confirmed_at
        if unseen_s > self._lease_s:
            raise StaleError(f"this server read CURRENT {unseen_s:.0f} s ago; expected at most {self._lease_s:g} s ago")
        return self._served

    @property
    def is_confirmed(self) -> bool:
        """Whether CURRENT was read a short while ago."""
        return self._clock() - self._confirmed_at <= self._lease_s

    def confirm(self) -> None:
        """Note that CURRENT was read just now."""
        self._confirmed_at = self._clock()

    def refuse(self, why: str | None) -> None:
        """Refuse all requests from now on, for this reason; None: answer again."""
        self._refusal = why

    def swap(self, served: Served) -> None:
        """Serve another version from now on. Requests that hold the previous one finish on it."""
        before, self._served = self.version_id, served
        self._metrics.swaps.inc()
        self._metrics.serving.info({"version": served.version_id})
        self._metrics.engine.info({"name": served.classifier.engine})
        self._metrics.classes.set(len(served.classes))
        logger.info(
            "serving model_version=%s before=%s engine=%s",
            served.version_id,
            before or "none",
            served.classifier.engine,
        )
