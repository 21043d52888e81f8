"""`python -m benchmarks.answers`: what answers are worth, beyond being right.

Classes are taught without training, from features that are computed once, by the same code that an update runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Final

import torch
import typer

from benchmarks.accuracy.datasets import load_dataset
from benchmarks.answers.certainty import CERTAINTY
from benchmarks.answers.closed_form import CLOSED_FORM
from benchmarks.answers.features import clip_features, far_images, photos_of
from benchmarks.answers.group import Group, Inputs
from benchmarks.answers.instant import INSTANT
from benchmarks.answers.lineage import Lineage
from benchmarks.answers.shots import SHOTS_GROUP
from benchmarks.answers.strange import STRANGE
from benchmarks.answers.untaught import UNTAUGHT
from benchmarks.common.machine import machine
from benchmarks.common.options import ONLY, Out, Quick, Threads
from benchmarks.common.pages import measured_on, number, table
from benchmarks.common.progress import quiet_bar
from benchmarks.common.record import Record, load_json, save_bytes, save_files, save_json
from segp_cl.models.load import load_backbone
from segp_cl.types import ModelSpec

GROUPS: Final[Mapping[str, Group]] = MappingProxyType(
    {
        "certainty": CERTAINTY,
        "unknown": STRANGE,
        "shots": SHOTS_GROUP,
        "untaught": UNTAUGHT,
        "instant": INSTANT,
        "closed-form": CLOSED_FORM,
    }
)
TITLES: Final = {
    "certainty": "Probabilities and sets of labels",
    "unknown": "Images of no taught class",
    "shots": "Few and uneven images",
    "untaught": "Words that were never taught",
    "instant": "How soon a task is served",
    "closed-form": "Without a gradient",
}
TRAIN_PER_CLASS: Final = {"caltech101": 20, "cifar10": 450}
FAR_IMAGES: Final = 400
QUICK_IMAGES: Final = 8
app = typer.Typer(add_completion=False)


def page(record: Record) -> str:
    """The record in words and tables."""
    lines = [
        "# Answers",
        "",
        "What answers are worth besides being right. Classes are taught in tasks without training (`prototypes`), and "
        f"measured on images of the {record['evaluated_on']} split. Written by `python -m benchmarks.answers`.",
        "",
        measured_on(record["machine"], quick=record["quick"]),
        "",
        "Figures are fractions.",
        "",
    ]
    rows = [
        [f"`{name}`", number(record["figures"][name], 3), meaning]
        for group in GROUPS.values()
        for name, meaning in group.meanings.items()
        if name in record["figures"]
    ]
    lines += [table(["figure", "value", "what it says"], rows), ""]
    for name, group in GROUPS.items():
        if name in record["details"]:
            lines += [f"## {TITLES[name]}", "", group.section(record["details"][name]), ""]
            lines += [f"![{TITLES[name]}]({plot})\n" for plot in group.plots(record["details"][name])]
    return "\n".join(lines).rstrip() + "\n"


@app.command()
def main(
    data: Annotated[
        Path, typer.Option(help="Folder of the data sets, and of the file of CLIP features if there is one.")
    ],
    out: Out = Path("docs/results/answers"),
    cache: Annotated[Path | None, typer.Option(help="Where an archive is unpacked once.")] = None,
    validation: Annotated[
        bool, typer.Option("--validation", help="Measure on the slice of training images that settings are chosen on.")
    ] = False,
    work: Annotated[Path, typer.Option(help="Where finished trainings are kept.")] = Path("var/bench"),
    only: Annotated[list[str] | None, ONLY] = None,
    orders: Annotated[int, typer.Option(min=1, help="Orders of the classes.")] = 10,
    threads: Threads = 2,
    quick: Quick = False,
) -> None:
    """Measure calibration, label sets, unknown images, and classes of few or uneven images."""
    unknown = sorted(set(only or ()) - set(GROUPS))
    if unknown:
        raise typer.BadParameter(f"there is no part {unknown[0]!r}; expected {', '.join(GROUPS)}", param_hint="--only")
    torch.set_num_threads(threads)
    backbone, photos = load_backbone(ModelSpec("compact")), {}
    with quiet_bar() as bar:
        on_features = any(GROUPS[name].on_features for name in only or GROUPS)
        for name, each in TRAIN_PER_CLASS.items() if on_features else ():
            advance = partial(bar.advance, bar.add_task(f"{name}: features", total=None))
            photos[name] = photos_of(
                backbone,
                load_dataset(name, data, cache=cache),
                train_per_class=QUICK_IMAGES if quick else each,
                test_per_class=QUICK_IMAGES if quick else None,
                evaluated_on="validation" if validation else "test",
                advance=advance,
            )
        clip = data / "clip-vit-b32-features.npz"
        inputs = Inputs(
            photos,
            Lineage.on(backbone),
            far_images(backbone, QUICK_IMAGES if quick else FAR_IMAGES) if on_features else torch.empty(0),
            clip_features(clip) if clip.exists() else {},
            data=data,
            work=work,
            rounds=1 if quick else 3,
            orders=1 if quick else orders,
            draws=1 if quick else 3,
            pairs=2 if quick else 48,
        )
        record = load_json(out / "record.json") if only else {}
        record |= {"machine": machine(threads), "quick": quick, "evaluated_on": "validation" if validation else "test"}
        record.setdefault("figures", {})
        record.setdefault("details", {})
        plots: dict[str, bytes | None] = {}
        for name in bar.track(list(only or GROUPS), description="figures"):
            part = GROUPS[name].measure(inputs)
            record["figures"] |= part.figures
            record["details"][name] = part.details
            plots |= GROUPS[name].plots(part.details)
    save_json(out / "record.json", record)
    save_json(out / "summary.json", {name: value for name, value in record.items() if name != "details"})
    save_files(out, plots)
    save_bytes(out / "README.md", page(record).encode())


if __name__ == "__main__":
    app()
