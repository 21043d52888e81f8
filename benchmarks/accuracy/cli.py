"""The command line of the accuracy benchmarks: run one, sweep one setting, or take features as given."""

from __future__ import annotations

import json
import logging
import os
import sys
from contextlib import AbstractContextManager, nullcontext
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import typer

from benchmarks.accuracy import group
from benchmarks.accuracy.benchmark import Listener, Options, run_benchmark
from benchmarks.accuracy.console import Bar
from benchmarks.accuracy.contributions.report import write_feature_contributions, write_set
from benchmarks.accuracy.contributions.run import matrices_of, run_set
from benchmarks.accuracy.contributions.run import run_features as compare_features
from benchmarks.accuracy.datasets import DATASETS, load_dataset
from benchmarks.accuracy.features.file import read_features
from benchmarks.accuracy.features.report import overview, write_features
from benchmarks.accuracy.features.run import FeatureRecord, choose_heads, run_features
from benchmarks.accuracy.length import Length
from benchmarks.accuracy.orders import LENGTH_ROWS, ROWS, measure_apart, run_orders, write_orders
from benchmarks.accuracy.record import BenchmarkRecord
from benchmarks.accuracy.report import markdown_table, write_report
from benchmarks.accuracy.rows import choose_rows
from benchmarks.accuracy.sweep import sweep, write_sweep
from benchmarks.common.machine import library_versions
from benchmarks.common.options import ChannelsLast, Compile, Threads
from segp_cl.errors import KeepsightError
from segp_cl.learn.distributed import Ranks
from segp_cl.models.load import load_backbone
from segp_cl.prompts import DEFAULT_TEMPLATE
from segp_cl.runtime.hardware import choose_device
from segp_cl.types import ModelSpec

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Data = Annotated[Path, typer.Option(help="Folder that holds the data sets in their published layouts.")]
Name = Annotated[str, typer.Argument(help=f"{', '.join(DATASETS)}, or a folder with a folder per class.")]
Model = Annotated[str, typer.Option(help="Base model, as in `keepsight up`.")]
Pretrained = Annotated[str | None, typer.Option(help="Its weights: an open_clip tag or a checkpoint.")]
Seeds = Annotated[int, typer.Option(min=1, help="How many seeds.")]
Tasks = Annotated[int | None, typer.Option(min=1, help="How many tasks; the data set's usual number if left out.")]
Train = Annotated[int | None, typer.Option(min=1, help="Training images of each class; all if left out.")]
Test = Annotated[int | None, typer.Option(min=1, help="Images of each class that are measured on; all if left out.")]
Sets = Annotated[list[str] | None, typer.Option("--set", help="A hyper-parameter, name=value; for every training.")]
Work = Annotated[Path, typer.Option(help="Where finished tasks are kept, so that a run can be gone on with.")]
Out = Annotated[Path, typer.Option(help="Where results go, in a folder named after the data set.")]
Device = Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="cpu, cuda, or auto: cuda if there is one.")]
On = Annotated[Literal["test", "validation"], typer.Option(help="Measure on the test split or the validation slice.")]
Template = Annotated[str, typer.Option(help="Prompt, with {} for the class.")]


@app.command()
def run(
    dataset: Name,
    data: Data = Path("data"),
    rows: Annotated[list[str] | None, typer.Option("--row", help="Only this row; may be repeated.")] = None,
    model: Model = "compact",
    pretrained: Pretrained = None,
    seeds: Seeds = 3,
    tasks: Tasks = None,
    train_per_class: Train = None,
    test_per_class: Test = None,
    on: On = "test",
    retention: Annotated[str | None, typer.Option(help="A second data set, for zero-shot accuracy afterwards.")] = None,
    template: Template = DEFAULT_TEMPLATE,
    settings: Sets = None,
    work: Work = Path("var/bench"),
    out: Out = Path("docs/results"),
    device: Device = "auto",
    threads: Threads = min(2, os.cpu_count() or 1),
    channels_last: ChannelsLast = False,
    compile: Compile = False,
) -> None:
    """Learn a data set task by task, in every row's way, and write a record, a table and plots."""
    place = group.join(_prepare(device, threads))
    chosen = choose_rows(rows)
    loaded = load_dataset(dataset, data, tasks=tasks)
    other = load_dataset(retention, data) if retention else None
    options = _options(place, seeds, train_per_class, test_per_class, on, template, settings)
    backbone = load_backbone(ModelSpec(model, pretrained), device=place)
    if channels_last:
        backbone.use_channels_last()
    if compile:
        backbone.compile_towers()
    with _listener() as listener:
        record = run_benchmark(loaded, backbone, chosen, work, options, retention=other, listener=listener)
    if Ranks.current().first:
        folder = out / loaded.name
        write_report(record, folder)
        sys.stdout.write(f"{markdown_table(record)}\n\nWritten to {folder}/\n")
    group.leave()


