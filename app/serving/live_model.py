"""The version that is served, as one reference: requests take it once, a swap replaces it whole."""

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
from segp_cl.runtime.golden import GoldenAnswers, pictures, replay, replay_features
from segp_cl.runtime.passes import PassSettings
from segp_cl.types import LearnedClass

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Served:
    """A version in memory, ready to answer. Whoever holds it can use it, whatever is served meanwhile."""

    version_id: VersionId
    classifier: Classifier
    preprocessing: Preprocessing

    @property
    def classes(self) -> tuple[LearnedClass, ...]:
        """The version's classes, in the order of its scores."""
        return self.classifier.state.classes

    def check_classes(self) -> None:
        """Make sure that there is something to tell apart.

        Raises:
            NoClassesError: the version has learned no classes yet.
        """
        if not self.classes:
            raise NoClassesError(
                f"version {self.version_id} has learned no classes yet: teach it some, or ask with labels"
            )

    @cached_property
    def space(self) -> str:
        """The name of the space that its embeddings lie in."""
        return embedding_space(self.classifier.state)


class Loader:
    """Brings versions into memory, and keeps the last `warm` of them there: going back to one of these loads nothing.

    A warm version shares all but its adapted weights with the base model. `passes` says how versions are run. Used by
    one thread at a time.
    """

    def __init__(self, store: Store, base: Backbone, *, warm: int, passes: PassSettings | None = None) -> None:
        self._store = store
        self._base = base
        self._warm = warm
        self._passes = passes or PassSettings()
        self._kept: OrderedDict[VersionId, tuple[Served, GoldenAnswers | None]] = OrderedDict()

    def __call__(self, version_id: VersionId) -> Served:
        """A version on the base model, verified against what was published, that answers as it did then.

        One that is kept is not read again: who moves CURRENT to it verifies its files.

        Raises:
            VersionNotFoundError: there is none.
            CorruptVersionError: its bytes are not what was published.
            IncompatibleStateError: it belongs to another base model.
            GoldenAnswersError: it answers otherwise than when it was published.
        """
        kept = self._kept.pop(version_id, None)
        if kept is None:
            kept = self._load(version_id)
        elif kept[1] is not None:
            replay_features(kept[0].classifier, kept[1])
        self._kept[version_id] = kept
        while len(self._kept) > self._warm:
            self._kept.popitem(last=False)
        return kept[0]

    def _load(self, version_id: VersionId) -> tuple[Served, GoldenAnswers | None]:
        content = self._store.read(version_id)
        classifier = Classifier(self._base, content.state, passes=self._passes)
        served = Served(version_id, classifier, self._base.preprocessing)
        size = self._base.preprocessing.size
        for batch_size in self._passes.warm:
            classifier.features(torch.zeros(batch_size, 3, size, size, dtype=torch.uint8))
        if content.golden is not None:
            replay(served.classifier, content.golden, size)
        else:  # published by an older release: let it answer something
            served.classifier.features(pictures(size))
        _ = served.space  # hashes megabytes, so not when the first request asks
        return served, content.golden


def uptime_s() -> float:
    """Seconds that go on while this process is stopped or the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


class LiveModel:
    """Holds what is served. Reading and replacing one reference is atomic, so there is no lock.

    Args:
        metrics: where swaps are counted.
        lease_s: seconds after the last look at CURRENT for which it may be answered; a process that was stopped for
            longer may be on a version that the other servers have left.
        clock: seconds; it must go on while this process does not.
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
        """What is served now, None before the first version is loaded."""
        return None if self._served is None else self._served.version_id

    def get(self) -> Served:
        """The version to answer a whole request with.

        Raises:
            NotReadyError: none is loaded.
            StaleError: it may not be what the other servers answer with.
        """
        if self._served is None:
            raise NotReadyError("no version is loaded yet")
        if self._refusal is not None:
            raise StaleError(self._refusal)
        unseen_s = self._clock() - self._confirmed_at
        if unseen_s > self._lease_s:
            raise StaleError(f"this server has not looked for {unseen_s:.0f} s which version is to be served")
        return self._served

    def confirm(self) -> None:
        """CURRENT was looked at just now."""
        self._confirmed_at = self._clock()

    def refuse(self, why: str | None) -> None:
        """Answer nobody from now on, for this reason; with None, answer again."""
        self._refusal = why

    def swap(self, served: Served) -> None:
        """Serve another version from now on. Requests that hold the one before finish on it."""
        before, self._served = self.version_id, served
        self._metrics.swaps.inc()
        self._metrics.serving.info({"version": served.version_id})
        self._metrics.classes.set(len(served.classes))
        logger.info("serving model_version=%s before=%s", served.version_id, before or "none")
