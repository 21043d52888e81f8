"""`python -m benchmarks.serving --gpu`: the whole server on one GPU, beside the bare forward pass on it.

Weights are random: speed does not ask what was learned. Pictures come decoded (uncompressed, of the model's size), and
as JPEG files, so that the share which decoding costs is seen.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from PIL import Image
from pydantic import BaseModel, ConfigDict

from benchmarks.common.machine import device_name
from benchmarks.common.models import write_open_clip, write_small_vit
from benchmarks.common.pages import number, table
from benchmarks.common.process import answer_of
from benchmarks.common.record import Record, save_bytes, save_json
from benchmarks.serving import photos
from benchmarks.serving.child import Child
from benchmarks.serving.figures import quantile
from benchmarks.serving.servers import Launch, Server, ServerError, keepsight, running
from benchmarks.serving.versions import api_pids, move
from benchmarks.serving.wire import Shape
from segp_cl.types import ModelSpec

SIZE = 224
SHAPE = Shape(path="/v1/classify?top_k=5", style="multipart")
OFFLINE = {"HF_HUB_OFFLINE": "1"}


class GpuPlan(BaseModel):
    """Sizes. `group`: images of one request; `generators`: processes that send requests; `_s`: seconds."""

    model_config = ConfigDict(frozen=True)

    models: tuple[str, ...] = ("ViT-B-16", "ViT-L-14")
    device: str = "cuda"
    dtype: str = "bfloat16"
    batch: int = 64
    bare_batches: tuple[int, ...] = (1, 16, 64, 128)
    bare_passes: int = 20
    bare_rounds: int = 5
    processes: tuple[int, ...] = (4, 8)
    graphs: bool = False
    group: int = 16
    clients: int = 32
    generators: int = 4
    photos: int = 64
    warm_s: float = 2.0
    window_s: float = 6.0
    swaps: int = 20


def quick(*, on_gpu: bool) -> GpuPlan:
    """Sizes to see that it works, without a GPU if need be."""
    return GpuPlan(
        models=("small",), device="cuda" if on_gpu else "cpu", dtype="bfloat16" if on_gpu else "float32", batch=8,
        bare_batches=(1, 8), bare_passes=2, bare_rounds=1, processes=(1,), group=4, clients=4, generators=1, photos=8,
        warm_s=0.5, window_s=2.0, swaps=4,
    )  # fmt: skip


@dataclass(frozen=True)
class GpuPlace:
    """Where everything is made, and what is told meanwhile."""

    work: Path
    plan: GpuPlan
    data: Path | None = None
    tell: Callable[[str], None] = field(default=lambda _: None)

    def spec(self, model: str) -> ModelSpec:
        """A model with random weights, written on first use."""
        folder = self.work / model
        if model == "small":
            if not folder.exists():
                folder.mkdir(parents=True)
                write_small_vit(folder)
            return ModelSpec(f"local-dir:{folder / 'small-vit'}")
        known = ModelSpec(model, str(folder / f"{model.lower().replace('-', '_')}.safetensors"))
        if not Path(str(known.pretrained)).exists():
            folder.mkdir(parents=True, exist_ok=True)
            return write_open_clip(folder, model)
        return known

    def store(self, model: str) -> tuple[Path, list[str]]:
        """A store with two versions that have adapters everywhere; the first is live."""
        root = self.work / f"store-{model}" / "store"
        ids = self.work / f"store-{model}" / "versions.json"
        if not ids.exists():
            spec = self.spec(model)
            asked = {
                "model": spec.name, "pretrained": spec.pretrained, "store": str(root), "versions": 2,
                "first_adapted": True,
            }  # fmt: skip
            made = answer_of("benchmarks.serving.stores", json.dumps(asked), environment=OFFLINE)
            save_json(ids, made)
        return root, json.loads(ids.read_text())["versions"]

    def pictures(self) -> tuple[Path, Path]:
        """Folders of JPEG files and of the same decoded: uncompressed, of the model's size."""
        jpeg, decoded = self.work / "jpeg", self.work / "decoded"
        photos.prepare(jpeg, work=self.work, count=self.plan.photos, data=self.data)
        if not decoded.exists():
            decoded.mkdir()
            for path in sorted(jpeg.glob("*.jpg")):
                with Image.open(path) as image:
                    buffer = io.BytesIO()
                    image.convert("RGB").resize((SIZE, SIZE)).save(buffer, "BMP")
                save_bytes(decoded / f"{path.stem}.bmp", buffer.getvalue())
        return jpeg, decoded


