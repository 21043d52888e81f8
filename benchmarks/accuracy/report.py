"""What a benchmark publishes: the record, a summary, a page and its plots, all of them from the record alone."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.accuracy.contributions.report import with_set
from benchmarks.accuracy.orders import with_orders
from benchmarks.accuracy.plots import accuracy_plot, drift_plot, ladder_plot, matrix_plot
from benchmarks.accuracy.portable import without_paths
from benchmarks.accuracy.record import BenchmarkRecord
from benchmarks.accuracy.spread import RowSpread, Spread, percent, with_std
from benchmarks.common.pages import NOTHING, table
from benchmarks.common.record import save_files

_CAPTIONS = {
    "accuracy.png": "Accuracy over all classes seen so far; where a line falls steeply, old classes are paid for new "
    "ones. Bands are one standard deviation over seeds.",
    "ladder.png": "The rows in the order of the table: accuracy over all classes at the end, and how much was lost "
    "on the way. Error bars are one standard deviation over seeds.",
    "matrix.png": "R: read down a column to see what later tasks did to an earlier one. Above the diagonal: tasks that "
    "were not yet taught.",
    "drift.png": "How far an update moved the old classes' images: those near a boundary between classes against those "
    "far from it. The further right, the more moved.",
}


def write_report(record: BenchmarkRecord, folder: Path) -> None:
    """Write the record, its summary, its plots and the page into `folder`; `drift.png` only where a row has drift.

    The page keeps its sections of task orders and of cross-modal contributions.

    Everything is rendered before the first file is replaced, and each is replaced in one step: a report that fails
    leaves the older one. Absolute paths in the record are cut down to their last component.

    Raises:
        ValueError: the record has no rows.
    """
    if not record.rows:
        raise ValueError("a report needs at least one row; the record has none")
    record = without_paths(record)
    plots = {
        "accuracy.png": accuracy_plot(record),
        "ladder.png": ladder_plot(record),
        "matrix.png": matrix_plot(record),
        "drift.png": drift_plot(record),
    }
    contents: dict[str, bytes | None] = {
        "record.json": _json(record.model_dump(mode="json")).encode(),
        "summary.json": (json.dumps(summary(record), indent=2, allow_nan=False) + "\n").encode(),
        **plots,
    }
    text = page(record, plots=[name for name, plot in plots.items() if plot is not None])
    contents["README.md"] = with_set(with_orders(text, folder), folder).encode()
    save_files(folder, contents)


def summary(record: BenchmarkRecord) -> dict[str, object]:
    """`summary.json`: mean and sample standard deviation of each metric over seeds, as fractions, null if undefined."""
    return {
        "dataset": record.protocol.dataset,
        "tasks": record.protocol.tasks,
        "evaluated_on": record.protocol.evaluated_on,
        "model": record.protocol.model,
        "rows": {row: _summary_of(spread) for row, spread in _spreads(record).items()},
    }


def markdown_table(record: BenchmarkRecord) -> str:
    """One line per row in percent, mean ± sample standard deviation over seeds; no ± where there is one seed."""
    lines = [
        [
            row,
            str(spread.seeds),
            percent(spread.last_accuracy, spread.seeds),
            percent(spread.average_accuracy, spread.seeds),
            percent(spread.forgetting, spread.seeds),
            percent(spread.backward_transfer, spread.seeds),
            percent(spread.forward_transfer, spread.seeds),
            percent(spread.global_accuracy, spread.seeds),
            with_std(spread.seconds_per_task, spread.seeds),
        ]
        for row, spread in _spreads(record).items()
    ]
    head = ["Row", "Seeds", "Last", "Avg", "Forgetting", "BWT", "FWT", "Global", "s per task"]
    return table(head, lines, left=1, padded=True)


def page(record: BenchmarkRecord, *, plots: Sequence[str]) -> str:
    """`README.md`: protocol, table, the named plots, retention and drift where the record has them, and versions."""
    parts = [f"# {record.protocol.dataset}", _protocol_sentences(record), markdown_table(record)]
    parts.append(
        "Last, Avg and Forgetting are over the classes seen so far; BWT and FWT are the backward and forward transfer "
        "(eq. 33 and 34 define FWT and Forgetting); Global is the text path over all classes after the last task."
    )
    parts += [f"![{name.removesuffix('.png')}]({name})\n\n{_CAPTIONS[name]}" for name in plots]
    parts += _retention(record) + _drift(record)
    parts += ["## Versions", table(["", "Version"], list(record.versions.items()), padded=True)]
    return "\n\n".join(parts) + "\n"


def _spreads(record: BenchmarkRecord) -> Mapping[str, RowSpread]:
    return {row: RowSpread.of(record.of(row)) for row in record.row_names()}


def _summary_of(spread: RowSpread) -> dict[str, object]:
    metrics = {
        "last_accuracy": spread.last_accuracy,
        "average_accuracy": spread.average_accuracy,
        "forgetting": spread.forgetting,
        "backward_transfer": spread.backward_transfer,
        "forward_transfer": spread.forward_transfer,
        "global_accuracy": spread.global_accuracy,
    }
    written = {name: value and {"mean": value.mean, "std": value.std} for name, value in metrics.items()}
    return {**written, "seeds": spread.seeds}


def _protocol_sentences(record: BenchmarkRecord) -> str:
    protocol = record.protocol
    classes = len(protocol.classes)
    of = f" of {classes // protocol.tasks}" if classes % protocol.tasks == 0 else ""
    model = f"{protocol.model} ({protocol.pretrained})" if protocol.pretrained else protocol.model
    train = _images(protocol.train_images, protocol.train_per_class, classes)
    test = _images(protocol.test_images, protocol.test_per_class, classes)
    source = "the test set" if protocol.evaluated_on == "test" else "training images that were kept back (validation)"
    return (
        f"{protocol.dataset}: {classes} classes in {_count(protocol.tasks, 'task')}{of}, in the order of seed "
        f"{protocol.class_order_seed}; {train} to train on and {test} to test on, from {source}. "
        f"The model is {model}, asked with “{protocol.template}”. "
        f"{_seed_sentence(record)} Everything in the table but seconds is in percent."
    )


def _seed_sentence(record: BenchmarkRecord) -> str:
    seeds = {row: [str(r.seed) for r in record.of(row)] for row in record.row_names()}
    alike = len({tuple(found) for found in seeds.values()}) == 1
    found = next(iter(seeds.values()))
    if not alike:
        return "Numbers are mean ± sample standard deviation over as many seeds as the table says."
    if len(found) == 1:
        return f"Numbers are of one seed, {found[0]}, hence without a deviation."
    return f"Numbers are mean ± sample standard deviation over seeds {', '.join(found[:-1])} and {found[-1]}."


def _retention(record: BenchmarkRecord) -> list[str]:
    lines = []
    for row in record.row_names():
        found = [r.retention for r in record.of(row) if r.retention is not None]
        for dataset in dict.fromkeys(retention.dataset for retention in found):
            of = [retention for retention in found if retention.dataset == dataset]
            values = ([r.before for r in of], [r.after for r in of], [r.after - r.before for r in of])
            lines.append([row, dataset, str(of[0].images), *(percent(Spread.of(value), len(of)) for value in values)])
    if not lines:
        return []
    note = "Zero-shot accuracy by the text path on another data set, untouched and after the last task."
    head = ["Row", "Data set", "Images", "Before", "After", "Change"]
    return ["## Retention", note, table(head, lines, left=2, padded=True)]


def _drift(record: BenchmarkRecord) -> list[str]:
    lines = []
    for row in record.row_names():
        found = [r.drift for r in record.of(row) if r.drift is not None]
        if found:
            near, far = Spread.of([d.near_mean for d in found]), Spread.of([d.far_mean for d in found])
            ratio = f"{near.mean / far.mean:.1f}" if far.mean > 0 else NOTHING
            sides = (with_std(side, len(found), digits=4) for side in (near, far))
            lines.append([row, *sides, ratio])
    if not lines:
        return []
    note = (
        "Jensen-Shannon divergence in nats between the predictions for old classes before and after each update, by "
        "distance to the boundary before it."
    )
    return ["## Drift", note, table(["Row", "Near", "Far", "Near / far"], lines, left=1, padded=True)]


def _images(images: int, per_class: int | None, classes: int) -> str:
    if per_class is None:
        return _count(images, "image")
    return f"{_count(images, 'image')} ({'' if images == per_class * classes else 'at most '}{per_class} per class)"


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _json(value: object) -> str:
    """Indented JSON with lists of plain values on one line each: a matrix reads as a matrix."""
    return _indented(value, "") + "\n"


def _indented(value: object, indent: str) -> str:
    deeper = indent + "  "
    if isinstance(value, dict) and value:
        fields = [f"{deeper}{json.dumps(name)}: {_indented(entry, deeper)}" for name, entry in value.items()]
        return "{\n" + ",\n".join(fields) + f"\n{indent}}}"
    if isinstance(value, list) and any(isinstance(entry, dict | list) for entry in value):
        return "[\n" + ",\n".join(deeper + _indented(entry, deeper) for entry in value) + f"\n{indent}]"
    return json.dumps(value, ensure_ascii=False, allow_nan=False)