@app.command("sweep")
def sweep_command(
    dataset: Name,
    parameter: Annotated[str, typer.Argument(help="The hyper-parameter.")],
    values: Annotated[list[str], typer.Argument(help="Its values.")],
    data: Data = Path("data"),
    row: Annotated[str, typer.Option(help="The row whose training is swept.")] = "segp",
    model: Model = "compact",
    pretrained: Pretrained = None,
    seeds: Seeds = 1,
    tasks: Tasks = None,
    train_per_class: Train = None,
    test_per_class: Test = None,
    on: On = "validation",
    template: Template = DEFAULT_TEMPLATE,
    settings: Sets = None,
    work: Work = Path("var/bench"),
    out: Out = Path("docs/results"),
    device: Device = "auto",
    threads: Threads = min(2, os.cpu_count() or 1),
) -> None:
    """Learn with several values of one hyper-parameter, measure on the validation slice, and plot."""
    place = group.join(_prepare(device, threads))
    loaded = load_dataset(dataset, data, tasks=tasks)
    options = _options(place, seeds, train_per_class, test_per_class, on, template, settings)
    backbone = load_backbone(ModelSpec(model, pretrained), device=place)
    chosen = [_value(value) for value in values]
    with _listener() as listener:
        result = sweep(loaded, backbone, row, parameter, chosen, work, options, listener=listener)
    if Ranks.current().first:
        sys.stdout.write(write_sweep(result, out / loaded.name / "sweeps") + "\n")
    group.leave()


@app.command("orders")
def orders_command(
    dataset: Name,
    data: Data = Path("data"),
    rows: Annotated[
        list[str] | None, typer.Option("--row", help="Only this row; may be repeated. Those that train if left out.")
    ] = None,
    orders: Annotated[int, typer.Option(min=1, help="How many orders of the classes.")] = 3,
    lengths: Annotated[
        list[int] | None,
        typer.Option("--length", min=1, help="Also measure so many tasks, time and memory included; may be repeated."),
    ] = None,
    model: Model = "compact",
    pretrained: Pretrained = None,
    seeds: Seeds = 3,
    tasks: Tasks = None,
    train_per_class: Train = None,
    test_per_class: Test = None,
    on: On = "test",
    template: Template = DEFAULT_TEMPLATE,
    settings: Sets = None,
    work: Work = Path("var/bench"),
    out: Out = Path("docs/results"),
    device: Device = "auto",
    threads: Threads = min(2, os.cpu_count() or 1),
) -> None:
    """Learn a data set in several orders of its classes, and write what each row achieves over all of them."""
    place = group.join(_prepare(device, threads))
    chosen = choose_rows(rows or list(ROWS))
    loaded = load_dataset(dataset, data, tasks=tasks)
    options = _options(place, seeds, train_per_class, test_per_class, on, template, settings)
    backbone = load_backbone(ModelSpec(model, pretrained), device=place)
    with _listener() as listener:
        record = run_orders(loaded, backbone, chosen, work, options, count=orders, listener=listener)
    if Ranks.current().first:
        measured = [
            measure_apart(
                Length(
                    dataset=dataset,
                    data=data,
                    row=row,
                    tasks=length,
                    model=model,
                    pretrained=pretrained,
                    train_per_class=train_per_class,
                    test_per_class=test_per_class,
                    settings=dict(options.settings),
                    threads=threads,
                )
            )
            for length in lengths or []
            for row in (rows or LENGTH_ROWS)
        ]
        folder = out / loaded.name
        sys.stdout.write(write_orders(record.model_copy(update={"lengths": tuple(measured)}), folder) + "\n")
    group.leave()


