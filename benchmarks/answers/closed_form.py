"""How good the best head without a gradient is, as the accuracy benchmark found it."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from benchmarks.answers.group import Group, Inputs, Part
from benchmarks.common.pages import number, table
from benchmarks.common.record import Record, load_json

ROWS: Final = ("prototypes", "prototypes-whitened", "ridge", "ranpac-2000", "ranpac-10000", "gda+text")
SETS: Final = ("caltech101", "cifar10")


def best(folder: Path) -> Record:
    """Return the row of the most Last among `ROWS` in the summary of a data set, its Last, and that of `segp`."""
    rows = load_json(folder / "summary.json").get("rows", {})
    lasts = {name: float(rows[name]["last_accuracy"]["mean"]) for name in (*ROWS, "segp") if name in rows}
    row = max((name for name in lasts if name != "segp"), key=lambda name: lasts[name])
    return {"row": row, "last": lasts[row], "segp": lasts.get("segp")}


def measure(inputs: Inputs) -> Part:
    """Read what `keepsight bench run` wrote."""
    found = {name: best(inputs.results / name) for name in SETS}
    return Part({f"best_closed_form_{name}": each["last"] for name, each in found.items()}, found)


def section(details: Record) -> str:
    """What was found, as a table."""
    rows = [
        [name, each["row"], number(each["last"], 3), "–" if each["segp"] is None else number(each["segp"], 3)]
        for name, each in details.items()
    ]
    return table(["data set", "best row without a gradient", "Last", "`segp`"], rows)


CLOSED_FORM = Group(
    meanings={f"best_closed_form_{name}": f"Last of the best row without a gradient, {name}" for name in SETS},
    measure=measure,
    section=section,
    on_features=False,
)
