"""`python -m benchmarks.passes`: what the server's way of running a pass on a CPU saves beside plain PyTorch.

For each model and batch size the ways take turns in one process: plain, with packed weights, shared out to threads, and
both, which is how the server runs. The same again in a process that keeps freed memory, as the server's does. Ratios
within one run; weights of ViTs are random, speed does not ask what was learned.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.progress import Progress

from benchmarks.cost.models import write_open_clip
from benchmarks.cost.record import machine, save_bytes, save_json
from segp_cl.models.load import load_backbone
from segp_cl.runtime.packed import pack_model
from segp_cl.runtime.passes import ImagePass, PassSettings
from segp_cl.runtime.process import set_up_process
from segp_cl.types import ModelSpec

MODELS = ("compact", "ViT-B-32")
RETURNED, KEPT = "returned to the kernel", "kept"


def ways(threads: int) -> dict[str, PassSettings]:
    """How passes are run, by name; `both` is the server's way."""
    return {
        "plain": PassSettings(),
        "packed": PassSettings(packed=True),
        "shared out": PassSettings(threads=threads),
        "both": PassSettings(threads=threads, packed=True),
    }


def measure(spec: ModelSpec, *, threads: int, sizes: Sequence[int], rounds: int) -> dict[str, dict[str, list[float]]]:
    """Milliseconds an image by batch size and way, of every round. The ways take turns, in changing order."""
    torch.set_num_threads(threads)
    base = load_backbone(spec)
    plain, packed = base.with_lora(None), base.with_lora(None)
    pack_model(packed, base)
    passes = {
        name: ImagePass(packed if settings.packed else plain, settings) for name, settings in ways(threads).items()
    }
    side = base.preprocessing.size
    found: dict[str, dict[str, list[float]]] = {}
    for size in sizes:
        pixels = torch.randint(0, 256, (size, 3, side, side), dtype=torch.uint8)
        times: dict[str, list[float]] = {name: [] for name in passes}
        for number in range(-1, rounds):  # the first is not counted
            order = list(passes) if number % 2 else list(reversed(passes))
            for name in order:
                with torch.inference_mode():
                    begun = time.perf_counter()
                    passes[name](pixels)
                    spent = 1000 * (time.perf_counter() - begun) / size
                if number >= 0:
                    times[name].append(round(spent, 3))
        found[str(size)] = times
    return found


def page(record: dict[str, Any]) -> str:
    """The record as a table: medians, and how many times as fast as plain passes in the same rounds."""
    about = record["machine"]
    lines = [
        "# Passes on a CPU",
        "",
        "What packed weights and shared-out passes save ([ADR 0015](../../adr/0015-passes-on-a-cpu.md)) beside the "
        f"same model as PyTorch runs it, with {about['threads']} threads: milliseconds an image (medians of "
        f"{record['rounds']} rounds in which the ways took turns), and in brackets the median of the rounds' ratios. "
        "`both` in a process that keeps freed memory is how the server runs. Written by `python -m benchmarks.passes`; "
        f"every sample is in `summary.json`. {about['processor']}, {about['cores']} cores, torch {about['torch']}, "
        f"{about['date']}.",
    ]
    for memory, models in record["ms_an_image"].items():
        lines += ["", f"## Freed memory is {memory}"]
        for model, by_size in models.items():
            names = list(next(iter(by_size.values())))
            lines += ["", f"| {model}, images | {' | '.join(names)} |", f"|---|{'---|' * len(names)}"]
            for size, times in by_size.items():
                cells = [
                    f"{median(times[name]):.1f}" + ("" if name == "plain" else f" ({gain(times, name):.2f})")
                    for name in names
                ]
                lines.append(f"| {size} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def gain(times: dict[str, list[float]], name: str) -> float:
    """How many times as fast as plain passes of the same rounds: the median."""
    return median(plain / other for plain, other in zip(times["plain"], times[name], strict=True))


def run(
    out: Annotated[Path, typer.Option(help="Folder of the page and the record.")] = Path("docs/results/passes"),
    model: Annotated[
        list[str] | None, typer.Option(help="compact, or an open_clip name; may be given more than once.")
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads of a pass.")] = 2,
    rounds: Annotated[int, typer.Option(min=1, help="Passes of each way and batch size.")] = 15,
    largest: Annotated[int, typer.Option(min=1, help="Largest batch; sizes are powers of two.")] = 16,
) -> None:
    """Time an image tower's passes on this machine's CPU, run plainly and as the server runs them."""
    sizes = [1 << power for power in range(largest.bit_length())]
    models = model or MODELS
    times: dict[str, dict[str, Any]] = {}
    bar = Progress(console=Console(stderr=True), refresh_per_second=1, transient=True)
    with tempfile.TemporaryDirectory(prefix="keepsight-passes-") as folder, bar:
        task = bar.add_task("passes", total=2 * len(models))
        for memory in (RETURNED, KEPT):
            times[memory] = {}
            for name in models:
                spec = ModelSpec(name) if name == "compact" else write_open_clip(Path(folder), name)
                order = {"spec": [spec.name, spec.pretrained], "threads": threads, "sizes": sizes, "rounds": rounds}
                times[memory][name] = _in_a_process({**order, "kept": memory == KEPT})
                bar.advance(task)
    record = {"machine": machine(threads), "rounds": rounds, "ms_an_image": times}
    save_json(out / "summary.json", record)
    save_bytes(out / "README.md", page(record).encode())


def _in_a_process(order: dict[str, Any]) -> Any:
    """What `measure` finds in a process of its own, whose memory is kept or not."""
    command = [sys.executable, "-c", "from benchmarks.passes import child; child()", json.dumps(order)]
    environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE"}  # as the server has it
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"passes of {order['spec'][0]} could not be timed: {done.stderr.strip()[-800:]}")
    return json.loads(done.stdout)


def child() -> None:
    """Carry out the order in the first argument, and print what was measured as JSON."""
    order = json.loads(sys.argv[1])
    if order["kept"]:
        set_up_process()
    found = measure(ModelSpec(*order["spec"]), threads=order["threads"], sizes=order["sizes"], rounds=order["rounds"])
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    typer.run(run)
