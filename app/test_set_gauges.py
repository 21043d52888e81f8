"""Keeps the metrics about the test sets up to date: what the served version has right, by set and path."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping

from app.metrics import Metrics
from app.offload import Pool
from model_store.evaluations import Evaluations
from model_store.test_sets import StoredTestSets
from model_store.types import StoreError, VersionId

logger = logging.getLogger(__name__)

EVERY_S = 10.0
Figures = Mapping[tuple[str, str], float]
"""Accuracies by test set and path."""


async def follow_test_sets(
    version_id: Callable[[], VersionId | None],
    sets: StoredTestSets,
    metrics: Metrics,
    pool: Pool,
    *,
    every_s: float = EVERY_S,
) -> None:
    """Look every few seconds at what the served version answered, since it may be measured while it is served.

    Args:
        version_id: returns the version that is served.
        sets: the test sets.
        metrics: are set.
        pool: where the store is read.
        every_s: seconds between two looks.
    """
    known = _Known(sets)
    while True:
        try:
            metrics.set_test_sets(await pool.run(known.of, version_id()))
        except StoreError as error:
            logger.warning("the metrics of the test sets are not up to date: %s", error)
        except Exception:
            logger.exception("the metrics of the test sets are not up to date")
        await asyncio.sleep(every_s)


class _Known:
    """Reads accuracies, and each file once for as long as it does not change."""

    def __init__(self, sets: StoredTestSets) -> None:
        self._sets = sets
        self._evaluations = Evaluations(sets.root)
        self._read: dict[tuple[VersionId, str], tuple[int, Mapping[str, float]]] = {}

    def of(self, version_id: VersionId | None) -> Figures:
        """Return the accuracies of a version on the test sets that it was measured on."""
        if version_id is None:
            return {}
        figures: dict[tuple[str, str], float] = {}
        read: dict[tuple[VersionId, str], tuple[int, Mapping[str, float]]] = {}
        for test_set in self._sets.all():
            key = (version_id, test_set.digest)
            try:
                stamp = self._evaluations.path(*key).stat().st_mtime_ns
            except OSError:
                continue  # not measured
            found = self._read.get(key)
            if found is None or found[0] != stamp:
                found = (stamp, self._accuracies(*key))
            read[key] = found
            figures |= {(test_set.name, path): value for path, value in found[1].items()}
        self._read = read
        return figures

    def _accuracies(self, version_id: VersionId, digest: str) -> Mapping[str, float]:
        stored = self._evaluations.get(version_id, digest)
        overall = None if stored is None else stored.results.get("overall")
        if not isinstance(overall, dict):
            return {}
        values = ((path, overall.get(path)) for path in ("fused", "text", "visual"))
        return {path: float(value) for path, value in values if isinstance(value, int | float)}