def measure(place: GpuPlace, out: Path) -> Record:
    """Measure every model and write `serving.json` and `serving.md` after each."""
    record: Record = {
        "machine": {
            "device": device_name(torch.device(place.plan.device)),
            "cores": os.cpu_count(),
            "torch": torch.__version__,
        },
        "plan": place.plan.model_dump(),
        "models": {},
    }
    place.pictures()
    for model in place.plan.models:
        for found in _pieces(place, model):
            record["models"][model] = found
            save_json(out / "serving.json", record)
            save_bytes(out / "serving.md", page(record).encode())
    return record


def _pieces(place: GpuPlace, model: str) -> Iterator[Record]:
    """What is known of a model, after every piece that took long."""
    plan, spec = place.plan, place.spec(model)
    jpeg, decoded = place.pictures()
    place.tell(f"{model}: the bare pass")
    asked = {
        "model": spec.name, "pretrained": spec.pretrained, "device": plan.device, "dtype": plan.dtype,
        "batches": plan.bare_batches, "passes": plan.bare_passes, "rounds": plan.bare_rounds,
    }  # fmt: skip
    bare = answer_of("benchmarks.serving.gpu_bare", json.dumps(asked), environment=OFFLINE)
    found: Record = {"bare_per_s": {size: round(rate, 1) for size, rate in bare.items()}, "servers": []}
    reference = bare[str(plan.batch)]
    for processes in plan.processes:
        place.tell(f"{model}: {processes} server processes")
        with _server(place, model, processes) as (server, versions), contextlib.ExitStack() as stack:
            of = {
                kind: [stack.enter_context(Child("benchmarks.serving.generator", str(folder)))
                       for _ in range(plan.generators)]
                for kind, folder in (("decoded", decoded), ("jpeg", jpeg))
            }  # fmt: skip
            row: Record = {"processes": processes}
            for kind, generators in of.items():
                row[kind] = _window(server, generators, plan)
                row[kind]["of_bare"] = round(row[kind]["images_per_s"] / reference, 3)
            if row["decoded"]["images_per_s"]:
                row["lost_to_decoding"] = round(1 - row["jpeg"]["images_per_s"] / row["decoded"]["images_per_s"], 3)
                half = row["decoded"]["images_per_s"] / plan.group / 2
                row["half_load"] = _window(server, of["decoded"], plan, per_s=half)
            row["swaps"] = _swaps(server, of["decoded"], versions, plan)
            found["servers"].append(row)
        found["best"] = max(found["servers"], key=lambda row: row["decoded"]["images_per_s"])["processes"]
        yield found


