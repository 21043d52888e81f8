"""`python -m benchmarks.serving`: measure part after part, and write the record, the plots and the page."""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console

from benchmarks.common.options import ONLY, Out, Quick
from benchmarks.common.progress import quiet_bar
from benchmarks.common.record import last_components, load_json
from benchmarks.serving import gpu as gpu_benchmark
from benchmarks.serving import record
from benchmarks.serving.figures import AIMS
from benchmarks.serving.foreign import Gate
from benchmarks.serving.parts import abuse, bare, commit, gain, peers, prepare, start, swaps
from benchmarks.serving.plan import QUICK, Part, Plan
from benchmarks.serving.report import write_report
from benchmarks.serving.workplace import Workplace

OUT = Path("docs/results/serving")
WORK = Path("var/serving")
MEASURE: dict[Part, Callable[[Workplace], dict[str, Any]]] = {
    Part.BARE: bare.measure,
    Part.PEERS: peers.measure,
    Part.SWAPS: swaps.measure,
    Part.COMMIT: commit.measure,
    Part.ABUSE: abuse.measure,
    Part.GAIN: gain.measure,
    Part.PREPARE: prepare.measure,
    Part.START: start.measure,
}
app = typer.Typer(add_completion=False)


@app.command()
def main(
    only: Annotated[list[Part] | None, ONLY] = None,
    out: Out = OUT,
    quick: Quick = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Measure again what is finished already.")] = False,
    data: Annotated[
        Path | None, typer.Option(help="Your own JPEG files [default: crops of photographs that packages ship]")
    ] = None,
    api_processes: Annotated[int, typer.Option(min=1, help="Server processes that versions are changed on.")] = 2,
    work: Annotated[Path, typer.Option(help="Where weights, stores, photographs and logs are made.")] = WORK,
    peers_dir: Annotated[
        Path | None, typer.Option(help="Virtual environments of the other servers [default: in --work]")
    ] = None,
    gpu: Annotated[
        bool, typer.Option("--gpu", help="Measure the server on one GPU instead, into results/gpu; no other part.")
    ] = False,
) -> None:
    """Measure what serving costs: beside the bare model, beside other servers, and while versions change.

    Use a quiet machine with 20 GB of free disk: the other servers are installed into environments of their own, once.
    A finished part is not measured again; the full plan takes about fifty minutes on two cores.
    """
    console = Console(stderr=True)
    if gpu:
        _on_gpu(console, out.parent / "gpu" if out == OUT else out, work.resolve() / "gpu", quick=quick, data=data)
        return
    plan = (QUICK if quick else Plan()).model_copy(update={"api_processes": api_processes})
    place = Workplace(work=work.resolve(), plan=plan, peers=(peers_dir or work / "peers").resolve(), data=data)
    place.work.mkdir(parents=True, exist_ok=True)
    place.peers.mkdir(parents=True, exist_ok=True)
    done = {} if fresh else record.finished(out, plan)
    asked = only or list(Part)
    failed: list[str] = []
    with quiet_bar(console) as bar:
        task = bar.add_task("", total=len(asked))
        for part in asked:
            place.tell = lambda what, part=part: bar.update(task, description=f"{part}: {what}")  # type: ignore[misc]
            if part in done:
                console.print(f"{part}: finished already")
            else:
                failed += _one(place, part, out, console)
            bar.advance(task)
    _conclude(console, out, failed)


def _on_gpu(console: Console, out: Path, work: Path, *, quick: bool, data: Path | None) -> None:
    there_is_one = torch.cuda.is_available()
    plan = gpu_benchmark.quick(on_gpu=there_is_one) if quick else gpu_benchmark.GpuPlan()
    if not quick and not there_is_one:
        console.print("[red]benchmarks.serving: there is no CUDA device here, so there is nothing to measure[/red]")
        raise typer.Exit(1)
    with quiet_bar(console) as bar:
        task = bar.add_task("", total=None)
        place = gpu_benchmark.GpuPlace(work, plan, data, tell=lambda what: bar.update(task, description=what))
        record = gpu_benchmark.measure(place, out)
    print(gpu_benchmark.page(record))


def _one(place: Workplace, part: Part, out: Path, console: Console) -> list[str]:
    """Measure and keep one part; sentences about what could not be measured."""
    place.gate = Gate(retries=place.plan.retries)
    begun = time.monotonic()
    try:
        measured = MEASURE[part](place)
    except Exception as error:  # the loop's edge: other parts are measured all the same, and the end says what failed
        measured = {"figures": {}, "missing": {str(part): f"{type(error).__name__}: {error}"}, "failed": True}
    measured["missing"] = {name: without_places(why) for name, why in measured.get("missing", {}).items()}
    record.keep(out, part, measured, place.plan, seconds=time.monotonic() - begun)
    write_report(out)
    console.print(f"{part}: {'failed, as is ' if measured.get('failed') else ''}written to {out}")
    return [f"{name}: {why}" for name, why in measured["missing"].items()]


def without_places(text: str) -> str:
    """A message without addresses and absolute paths: the record tells of servers, not of somebody's machine."""
    return last_components(re.sub(r"https?://\S+", "…", text))


def _conclude(console: Console, out: Path, failed: list[str]) -> None:
    found = load_json(out / record.SUMMARY)
    for aim in AIMS:
        value = found.get(aim.name)
        word = {True: "met", False: "not met", None: "not measured"}[aim.met(value)]
        console.print(
            f"{aim.name:26} {'–' if value is None else f'{value:g}':>10}  aim {aim.kind} {aim.bound:g}: {word}"
        )
    if failed:
        for sentence in failed:
            console.print(f"[red]Not measured: {sentence}[/red]", highlight=False)
        raise typer.Exit(1)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: servers in sessions of their own are ended
    app()
