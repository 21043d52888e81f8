"""`python -m benchmarks.gpu`: how much of a GPU's speed an update keeps.

For each model the steps of an update (naive LoRA, SeGP-CL) are set beside the bare forward and backward pass of the
same model on the same number of images, in images per second. Weights are random: speed does not ask what was learned.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from benchmarks.common.machine import device_name
from benchmarks.common.models import write_open_clip, write_small_vit
from benchmarks.common.options import ChannelsLast, Compile, Quick
from benchmarks.common.pages import number, table
from benchmarks.common.record import save_bytes, save_json
from benchmarks.gpu.measure import NEW_CLASSES, OLD_CLASSES, Figures, Plan, measure

MODELS = ("ViT-B-16", "ViT-L-14")
app = typer.Typer(add_completion=False)


def page(figures: list[Figures], plan: Plan, machine: str) -> str:
    """What was measured, and a row for each model and side."""
    options = [name for name, on in (("torch.compile", plan.compiled), ("channels-last", plan.channels_last)) if on]
    rows = [
        (
            model.model,
            side.name,
            number(side.images_per_second, 1),
            number(side.step_ms, 1),
            number(side.ratio, 2),
            number(side.peak_mib),
        )
        for model in figures
        for side in model.sides
    ]
    return (
        f"# Updates on a GPU\n\nMeasured on {machine}: random weights, batch {plan.batch}, {OLD_CLASSES} old and "
        f"{NEW_CLASSES} new classes, bfloat16 autocast{''.join(f', {option}' for option in options)}. `bare` is the "
        "forward and backward pass of the same images and of the new classes' texts; the other rows are whole training "
        f"steps. Medians of {plan.rounds * (plan.steps - plan.drop)} steps.\n\n"
        + table(("model", "side", "images/s", "step, ms", "of bare", "peak memory, MiB"), rows, left=2)
        + "\n"
    )


@app.command()
def main(
    out: Annotated[Path, typer.Option(help="The page; the figures go beside it as JSON.")] = Path(
        "docs/results/gpu.md"
    ),
    device: Annotated[str, typer.Option(help="cuda, or cuda:N; cpu only with --quick.")] = "cuda",
    quick: Quick = False,
    compile: Compile = False,
    channels_last: ChannelsLast = False,
) -> None:
    """Measure images per second of updates and of the bare model, and write a table."""
    place = torch.device(device)
    if place.type != "cuda" and not quick:
        raise _refused(f"figures of {device} would say nothing of a GPU: leave --device out, or add --quick")
    if place.type == "cuda" and not torch.cuda.is_available():
        raise _refused("there is no CUDA device here, so there is nothing to measure")
    options: dict[str, Any] = {"compiled": compile, "channels_last": channels_last}
    plan = Plan(batch=10, steps=3, drop=1, rounds=1, **options) if quick else Plan(**options)
    machine = device_name(place)
    figures = []
    with tempfile.TemporaryDirectory(prefix="keepsight-gpu-") as folder:
        for name in ("tiny",) if quick else MODELS:
            spec = write_small_vit(Path(folder)) if quick else write_open_clip(Path(folder), name)
            figures.append(measure(spec, name, plan, place))
    text = page(figures, plan, machine)
    record = {
        "machine": machine,
        "torch": torch.__version__,
        "quick": quick,
        "plan": plan.model_dump(),
        "models": [model.model_dump() for model in figures],
    }
    save_bytes(out, text.encode())
    save_json(out.with_suffix(".json"), record)
    sys.stdout.write(text)


def _refused(why: str) -> typer.Exit:
    sys.stderr.write(f"benchmarks.gpu: {why}\n")
    return typer.Exit(1)


if __name__ == "__main__":
    app()
