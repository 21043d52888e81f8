"""`python -m benchmarks.operator`: how fast versions are edited, mended and exported, and what that does to answers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Final

import torch
import typer

from benchmarks.common.machine import machine
from benchmarks.common.options import ONLY, Out, Quick, Threads
from benchmarks.common.pages import measured_on, table
from benchmarks.common.progress import quiet_bar
from benchmarks.common.record import Record, load_json, save_bytes, save_json
from benchmarks.operator.corrections import CORRECTIONS
from benchmarks.operator.edits import EDITS
from benchmarks.operator.export import EXPORT
from benchmarks.operator.gate_on_test_sets import GATE_ON_TEST_SETS
from benchmarks.operator.part import Inputs, Part

PARTS: Final[Mapping[str, Part]] = MappingProxyType(
    {"edits": EDITS, "corrections": CORRECTIONS, "export": EXPORT, "gate_on_test_sets": GATE_ON_TEST_SETS}
)
app = typer.Typer(add_completion=False)


def page(record: Record) -> str:
    """The record in words and tables."""
    lines = [
        "# What operators do",
        "",
        f"Measured on images of the {record['evaluated_on']} split. Written by `python -m benchmarks.operator`.",
        "",
        measured_on(record["machine"], quick=record["quick"]),
        "",
    ]
    rows = [
        [f"`{name}`", f"{record['figures'][name]:.4g}", meaning]
        for part in PARTS.values()
        for name, meaning in part.meanings.items()
        if name in record["figures"]
    ]
    lines += [table(["figure", "value", "what it says"], rows), ""]
    for name, part in PARTS.items():
        if name in record["details"]:
            lines += [f"## {part.title}", "", part.section(record["details"][name]), ""]
    return "\n".join(lines).rstrip() + "\n"


@app.command()
def main(
    data: Annotated[Path, typer.Option(help="Folder of the data sets.")],
    out: Out = Path("docs/results/operator"),
    cache: Annotated[Path | None, typer.Option(help="Where an archive is unpacked once.")] = None,
    work: Annotated[Path, typer.Option(help="Where what takes long is kept.")] = Path("var/bench"),
    validation: Annotated[
        bool, typer.Option("--validation", help="Measure on the slice of training images that settings are chosen on.")
    ] = False,
    only: Annotated[list[str] | None, ONLY] = None,
    threads: Threads = 2,
    quick: Quick = False,
) -> None:
    """Measure edits of classes, corrections, and exports."""
    unknown = sorted(set(only or ()) - set(PARTS))
    if unknown:
        raise typer.BadParameter(f"there is no part {unknown[0]!r}; expected {', '.join(PARTS)}", param_hint="--only")
    torch.set_num_threads(threads)
    inputs = Inputs(data, cache=cache, work=work, validation=validation, quick=quick)
    record = load_json(out / "record.json") if only and (out / "record.json").exists() else {}
    record |= {"machine": machine(threads), "quick": quick, "evaluated_on": "validation" if validation else "test"}
    record.setdefault("figures", {})
    record.setdefault("details", {})
    with quiet_bar() as bar:
        for name in bar.track(list(only or PARTS), description="figures"):
            found = PARTS[name].measure(inputs)
            record["figures"] |= found.figures
            record["details"][name] = found.details
    save_json(out / "record.json", record)
    save_json(out / "summary.json", {name: value for name, value in record.items() if name != "details"})
    save_bytes(out / "README.md", page(record).encode())


if __name__ == "__main__":
    app()