@app.command()
def features(
    file: Annotated[
        Path, typer.Argument(help="An npz file: NAME_train_x, NAME_train_y, NAME_test_x, NAME_test_y, ...")
    ],
    rows: Annotated[list[str] | None, typer.Option("--row", help="Only this row; may be repeated.")] = None,
    tasks: Annotated[
        int, typer.Option(min=1, help="How many tasks; fewer where there are not that many classes.")
    ] = 10,
    seed: Annotated[int, typer.Option(min=0, help="Of random features, and of held-out rows.")] = 0,
    out: Annotated[Path, typer.Option(help="Folder of the record and its page.")] = Path("docs/results/features"),
    threads: Threads = min(2, os.cpu_count() or 1),
) -> None:
    """Learn given features task by task with every closed-form head, and write a record and a table."""
    _prepare("cpu", threads)
    heads = choose_heads(rows)
    sets = read_features(file)
    with Bar() as listener:
        results = run_features(sets, heads, seed=seed, tasks=tasks, listener=listener)
    record = FeatureRecord(
        file=file.name,
        digest=sha256(file.read_bytes()).hexdigest(),
        seed=seed,
        results=results,
        versions=library_versions(torch.device("cpu")),
    )
    write_features(record, out)
    sys.stdout.write(f"{overview(record)}\n\nWritten to {out}/\n")


@app.command("contributions")
def contributions_command(
    dataset: Annotated[
        str,
        typer.Argument(help=f"{', '.join(DATASETS)}, a folder with a folder per class, or an npz file of features."),
    ],
    data: Data = Path("data"),
    row: Annotated[
        str | None, typer.Option(help="A row to learn in the suggested order, the usual one and random ones.")
    ] = None,
    orders: Annotated[int, typer.Option(min=1, help="How many random orders are learned.")] = 2,
    model: Model = "compact",
    pretrained: Pretrained = None,
    seeds: Seeds = 1,
    tasks: Tasks = None,
    train_per_class: Train = 20,
    test_per_class: Test = None,
    template: Template = DEFAULT_TEMPLATE,
    settings: Sets = None,
    work: Work = Path("var/bench"),
    results: Annotated[
        Path, typer.Option(help="Where results are and go, in a folder named after the data set, or `features`.")
    ] = Path("docs/results"),
    device: Device = "auto",
    threads: Threads = min(2, os.cpu_count() or 1),
) -> None:
    """Score what all ordered pairs of tasks have in common, and hold the scores against what was forgotten."""
    place = _prepare(device, threads)
    if dataset.endswith(".npz"):
        _feature_contributions(Path(dataset), results / "features")
        return
    chosen = next(iter(choose_rows([row]).items())) if row else None
    loaded = load_dataset(dataset, data, tasks=tasks)
    options = _options(place, seeds, train_per_class, test_per_class, "test", template, settings)
    folder = results / loaded.name
    stored = folder / "record.json"
    measured = BenchmarkRecord.model_validate_json(stored.read_text()) if stored.exists() else None
    backbone = load_backbone(ModelSpec(model, pretrained), device=place)
    with _listener() as listener:
        record = run_set(
            loaded, backbone, work, options, measured=measured, row=chosen, others=orders, listener=listener
        )
    section = write_set(record, matrices_of(measured) if measured else {}, folder)
    sys.stdout.write(f"{section}\n\nWritten to {folder}/\n")


def _feature_contributions(file: Path, folder: Path) -> None:
    stored = folder / "record.json"
    record = compare_features(
        read_features(file),
        file=file.name,
        digest=sha256(file.read_bytes()).hexdigest(),
        measured=FeatureRecord.model_validate_json(stored.read_text()) if stored.exists() else None,
        versions=library_versions(torch.device("cpu")),
    )
    sys.stdout.write(f"{write_feature_contributions(record, folder)}\n\nWritten to {folder}/\n")


def _options(
    place: str,
    seeds: int,
    train_per_class: int | None,
    test_per_class: int | None,
    on: Literal["test", "validation"],
    template: str,
    settings: list[str] | None,
) -> Options:
    return Options(
        seeds=tuple(range(seeds)),
        train_per_class=train_per_class,
        test_per_class=test_per_class,
        evaluated_on=on,
        template=template,
        settings=_settings(settings),
        dtype=torch.bfloat16 if place.startswith("cuda") else torch.float32,
    )


def _listener() -> AbstractContextManager[Listener]:
    """A bar in the terminal, drawn by one of several processes."""
    return Bar() if Ranks.current().first else nullcontext(Listener())


def _prepare(device: str, threads: int) -> str:
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    torch.set_num_threads(threads)
    return choose_device(device)


def _settings(pairs: list[str] | None) -> dict[str, Any]:
    settings = {}
    for pair in pairs or []:
        name, equals, value = pair.partition("=")
        if not equals:
            raise typer.BadParameter(f"--set wants name=value, got {pair!r}")
        settings[name] = _value(value)
    return settings


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def main() -> None:
    """Run the command line; what is refused is one sentence on stderr."""
    try:
        app(prog_name="keepsight bench")
    except (KeepsightError, ValueError) as error:
        sys.stderr.write(f"keepsight bench: {error}\n")
        sys.exit(1)
