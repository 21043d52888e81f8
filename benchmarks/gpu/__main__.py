"""`python -m benchmarks.gpu`: how much of a GPU's speed an update keeps.

For each model the steps of an update (naive LoRA, SeGP-CL) are set beside the bare forward and backward pass of the
same model on the same number of images, in images per second, and this beside what the card's matrix products reach.
The first model also learns a task of 5,000 images. Weights are random: speed does not ask what was learned.
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
from benchmarks.gpu.measure import DTYPE, NEW_CLASSES, OLD_CLASSES, Figures, Plan, measure
from benchmarks.gpu.update import PLANS, QUICK_PLANS, Update, measure_update

MODELS = ("ViT-B-16", "ViT-L-14")
app = typer.Typer(add_completion=False)


def page(figures: list[Figures], updates: list[Update], plan: Plan, machine: str) -> str:
    """What was measured: a row for each model and side, for each model's arithmetic, and for each update."""
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
    ceilings = [
        (
            model.model,
            number(model.tflop_per_step, 2),
            number(model.product_tflops, 0),
            number(model.flops_share, 2),
            number(model.over("segp", "bare"), 2),
            number(model.over("segp", "naive"), 2),
        )
        for model in figures
    ]
    whole = [
        (
            update.model,
            update.name,
            number(update.images),
            number(update.anchors),
            number(update.seconds, 1),
            number(update.share_of_dpgd, 2),
            ", ".join(f"{phase} {seconds:.1f}" for phase, seconds in update.phases.items()),
            number(update.peak_mib),
        )
        for update in updates
    ]
    return (
        f"# Updates on a GPU\n\nMeasured on {machine}: random weights, batch {plan.batch}, {OLD_CLASSES} old and "
        f"{NEW_CLASSES} new classes, bfloat16 autocast{''.join(f', {option}' for option in options)}. `bare` is the "
        "forward and backward pass of the same images and of the new classes' texts; the other rows are whole training "
        f"steps. Medians of {plan.rounds * (plan.steps - plan.drop)} steps.\n\n"
        + table(("model", "side", "images/s", "step, ms", "of bare", "peak memory, MiB"), rows, left=2)
        + "\n\nThe bare step's arithmetic, as a share of what a large matrix product reaches on this card, and a step "
        "of SeGP-CL over a bare one and over one of naive LoRA, in time:\n\n"
        + table(
            ("model", "TFLOP a step", "product, TFLOP/s", "bare of product", "SeGP-CL / bare", "SeGP-CL / naive"),
            ceilings,
            left=1,
        )
        + "\n\nA whole update, on top of 100 made-up classes, by its settings:\n\n"
        + table(
            ("model", "settings", "images", "anchors", "seconds", "DPGD's share", "seconds by phase", "peak, MiB"),
            whole,
            left=2,
        )
        + "\n"
    )


@app.command()
def main(
    out: Annotated[Path, typer.Option(help="The page; the figures go beside it as JSON.")] = Path(
        "docs/results/gpu/learning.md"
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
    figures: list[Figures] = []
    updates: list[Update] = []

    def keep() -> None:  # after every piece: a machine that is lent for minutes may be gone before the end
        record = {
            "machine": machine,
            "torch": torch.__version__,
            "quick": quick,
            "plan": plan.model_dump(),
            "models": [model.model_dump() for model in figures],
            "updates": [update.model_dump() for update in updates],
        }
        save_bytes(out, page(figures, updates, plan, machine).encode())
        save_json(out.with_suffix(".json"), record)

    with tempfile.TemporaryDirectory(prefix="keepsight-gpu-") as folder:
        for name in ("tiny",) if quick else MODELS:
            spec = write_small_vit(Path(folder)) if quick else write_open_clip(Path(folder), name)
            figures.append(measure(spec, name, plan, place))
            keep()
            for each in () if updates else QUICK_PLANS if quick else PLANS:
                updates.append(measure_update(spec, name, each, place, DTYPE))
                keep()
    sys.stdout.write(page(figures, updates, plan, machine))


def _refused(why: str) -> typer.Exit:
    sys.stderr.write(f"benchmarks.gpu: {why}\n")
    return typer.Exit(1)


if __name__ == "__main__":
    app()
