"""An image tower compiled by OpenVINO for this CPU.

`openvino` is an extra of the package; this module is imported where it is wanted.
"""

from __future__ import annotations

import contextlib
import queue
from typing import Any, Final

import openvino
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from segp_cl.pixels import as_unit_pixels
from segp_cl.runtime.passes import CPU_CHUNK

CORE: Final = openvino.Core()
"""The engine. There is one, which is never dropped: it gives the thread that first compiles a stack for signals, and
takes the memory back with itself, in whatever thread that happens. The next signal would then end the process."""
SMALL_BYTES: Final = 64 << 20
"""Largest image tower that is compiled a second time for passes of many images: its memory is worth the speed."""
_LONGEST_MS: Final = 3_600_000
_PRECISIONS: Final = {torch.float32: "f32", torch.bfloat16: "bf16"}


class CompiledTower:
    """One image tower, compiled. Thread-safe: passes that overlap have a request of the engine's each.

    A single image is the work of all threads. A small tower is compiled a second time for passes of many images, which
    each thread then takes through the whole tower alone; large towers do as well with all threads on each layer.

    Args:
        filled: the graph with the tower's weights.
        threads: CPU threads.
        precision: arithmetic.
    """

    def __init__(self, filled: openvino.Model, *, threads: int = 1, precision: torch.dtype = torch.float32) -> None:
        common: dict[str, Any] = {
            "INFERENCE_NUM_THREADS": threads,
            "INFERENCE_PRECISION_HINT": _PRECISIONS[precision],
            "ENABLE_CPU_PINNING": False,  # server processes, decoders and workers share the cores
        }
        self._together = _Requests(CORE.compile_model(filled, "CPU", {**common, "NUM_STREAMS": 1}))
        small = _weights_bytes(filled) <= SMALL_BYTES
        self._threads = threads if small and 2 * threads <= CPU_CHUNK else 1
        if self._threads > 1:
            self._alone = _Requests(CORE.compile_model(filled, "CPU", {**common, "NUM_STREAMS": threads}))

    @property
    def sizes(self) -> tuple[int, ...]:
        """Batch sizes that reach everything that was compiled."""
        return (2,) if self._threads == 1 else (2, 2 * self._threads)

    def __call__(
        self, pixels: UInt8[Tensor, "batch 3 height width"] | Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch raw"]:
        """Compute raw features, float32, in chunks of at most `CPU_CHUNK` images."""
        return torch.cat([self._chunk(chunk) for chunk in torch.split(pixels, CPU_CHUNK)])

    def _chunk(self, pixels: Tensor) -> Tensor:
        unit = as_unit_pixels(pixels).contiguous()
        if self._threads > 1 and len(unit) >= 2 * self._threads:
            return self._alone.run(torch.tensor_split(unit, self._threads))
        return self._together.run((unit,))


class _Requests:
    """The idle requests of a compiled model. Each holds the memory of a pass, so they are made as they are needed."""

    def __init__(self, compiled: openvino.CompiledModel) -> None:
        self._compiled = compiled
        self._idle: queue.SimpleQueue[openvino.InferRequest] = queue.SimpleQueue()

    def run(self, parts: tuple[Tensor, ...]) -> Tensor:
        """Run all parts at once, and return their outputs in order."""
        requests = [self._take() for _ in parts]
        inputs = [part.numpy() for part in parts]
        started = []
        try:
            for request, each in zip(requests, inputs, strict=True):
                request.start_async([each], share_inputs=True)
                started.append(request)
        finally:  # whatever happens, none may read `inputs` after the return
            for request in started:
                with contextlib.suppress(RuntimeError):  # that is raised below
                    request.wait_for(_LONGEST_MS)
        for request in requests:
            request.wait()  # raises the request's error
        # a copy: the request's memory is the next pass's
        found = [torch.from_numpy(request.get_output_tensor(0).data.copy()) for request in requests]
        for request in requests:  # after an error they are dropped
            self._idle.put(request)
        return found[0] if len(found) == 1 else torch.cat(found)

    def _take(self) -> openvino.InferRequest:
        try:
            return self._idle.get_nowait()
        except queue.Empty:
            return self._compiled.create_infer_request()


def _weights_bytes(filled: openvino.Model) -> int:
    return sum(int(node.get_byte_size()) for node in filled.get_ops() if isinstance(node, openvino.op.Constant))


def has_bfloat16() -> bool:
    """Return whether OpenVINO computes in bfloat16 on this CPU."""
    return "BF16" in CORE.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
