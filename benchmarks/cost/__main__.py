"""`python -m benchmarks.cost`: measure, and write the record, the plots and the page."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from benchmarks.common import models
from benchmarks.common.machine import machine, memory_mib
from benchmarks.common.options import ONLY, Out, Quick
from benchmarks.common.progress import quiet_bar
from benchmarks.common.record import load_json, save_json
from benchmarks.cost import plan
from benchmarks.cost.parts import Measured, OnPoint, measure_dpgd, measure_growth, measure_steps
from benchmarks.cost.record import Part, merge_part
from benchmarks.cost.report import write_report
from benchmarks.cost.runner import run_point

OUT = Path("docs/results/cost")
app = typer.Typer(add_completion=False)


@app.command()
def main(only: Annotated[list[Part] | None, ONLY] = None, out: Out = OUT, quick: Quick = False) -> None:
    """Measure what an update costs: a step against naive LoRA's, DPGD's share, growth of time and memory.

    Use a quiet machine: samples that other processes disturbed are dropped. The full plan takes half an hour on two
    cores; every part is written as soon as it is measured.
    """
    console = Console(stderr=True)
    for part in only or list(Part):
        with quiet_bar(console) as bar:
            task = bar.add_task(str(part), total=None)

            def on_point(what: str, done: int, total: int) -> None:
                bar.update(task, description=f"{part}: {what}", completed=done, total=total)  # noqa: B023 - not kept

            measured = _measure(part, quick=quick, on_point=on_point)
        keep(out, part, measured, quick=quick)
        console.print(f"{part}: written to {out}")


def keep(out: Path, part: Part, measured: Measured, *, quick: bool) -> None:
    """Merge a part into the record at `out`, and draw the report anew."""
    conditions = {"machine": machine(plan.threads()), "quick": quick}
    summary = merge_part(load_json(out / "summary.json"), part, measured.figures, conditions)
    samples = {**load_json(out / "samples.json"), str(part): measured.samples}
    save_json(out / "samples.json", samples)
    save_json(out / "summary.json", summary)
    write_report(out)


def _measure(part: Part, *, quick: bool, on_point: OnPoint) -> Measured:
    with tempfile.TemporaryDirectory(prefix="keepsight-cost-") as folder:
        if part is Part.STEPS:
            on_point("writing random weights", 0, 1)
            vit = models.write_open_clip(Path(folder), "ViT-B-16")
            entries = plan.steps_plan(vit, available_mib=memory_mib("MemAvailable"), quick=quick)
            return measure_steps(entries, run_point, on_point)
        if part is Part.DPGD:
            return measure_dpgd(plan.dpgd_plan(quick=quick), run_point, on_point)
        small = models.write_small_vit(Path(folder))
        growth = plan.growth_plan(small, models.SMALL_VIT_IN_WORDS, quick=quick)
        return measure_growth(growth, run_point, on_point)


if __name__ == "__main__":
    app()
