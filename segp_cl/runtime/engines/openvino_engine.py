"""The engine for CPUs: OpenVINO. One graph of the base model, and a compiled copy for every image tower that is served.

`openvino` is an extra of the package; this module is imported where it is wanted.
"""

from __future__ import annotations

import logging
import threading
from pathlib import Path
from typing import Any, Final
from weakref import WeakValueDictionary

import openvino
import torch
from torch import Tensor

from segp_cl.models.backbone import Backbone
from segp_cl.runtime.adapters import digest_of
from segp_cl.runtime.engines.compiled import CORE, CompiledTower, has_bfloat16
from segp_cl.runtime.engines.graph import convert, fill_in, weights_of
from segp_cl.runtime.engines.graph_cache import Converted, key_of, load_or_make
from segp_cl.runtime.engines.guarded import Failed, GuardedPass
from segp_cl.runtime.engines.interface import EngineName, EngineUnavailableError, Pass, Precision, ServableModel
from segp_cl.runtime.engines.probing import MIN_COSINE, check, compare_bfloat16
from segp_cl.runtime.engines.torch_engine import TorchEngine
from segp_cl.types import LoraState

logger = logging.getLogger(__name__)

MIN_COSINE_ASKED: Final = 0.99
"""Least cosine in bfloat16 where that is asked for by name: golden answers are compared as loosely."""
_SIZES: Final = (2, 3, 1)  # of batches that the conversion is checked with; it was traced with two images


class OpenVinoEngine:
    """Runs image towers with OpenVINO on the CPU, and with PyTorch where that fails.

    Image towers with the same adapters are compiled once, however many versions have them: those that leave the tower
    as it is share the base model's. What is compiled holds the weights in its own layout, beside the plain ones, and
    lives as long as a version needs it.

    Args:
        graph: the base model's image tower (`segp_cl.runtime.engines.graph.convert`).
        instead: runs versions that OpenVINO cannot run.
        threads: CPU threads.
        precision: arithmetic; features are float32 in any case.
        min_cosine: least cosine of a tower's features with PyTorch's, else PyTorch runs it.
        base_checked: the base model's own tower was compared with PyTorch's before, compiled alike on this CPU.
        failed: is called with the reason whenever PyTorch takes over a version.
    """

    def __init__(
        self,
        graph: openvino.Model,
        instead: TorchEngine,
        *,
        threads: int = 1,
        precision: torch.dtype = torch.float32,
        min_cosine: float = MIN_COSINE,
        base_checked: bool = False,
        failed: Failed = lambda why: None,
    ) -> None:
        self._graph = graph
        self._instead = instead
        self._threads = threads
        self._precision = precision
        self._min_cosine = min_cosine
        self._base_checked = base_checked
        self._failed = failed
        self._compiled: WeakValueDictionary[str, CompiledTower] = WeakValueDictionary()
        self._lock = threading.Lock()

    @property
    def name(self) -> EngineName:
        return "openvino"

    @property
    def warm(self) -> tuple[int, ...]:
        """Those of PyTorch's settings."""
        return self._instead.warm

    @property
    def passes_ahead(self) -> int:
        """One: the next pass waits inside the engine while the answers of the one before are computed."""
        return 1

    def image_pass(self, base: ServableModel, lora: LoraState | None) -> Pass:
        """Make the pass of the base model's image tower with these adapters; PyTorch's, if it cannot be compiled."""

        def make_torch() -> Pass:
            return self._instead.image_pass(base, lora)

        try:
            tower = self._tower(base, lora)
        except Exception as error:  # the engine raises errors of many kinds
            why = f"{type(error).__name__}: {error}"
            guarded = GuardedPass(self.name, _never, make_torch, self._failed)
            guarded.fall_back(why)
            return guarded
        return GuardedPass(self.name, tower, make_torch, self._failed)

    def _tower(self, base: ServableModel, lora: LoraState | None) -> CompiledTower:
        key = digest_of(lora)
        with self._lock:  # so that two versions with the same adapters do not compile both
            tower = self._compiled.get(key)
            if tower is None:
                model = base if lora is None else base.with_lora(lora)
                assert isinstance(model, Backbone), "others are not converted"
                filled = fill_in(self._graph, weights_of(model))
                tower = CompiledTower(filled, threads=self._threads, precision=self._precision)
                if lora is not None or not self._base_checked:
                    check(model, tower, sizes=tower.sizes, min_cosine=self._min_cosine)
                self._compiled[key] = tower
        return tower