@contextlib.contextmanager
def _server(place: GpuPlace, model: str, processes: int) -> Iterator[tuple[Server, list[str]]]:
    plan, spec = place.plan, place.spec(model)
    root, versions = place.store(model)
    cores = os.cpu_count() or 1
    launch = keepsight(root, model=spec.name, pretrained=spec.pretrained, threads=1, api_processes=processes)
    environment = {
        **launch.environment,
        "KEEPSIGHT_DEVICE": plan.device,
        "KEEPSIGHT_SERVING_PRECISION": plan.dtype,
        "KEEPSIGHT_CUDA_GRAPHS": str(plan.graphs).lower(),
        "KEEPSIGHT_MAX_BATCH_SIZE": str(plan.batch),
        "KEEPSIGHT_DECODE_THREADS": str(max(1, cores // processes)),
        "KEEPSIGHT_QUEUE_SIZE": "4096",
    }
    launch = Launch(launch.name, launch.command, launch.ready, environment)
    with running(launch, place.work / "log" / f"{model}-{processes}.log") as server:
        api_pids(server, processes)
        move(server, "promote", versions[0])
        yield server, versions


def _window(server: Server, generators: Sequence[Child], plan: GpuPlan, *, per_s: float | None = None) -> Record:
    """One window of load by all generators together; at `per_s` requests a second, or as much as is answered."""
    each = {
        "op": "window", "port": server.port, "shape": SHAPE.model_dump(), "group": plan.group,
        "clients": max(1, plan.clients // len(generators)), "warm_s": plan.warm_s, "measure_s": plan.window_s,
    }  # fmt: skip
    if per_s is not None:
        each["per_s"] = per_s / len(generators)
    clocks: list[float] = []
    for generator in generators:
        generator.tell(**each)
    answers = [generator.wait(lambda _: clocks.append(server.cpu_s())) for generator in generators]
    answered = sum(answer["evenly"] for answer in answers)
    seconds = max(answer["seconds"] for answer in answers)
    latencies = [value for answer in answers for value in answer["latencies_ms"]]
    failures = [answer["first_failure"] for answer in answers if answer["first_failure"]]
    return {
        "images_per_s": round(plan.group * answered / seconds, 1),
        "requests_per_s": round(answered / seconds, 1),
        "p50_ms": quantile(latencies, 0.5),
        "p99_ms": quantile(latencies, 0.99),
        "failed": sum(answer["failed"] for answer in answers),
        "first_failure": failures[0] if failures else None,
        "server_cores": round((max(clocks) - min(clocks)) / seconds, 2) if clocks else None,
        "client_cores": round(sum(answer["client_cpu_s"] for answer in answers) / seconds, 2),
    }


def _swaps(server: Server, generators: Sequence[Child], versions: Sequence[str], plan: GpuPlan) -> Record:
    """Change the version to and fro under load; what failed, and how long a change took."""
    seconds: list[float] = []
    refused: list[str] = []
    for generator in generators:
        generator.tell(
            op="window", port=server.port, shape=SHAPE.model_dump(), group=plan.group,
            clients=max(1, plan.clients // len(generators) // 2), warm_s=0.5, measure_s=1.5 * plan.swaps,
        )  # fmt: skip
    begun = time.monotonic()
    for swap in range(plan.swaps):
        try:
            done = move(server, "promote" if swap % 2 == 0 else "rollback", versions[(swap + 1) % 2])
        except ServerError as error:
            refused.append(str(error))
        else:
            seconds.append(done.wall_s)
    lasted = time.monotonic() - begun
    answers = [generator.wait() for generator in generators]
    return {
        "swaps": len(seconds),
        "refused": refused,
        "failed": sum(answer["failed"] for answer in answers),
        "answered": sum(answer["answered"] for answer in answers),
        "swap_s": quantile(seconds, 0.5),
        "slowest_s": quantile(seconds, 1.0),
        "lasted_s": round(lasted, 1),
        "p99_ms": quantile([value for answer in answers for value in answer["latencies_ms"]], 0.99),
    }


def page(record: Record) -> str:
    """What was measured, as a page."""
    plan = record["plan"]
    bare_rows, rows = [], []
    for model, found in record["models"].items():
        bare_rows.append((model, *(number(found["bare_per_s"].get(str(size)), 0) for size in plan["bare_batches"])))
        for row in found["servers"]:
            half = row.get("half_load", {})
            rows.append(
                (
                    model,
                    str(row["processes"]),
                    number(row["decoded"]["images_per_s"], 0),
                    number(row["decoded"]["of_bare"], 2),
                    number(row["jpeg"]["images_per_s"], 0),
                    number(row.get("lost_to_decoding"), 2),
                    number(row["decoded"]["p99_ms"], 0),
                    number(half.get("p50_ms"), 0),
                    number(half.get("p99_ms"), 0),
                    f"{row['swaps']['failed']} of {row['swaps']['answered']}",
                    number(row["swaps"]["swap_s"], 2),
                )
            )
    header = (
        "model", "processes", "decoded, images/s", "of bare", "JPEG, images/s", "lost to decoding", "p99, ms",
        "p50 at half load", "p99 at half load", "failed during swaps", "swap, s",
    )  # fmt: skip
    machine = record["machine"]
    return (
        f"# Serving on a GPU\n\nMeasured on {machine['device']} with {machine['cores']} CPU cores, torch "
        f"{machine['torch']}: random weights, {plan['dtype']}, batches of up to {plan['batch']}, {plan['group']} "
        f"images in each request, {plan['clients']} clients in {plan['generators']} processes on the same machine. "
        "Decoded pictures are uncompressed and of the model's size.\n\n"
        "## The bare forward pass, images a second by batch\n\n"
        + table(("model", *map(str, plan["bare_batches"])), bare_rows, left=1)
        + "\n\n## The server\n\n`of bare` compares with the bare pass at the server's largest batch.\n\n"
        + table(header, rows, left=1)
        + "\n"
    )
