"""Runs a served image tower: chooses arithmetic, batch sizes, threads and CUDA graphs."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from segp_cl.pixels import as_unit_pixels
from segp_cl.runtime.engines.interface import EngineName

CPU_CHUNK = 8  # images per pass on a CPU: faster than 16 or 64 for compact, as fast for a ViT, and in less memory

Run = Callable[[Tensor], Tensor]
Capture = Callable[[Run, Tensor], Run]
"""Maps (a function, an example input) to a replay of the function for inputs of the example's shape."""


@runtime_checkable
class ImageTower(Protocol):
    """The part of a model that passes use; `segp_cl.models.backbone.Backbone` implements it."""

    @property
    def device(self) -> torch.device: ...

    def raw_features(self, pixels: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class PassSettings:
    """Settings of passes.

    Attributes:
        precision: arithmetic of the image tower (autocast, unless it is float32). Features are float32 in any case.
        sizes: batch sizes of passes, ascending: batches are padded to the next, and split at the largest. Empty:
            batches are not padded, and on a CPU split at `CPU_CHUNK` images.
        graphs: record the pass of each size once as a CUDA graph, and replay it.
        warm: batch sizes that a version is run with before it is served.
        most: images that are worth gathering for one pass.
        threads: CPU threads that divide the images of a pass; each computes its share alone.
        on_gpu: a GPU, which would idle while the next batch is gathered, runs them.
    """

    precision: torch.dtype = torch.float32
    sizes: tuple[int, ...] = ()
    graphs: bool = False
    warm: tuple[int, ...] = ()
    most: int = CPU_CHUNK
    threads: int = 1
    on_gpu: bool = False

    @classmethod
    def of(
        cls,
        device: torch.device,
        *,
        max_batch_size: int,
        precision: torch.dtype = torch.float32,
        compiled: bool = False,
        graphs: bool = False,
        threads: int = 1,
    ) -> PassSettings:
        """Return settings that suit a device and batches of up to `max_batch_size` images.

        Compiled code and graphs get powers of two, all of which are warmed; eager code takes any size, and is warmed
        with a single image and with the largest pass.
        """
        on_cpu = device.type == "cpu"
        most = min(max_batch_size, CPU_CHUNK) if on_cpu else max_batch_size
        if not compiled and not graphs:
            return cls(
                precision=precision,
                warm=tuple(sorted({1, most})),
                most=most,
                threads=threads if on_cpu else 1,
                on_gpu=not on_cpu,
            )
        sizes = (*(1 << power for power in range(most.bit_length()) if 1 << power < most), most)
        return cls(precision=precision, sizes=sizes, graphs=graphs, warm=sizes, most=most, on_gpu=not on_cpu)

    @property
    def ahead(self) -> int:
        """Full passes that may start while another runs: one on a GPU, and where threads compute alone.

        Teams of threads would compete for the cores.
        """
        return 1 if self.on_gpu or self.shares_out(self.most) else 0

    def shares_out(self, count: int) -> bool:
        """Return whether each thread takes some of `count` images; else all threads work on all images."""
        if self.threads == 1 or self.sizes:
            return False
        # two threads with three images: one would idle for half of the time
        return count % self.threads == 0 or count >= 2 * self.threads


def cuda_graph(run: Run, example: Tensor) -> Run:
    """Record `run` for inputs of the shape and device of `example`. Two threads must not replay it at the same time."""
    inputs = example.clone()
    stream = torch.cuda.Stream(example.device)  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream(example.device))
    with torch.cuda.stream(stream):  # libraries choose their algorithms in the first runs, which cannot be recorded
        for _ in range(3):
            run(inputs)
    torch.cuda.current_stream(example.device).wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    # another version may be answering on its own thread meanwhile
    with torch.cuda.device(example.device), torch.cuda.graph(graph, capture_error_mode="thread_local"):
        outputs = run(inputs)

    def replay(given: Tensor) -> Tensor:
        inputs.copy_(given)
        graph.replay()
        return outputs.clone()

    return replay


def compute_alone() -> None:
    """Make PyTorch compute this thread's work on this thread alone."""
    others = torch.get_num_threads()
    if others == 1:
        return
    torch.set_num_threads(1)
    # the call also applies to threads that have computed nothing yet, so it is undone for them
    restorer = threading.Thread(target=torch.set_num_threads, args=(others,))
    restorer.start()
    restorer.join()


@cache
def _crew(threads: int) -> ThreadPoolExecutor:
    """Return the thread pool of all versions: a version that is being loaded uses threads that are idle."""
    return ThreadPoolExecutor(threads, thread_name_prefix="pass", initializer=compute_alone)


class ImagePass:
    """Computes raw features of pixels with one tower. Thread-safe.

    Threads that share one product wait for each other at every layer, and for other users of their cores. With enough
    images, each thread therefore takes some of them through the whole tower; all threads share a single image.
    """

    def __init__(self, tower: ImageTower, settings: PassSettings, *, capture: Capture = cuda_graph) -> None:
        self._tower = tower
        self._settings = settings
        self._capture = capture
        self._recorded: dict[int, Run] = {}
        self._one_at_a_time = threading.Lock()

    @property
    def engine(self) -> EngineName:
        """PyTorch."""
        return "torch"

    def fall_back(self, why: str) -> bool:
        """Return False: PyTorch runs it already."""
        return False

    def __call__(
        self, pixels: UInt8[Tensor, "batch 3 height width"] | Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch raw"]:
        """Compute raw features, float32, on the tower's device."""
        on_cpu = self._tower.device.type == "cpu"
        most = self._settings.sizes[-1] if self._settings.sizes else CPU_CHUNK if on_cpu else max(1, len(pixels))
        return torch.cat([self._shared_out(chunk) for chunk in torch.split(pixels, most)])

    def _shared_out(self, pixels: Tensor) -> Tensor:
        threads = self._settings.threads
        if not self._settings.shares_out(len(pixels)):
            return self._padded(pixels)
        return torch.cat(list(_crew(threads).map(self._alone, torch.tensor_split(pixels, threads))))

    def _alone(self, pixels: Tensor) -> Tensor:
        with torch.inference_mode():  # set for each thread separately, like the number of threads
            return self._padded(pixels)

    def _padded(self, pixels: Tensor) -> Tensor:
        unit = as_unit_pixels(pixels.to(self._tower.device))
        size = next((size for size in self._settings.sizes if size >= len(pixels)), len(pixels))
        if size > len(pixels):
            unit = F.pad(unit, (0, 0, 0, 0, 0, 0, 0, size - len(pixels)))
        if not self._settings.graphs:
            return self._run(unit)[: len(pixels)]
        with self._one_at_a_time:
            if size not in self._recorded:
                self._recorded[size] = self._capture(self._run, unit)
            return self._recorded[size](unit)[: len(pixels)]

    def _run(self, unit: Tensor) -> Tensor:
        if self._settings.precision == torch.float32:
            return self._tower.raw_features(unit)
        # a weight that autocast had cached would not be cast again when a graph is replayed
        with torch.autocast(unit.device.type, dtype=self._settings.precision, cache_enabled=False):
            return self._tower.raw_features(unit).to(torch.float32)
