"""Answers with a version that is not served, beside the one that is."""

from __future__ import annotations

from collections.abc import Callable

from app.offload import Pool
from app.serving.live_model import LiveModel, Served
from model_store.types import StoreBusyError, VersionId


class Aside:
    """The last version that was asked for beside the served one, in memory until another is.

    Args:
        live: the version that is served.
        load: loads a version; used from one thread.
    """

    def __init__(self, live: LiveModel, load: Callable[[VersionId], Served]) -> None:
        self._live = live
        self._load = load
        self._loading = Pool(
            "aside",
            threads=1,
            waiting=8,
            full=lambda: StoreBusyError("other versions are being loaded; ask again, or ask the served one"),
        )
        self._kept: Served | None = None

    async def get(self, version_id: VersionId) -> Served:
        """Return a stored version, ready to answer. The served one is not loaded again.

        Raises:
            VersionNotFoundError: there is no such version.
            StoreError, GoldenAnswersError: it cannot be loaded, or does not answer as when it was published.
            StoreBusyError: too many others are being loaded.
            NotReadyError, StaleError: nothing can be served at this moment.
        """
        for ready in (self._live.get(), self._kept):
            if ready is not None and ready.version_id == version_id:
                return ready
        return await self._loading.run(self._loaded, version_id)

    def close(self) -> None:
        """End the thread when its work is done."""
        self._loading.close()

    def _loaded(self, version_id: VersionId) -> Served:
        kept = self._kept
        if kept is None or kept.version_id != version_id:  # a request before this one may have loaded it
            kept = self._kept = self._load(version_id)
        return kept
