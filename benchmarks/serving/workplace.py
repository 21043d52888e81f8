"""What the parts share: the folder with photographs, weights and stores, the plan, the gate, and where logs go."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from benchmarks.common.process import ROOT, answer_of
from benchmarks.serving import photos
from benchmarks.serving.child import Child
from benchmarks.serving.contenders import CHECKPOINT, HF_FOLDERS, LABELS, MODEL, Settings
from benchmarks.serving.foreign import Gate
from benchmarks.serving.plan import Plan
from benchmarks.serving.servers import Launch, Server, keepsight
from benchmarks.serving.wire import Shape
from segp_cl.runtime.process import set_up_environment

COMPACT = "compact"
VIT = "vit_b32"
OFFLINE = {"HF_HUB_OFFLINE": "1"}


@dataclass
class Workplace:
    """Folders and helpers of one run.

    Attributes:
        work: Where everything that is made lies; nothing in it is part of the result.
        plan: Sizes.
        peers: Where the other servers' virtual environments are.
        data: The user's own photographs; None: crops of those that packages ship.
        tell: Called with what is going on.
        gate: Which windows count.
    """

    work: Path
    plan: Plan
    peers: Path
    data: Path | None = None
    tell: Callable[[str], None] = lambda _: None
    gate: Gate = field(default_factory=Gate)

    def photos(self, *, longest: int | None = None) -> tuple[Path, dict[str, Any]]:
        """The folder of photographs, and what it consists of; made on first use."""
        count = self.plan.photos
        own = "" if self.data is None else "-own"
        folder = self.work / f"photos-{count}{own}{'' if longest is None else f'-{longest}px'}"
        self.tell("photographs")
        return folder, photos.prepare(folder, work=self.work, count=count, data=self.data, longest=longest)

    def weights(self) -> Path:
        """The folder with ViT-B-32's random weights in all forms; made on first use."""
        folder = self.work / "vit-b-32"
        wanted = [CHECKPOINT, LABELS, *(f"{name}/tokenizer_config.json" for name in HF_FOLDERS.values())]
        if not all((folder / name).is_file() for name in wanted):
            self.tell("random weights of ViT-B-32")
            answer_of("benchmarks.serving.weights", str(folder), environment=OFFLINE)
        return folder

    def spec(self, model: str) -> tuple[str, str | None]:
        """(name, pretrained) of a model of the plan."""
        return (COMPACT, None) if model == COMPACT else (MODEL, str(self.weights() / CHECKPOINT))

    def store(
        self, model: str, *, versions: int, name: str, first_adapted: bool = True, code: Path = ROOT
    ) -> tuple[Path, list[str]]:
        """A fresh store with so many versions of which the first is live, and their ids; made by a checkout's code."""
        folder = self.work / "stores" / f"{name}-{model}"  # one each: the broker's data lies beside a store
        shutil.rmtree(folder, ignore_errors=True)
        root = folder / "store"
        self.tell(f"{versions} versions of {model}")
        known, pretrained = self.spec(model)
        settings = {
            "model": known,
            "pretrained": pretrained,
            "store": str(root),
            "versions": versions,
            "first_adapted": first_adapted,
        }
        environment = OFFLINE if code == ROOT else {**OFFLINE, "PYTHONPATH": str(code)}
        made = answer_of("benchmarks.serving.stores", json.dumps(settings), environment=environment, code=code)
        return root, made["versions"]

    def ours(self, model: str, store: Path, *, api_processes: int = 1, worker: bool = False) -> Launch:
        """How Keepsight is started on a store."""
        known, pretrained = self.spec(model)
        threads = self.plan.threads
        launch = keepsight(
            store, model=known, pretrained=pretrained, threads=threads, api_processes=api_processes, worker=worker
        )
        return replace(launch, environment={**launch.environment, "KEEPSIGHT_ENGINE_CACHE": str(self.cache)})

    @property
    def cache(self) -> Path:
        """Where converted models are kept, for all parts."""
        return self.work / "engines"

    def log(self, name: str) -> Path:
        """Where a server's log goes."""
        return self.work / "log" / f"{name}.log"

    def generator(self, folder: Path) -> Child:
        """A load generator with a folder's photographs in memory."""
        return Child("benchmarks.serving.generator", str(folder))

    def bare(self, model: str, store: Path, folder: Path) -> Child:
        """The bare model in a process of its own, with the environment that the server gets."""
        known, pretrained = self.spec(model)
        settings: Settings = {
            "model": known,
            "pretrained": pretrained,
            "store": str(store),
            "photos": str(folder),
            "threads": self.plan.threads,
            "cache": str(self.cache),
        }
        # threads that wait for each other sleep, and freed memory is kept: what the server asks for in its own process
        environment = {**set_up_environment({}), "OMP_NUM_THREADS": str(self.plan.threads), **OFFLINE}
        child = Child("benchmarks.serving.bare", json.dumps(settings), environment=environment)
        child.wait()
        return child


def measure_load(
    generator: Child, server: Server, shape: Shape, *, clients: int, warm_s: float, measure_s: float
) -> Mapping[str, Any]:
    """One window of load: throughput, latencies, and what a request cost server and client in CPU time.

    The server is awake for this window alone.
    """
    clocks: list[float] = []
    with server.awake():
        found = generator.do(
            op="window",
            port=server.port,
            shape=shape.model_dump(),
            clients=clients,
            warm_s=warm_s,
            measure_s=measure_s,
            on_event=lambda _: clocks.append(server.cpu_s()),
        )
    answered = found["evenly"]
    per = 1000 / answered if answered else 0.0
    return {
        **found,
        "clients": clients,
        "per_s": answered / found["seconds"],
        "cpu_ms": (clocks[1] - clocks[0]) * per if answered else None,
        "client_cpu_ms": found["client_cpu_s"] * per if answered else None,
    }