def _never(pixels: Tensor) -> Tensor:
    raise AssertionError("PyTorch runs this pass")


def open_engine(
    base: Backbone,
    instead: TorchEngine,
    *,
    precision: Precision = "auto",
    threads: int = 1,
    cache: Path | None = None,
    failed: Failed = lambda why: None,
) -> OpenVinoEngine:
    """Return the engine for `base`, whose image tower is taken from the cache, or converted and measured.

    Args:
        base: the base model.
        instead: runs versions that OpenVINO cannot run.
        precision: arithmetic; `auto` is bfloat16 where that was measured to give the same answers, else float32.
        threads: CPU threads.
        cache: folder in which converted models are kept; None: nowhere.
        failed: is called with the reason whenever PyTorch takes over a version.

    Raises:
        EngineUnavailableError: the CPU does not have the arithmetic.
        EngineError: the image tower cannot be converted, or answers otherwise.
    """
    if precision == "bfloat16" and not has_bfloat16():
        raise EngineUnavailableError("bfloat16 is asked for, which this CPU does not compute in")

    measure = precision == "auto" and has_bfloat16()

    def make() -> Converted:
        return convert_and_measure(base, threads=threads, bfloat16=measure)

    converted = make() if cache is None else load_or_make(cache, key_of(base, bfloat16=measure), make)
    fast = precision == "bfloat16" or (precision == "auto" and bool(converted.record["bfloat16_will_do"]))
    arithmetic = torch.bfloat16 if fast else torch.float32
    logger.info("engine=openvino precision=%s measured=%s", str(arithmetic).removeprefix("torch."), converted.record)
    # whoever asks for bfloat16 by name takes what it costs
    least = MIN_COSINE_ASKED if precision == "bfloat16" else MIN_COSINE
    return OpenVinoEngine(
        converted.graph,
        instead,
        threads=threads,
        precision=arithmetic,
        min_cosine=least,
        base_checked=precision != "bfloat16" and converted.record["float32"].get("checked_on") == _here(threads),
        failed=failed,
    )


def _here(threads: int) -> str:
    """Return what tells how a tower is compiled here from how another machine or number of threads would have it."""
    return f"{CORE.get_property('CPU', 'FULL_DEVICE_NAME')}, {threads} threads"


def convert_and_measure(base: Backbone, *, threads: int, bfloat16: bool) -> Converted:
    """Convert the image tower and compare it with PyTorch's; if `bfloat16`, that arithmetic too.

    Raises:
        EngineError: the image tower cannot be converted, or answers otherwise.
    """
    graph = convert(base)
    filled = fill_in(graph, weights_of(base))
    exact = CompiledTower(filled, threads=threads)
    sizes = (*_SIZES, *exact.sizes)
    cosine = check(base, exact, sizes=sizes)
    compared = {"pictures": sum(sizes), "cosine": cosine, "checked_on": _here(threads)}
    record: dict[str, Any] = {"float32": compared, "bfloat16_will_do": False}
    if bfloat16:
        rough = CompiledTower(filled, threads=threads, precision=torch.bfloat16)
        found = compare_bfloat16(base.preprocessing.size, exact, rough)
        record |= {"bfloat16": found.as_record(), "bfloat16_will_do": found.will_do}
    return Converted(graph, record)
