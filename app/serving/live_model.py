"""The version that is served, as one reference: requests take it once, a swap replaces it whole."""

from __future__ import annotations

import logging
from collections import OrderedDict
from dataclasses import dataclass
from functools import cached_property

import torch

from app.errors import NotReadyError
from app.metrics import Metrics
from model_store.store import Store
from model_store.types import VersionId
from segp_cl.backbone import Backbone
from segp_cl.images import Preprocessing
from segp_cl.inference import Classifier, embedding_space
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

    @cached_property
    def space(self) -> str:
        """The name of the space that its embeddings lie in."""
        return embedding_space(self.classifier.state)


class Loader:
    """Brings versions into memory, and keeps the last `warm` of them there: going back to one of these loads nothing.

    A warm version shares all but its adapted weights with the base model. Used by one thread at a time.
    """

    def __init__(self, store: Store, base: Backbone, *, warm: int) -> None:
        self._store = store
        self._base = base
        self._warm = warm
        self._kept: OrderedDict[VersionId, Served] = OrderedDict()

    def __call__(self, version_id: VersionId) -> Served:
        """A version, verified against what was published, on the base model, that has answered once.

        Raises:
            VersionNotFoundError: there is none.
            CorruptVersionError: its bytes are not what was published.
            IncompatibleStateError: it belongs to another base model.
        """
        served = self._kept.pop(version_id, None)
        if served is None:
            served = self._load(version_id)
        else:
            self._store.verify(version_id)  # where its files are damaged, no other server could follow
        self._kept[version_id] = served
        while len(self._kept) > self._warm:
            self._kept.popitem(last=False)
        return served

    def _load(self, version_id: VersionId) -> Served:
        state = self._store.open(version_id, verify=True)
        served = Served(version_id, Classifier(self._base, state), self._base.preprocessing)
        size = self._base.preprocessing.size
        pixels = torch.full((1, 3, size, size), 127, dtype=torch.uint8)
        if served.classes:
            served.classifier.scores(pixels)
        else:
            served.classifier.features(pixels)
        _ = served.space  # hashes megabytes, so not when the first request asks
        return served


class LiveModel:
    """Holds what is served. Reading and replacing one reference is atomic, so there is no lock."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._served: Served | None = None

    @property
    def version_id(self) -> VersionId | None:
        """What is served now, None before the first version is loaded."""
        return None if self._served is None else self._served.version_id

    def get(self) -> Served:
        """The version to answer a whole request with.

        Raises:
            NotReadyError: none is loaded.
        """
        if self._served is None:
            raise NotReadyError("no version is loaded yet")
        return self._served

    def swap(self, served: Served) -> None:
        """Serve another version from now on. Requests that hold the one before finish on it."""
        before, self._served = self.version_id, served
        self._metrics.swaps.inc()
        self._metrics.serving.info({"version": served.version_id})
        self._metrics.classes.set(len(served.classes))
        logger.info("serving model_version=%s before=%s", served.version_id, before or "none")
