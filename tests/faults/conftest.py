"""One service for the quick faults, and another whenever one of them has left it broken."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.common.models import write_small_vit
from benchmarks.faults.runner import stage
from benchmarks.faults.stage import Stage

SEED = 1


class Stages:
    """Gives the stage of a running service."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._model = write_small_vit(folder).name
        self._held = contextlib.ExitStack()
        self._stage: Stage | None = None
        self._number = 0

    def get(self) -> Stage:
        """The stage; a new one if there is none, or the last one was spoilt."""
        if self._stage is None:
            self._number += 1
            name = f"service-{self._number}"
            self._stage = self._held.enter_context(stage(self._folder, name=name, model=self._model, seed=SEED))
        return self._stage

    def spoil(self) -> None:
        """End the service, since it cannot be relied on any more."""
        self._held.close()
        self._stage = None


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stages]:
    made = Stages(tmp_path_factory.mktemp("faults"))
    yield made
    made.spoil()
