"""A pass that outlives its engine: PyTorch answers where the engine fails."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from torch import Tensor

from segp_cl.runtime.engines.interface import EngineName, Pass

logger = logging.getLogger(__name__)

Failed = Callable[[str], None]
"""Called with the reason each time PyTorch takes the place of another engine."""


class GuardedPass:
    """Runs a version's pass with an engine, and with PyTorch for good once the engine has failed.

    Images that PyTorch cannot run either are not the engine's fault: their error is raised, and the engine stays.

    Args:
        engine: the engine's name.
        run: the engine's pass.
        make_torch: makes PyTorch's pass, when it is needed first.
        failed: is called when the engine has failed.
    """

    def __init__(
        self, engine: EngineName, run: Callable[[Tensor], Tensor], make_torch: Callable[[], Pass], failed: Failed
    ) -> None:
        self._name = engine
        self._run: Callable[[Tensor], Tensor] | None = run
        self._make_torch = make_torch
        self._torch: Pass | None = None
        self._failed = failed
        self._lock = threading.Lock()

    @property
    def engine(self) -> EngineName:
        """The engine that runs it now."""
        return "torch" if self._run is None else self._name

    def __call__(self, pixels: Tensor) -> Tensor:
        """Compute raw features of pixels."""
        run = self._run
        if run is None:
            return self._by_torch()(pixels)
        try:
            return run(pixels)
        except Exception as error:  # engines raise errors of their own kinds
            raw = self._by_torch()(pixels)
            self.fall_back(f"{type(error).__name__}: {error}")
            return raw

    def fall_back(self, why: str) -> bool:
        """Let PyTorch run it from now on. Returns whether another engine ran it before."""
        self._by_torch()
        with self._lock:
            changed, self._run = self._run is not None, None
        if changed:
            logger.warning("engine=%s gives way to torch for one version: %s", self._name, why)
            self._failed(why)
        return changed

    def _by_torch(self) -> Pass:
        with self._lock:
            if self._torch is None:
                self._torch = self._make_torch()
            return self._torch
