"""`python -m benchmarks.passes`: what the server's engines save on a CPU beside plain PyTorch.

For each model and batch size the ways take turns in one process: plain PyTorch, PyTorch with images shared out to
threads, and OpenVINO in float32. The same again in a process that keeps freed memory, as the server's does. Ratios
within one run; weights of ViTs are random, speed does not ask what was learned.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import typer

from benchmarks.common.machine import machine
from benchmarks.common.models import write_open_clip
from benchmarks.common.options import Out, Rounds, Threads
from benchmarks.common.process import answer_of
from benchmarks.common.progress import quiet_bar
from benchmarks.common.record import save_bytes, save_json
from segp_cl.types import ModelSpec

MODELS = ("compact", "ViT-B-32")
RETURNED, KEPT = "returned to the kernel", "kept"
app = typer.Typer(add_completion=False)


def page(record: dict[str, Any]) -> str:
    """The record as a table: medians, and how many times as fast as plain passes in the same rounds."""
    about = record["machine"]
    lines = [
        "# Passes on a CPU",
        "",
        "What shared-out passes ([ADR 0015](../../adr/0015-passes-on-a-cpu.md)) and OpenVINO in float32 ([ADR "
        "0045](../../adr/0045-engines.md)) save beside the same model as PyTorch runs it, with "
        f"{about['threads']} threads: milliseconds an image (medians of {record['rounds']} rounds in which the ways "
        "took turns), and in brackets the median of the rounds' ratios. In a process that keeps freed memory, "
        "`openvino` is how the server runs where it is installed, and `shared out` elsewhere. Written by `python -m "
        "benchmarks.passes`; "
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


@app.command()
def main(
    out: Out = Path("docs/results/passes"),
    model: Annotated[
        list[str] | None, typer.Option(help="compact, or an open_clip name; may be given more than once.")
    ] = None,
    threads: Threads = 2,
    rounds: Rounds = 15,
    largest: Annotated[int, typer.Option(min=1, help="Largest batch; sizes are powers of two.")] = 16,
) -> None:
    """Time an image tower's passes on this machine's CPU, run plainly and as the server runs them."""
    sizes = [1 << power for power in range(largest.bit_length())]
    models = model or MODELS
    times: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory(prefix="keepsight-passes-") as folder, quiet_bar() as bar:
        task = bar.add_task("passes", total=2 * len(models))
        for memory in (RETURNED, KEPT):
            times[memory] = {}
            for name in models:
                spec = ModelSpec(name) if name == "compact" else write_open_clip(Path(folder), name)
                order = {"spec": [spec.name, spec.pretrained], "threads": threads, "sizes": sizes, "rounds": rounds}
                times[memory][name] = answer_of(
                    "benchmarks.passes.measure",
                    json.dumps({**order, "kept": memory == KEPT}),
                    environment={"OMP_WAIT_POLICY": "PASSIVE"},  # as the server has it
                )
                bar.advance(task)
    record = {"machine": machine(threads), "rounds": rounds, "ms_an_image": times}
    save_json(out / "summary.json", record)
    save_bytes(out / "README.md", page(record).encode())


if __name__ == "__main__":
    app()
