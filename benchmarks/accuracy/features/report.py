"""The page and the record of heads on given features."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.accuracy.contributions.report import with_features
from benchmarks.accuracy.features.run import FeatureRecord, FeatureResult, FeatureRow, choose_heads
from benchmarks.common.pages import NOTHING, table
from benchmarks.common.record import save_files


def write_features(record: FeatureRecord, folder: Path) -> None:
    """Write `record.json` and `README.md` into `folder`, each whole or not at all.

    The page keeps its section of cross-modal contributions.
    """
    written = json.dumps(record.model_dump(mode="json"), indent=1, allow_nan=False) + "\n"
    save_files(folder, {"record.json": written.encode(), "README.md": with_features(page(record), folder).encode()})


def overview(record: FeatureRecord) -> str:
    """Last of every head on every data set, in percent."""
    found = {(result.dataset, row.row): row.summary.last for result in record.results for row in result.rows}
    names = [name for name in choose_heads(None) if any(row == name for _, row in found)]
    lines = [[name, *(_percent(found.get((result.dataset, name))) for result in record.results)] for name in names]
    return table(["Last", *(result.dataset for result in record.results)], lines, left=1, padded=True)


def details(result: FeatureResult) -> str:
    """The table of one data set."""
    head = ["Row", "Last", "Avg", "Forgetting", "BWT", "Chosen", "Seconds"]
    return table(head, [_line(row) for row in result.rows], left=1, padded=True)


def page(record: FeatureRecord) -> str:
    """`README.md`: protocol, overview, a table for each data set, and versions."""
    parts = [
        "# Heads on given features",
        f"Closed-form heads on the features in `{record.file}` (SHA-256 {record.digest[:16]}), class-incremental, in "
        f"the order of classes of seed 1993. Random features and held-out rows are those of seed {record.seed}. Test "
        "rows were used for nothing but these numbers. Accuracies are in percent. Written by `keepsight bench "
        "features`.",
        overview(record),
    ]
    for result in record.results:
        parts += [f"## {result.dataset}", _sentence(result), details(result)]
    parts += ["## Versions", table(["", "Version"], list(map(list, record.versions.items())), padded=True)]
    return "\n\n".join(parts) + "\n"


def _sentence(result: FeatureResult) -> str:
    kept = f"{result.kept_rows:,} " + ("of them held out" if result.held_out else "others set apart by the file")
    tasks = f"{result.tasks} task{'' if result.tasks == 1 else 's'}"
    return (
        f"{result.classes:,} classes in {tasks}, {result.dimensions} dimensions, {result.train_rows:,} rows to train "
        f"on, {kept} to choose settings on, and {result.test_rows:,} to test on."
    )


def _line(row: FeatureRow) -> list[str]:
    summary = row.summary
    metrics = (summary.last, summary.average, summary.forgetting, summary.backward_transfer)
    chosen = ", ".join(f"{name} {value:.3g}" for name, value in row.chosen.items()) or NOTHING
    return [row.row, *map(_percent, metrics), chosen, f"{row.seconds:.1f}"]


def _percent(value: float | None) -> str:
    return NOTHING if value is None else f"{100 * value:.1f}"
