"""`keepsight evaluate`, `report` and `compare`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from keepsight.cli import console, options
from keepsight.cli.errors import CommandError

if TYPE_CHECKING:
    from keepsight.client.api import Report

OnlySet = Annotated[str | None, typer.Option("--test-set", "-t", metavar="NAME", help="Only this test set.")]
PathOption = Annotated[str, typer.Option("--path", help="Whose answers count: fused, text or visual.")]


def evaluate(
    versions: Annotated[list[str], typer.Argument(metavar="VERSION...", help="The versions to measure.")],
    test_set: OnlySet = None,
    wait: options.Wait = True,
    url: options.Url = options.URL,
    api_key: options.ApiKey = None,
    as_json: options.Json = False,
) -> None:
    """Measure versions on the test sets, for instance versions that are older than a set."""
    from keepsight.cli.commands.teaching import follow
    from keepsight.cli.set_views import evaluations_table
    from keepsight.cli.views import outcome_sentence

    with options.connect(url, api_key) as client:
        accepted = client.evaluate(versions, test_set=test_set)
        job_id = accepted["job_id"]
        if not wait:
            if as_json:
                console.print_json(accepted)
            else:
                console.out().print(f"Job {job_id} is queued: keepsight jobs show {job_id}")
            return
        job = follow(client, job_id, label="evaluation")
    found = job["result"].get("test_sets") if job["result"] else None
    if as_json:
        console.print_json(job)
    elif found:
        console.print_table(evaluations_table(found["results"]))
        console.print_notes(f"{name} was not measured: {why}" for name, why in found["not_measured"].items())
    if job["state"] != "succeeded":
        raise CommandError(f"job {job_id} measured nothing to its end ({outcome_sentence(job).rstrip('.')})")


def report(
    version: Annotated[
        str | None, typer.Argument(metavar="[VERSION]", help="The version whose lineage counts [default: the current]")
    ] = None,
    path: PathOption = "fused",
    test_set: OnlySet = None,
    png: Annotated[
        Path | None, typer.Option("--png", metavar="FILE", help="Draw the table as a heat map into this file.")
    ] = None,
    url: options.Url = options.URL,
    api_key: options.ApiKey = None,
    as_json: options.Json = False,
) -> None:
    """Show what was learned and forgotten: the accuracy on every task after every task, on the test sets."""
    from keepsight.cli.set_views import report_lines, report_table

    if path not in ("fused", "text", "visual"):
        raise CommandError(f"--path is fused, text or visual; got {path!r}")
    if png is not None:
        require_plots()
    with options.connect(url, api_key) as client:
        if version is None:
            version = client.versions()["current"]
            if version is None:
                raise CommandError("the service has no current version; name one")
        found = client.report(version, path=path, test_set=test_set)  # type: ignore[arg-type]  # just checked
    if png is not None:
        draw(found, png)
    if as_json:
        console.print_json(found)
        return
    console.print_table(report_table(found))
    for line in report_lines(found):
        console.out().print(line, markup=False)
    if png is not None:
        console.err().print(f"Drawn into {png}.", markup=False)


def compare(
    a: Annotated[str, typer.Argument(metavar="VERSION", help="A version.")],
    b: Annotated[str, typer.Argument(metavar="OTHER_VERSION", help="The version to compare it with.")],
    test_set: OnlySet = None,
    url: options.Url = options.URL,
    api_key: options.ApiKey = None,
    as_json: options.Json = False,
) -> None:
    """Compare two versions on the same test images: wins, losses, ties, and whether that may be luck."""
    from keepsight.cli.set_views import comparison_lines, comparison_table

    with options.connect(url, api_key) as client:
        found = client.compare(a, b, test_set=test_set)
    if as_json:
        console.print_json(found)
        return
    console.print_table(comparison_table(found))
    for line in comparison_lines(found):
        console.out().print(line, markup=False)


def require_plots() -> None:
    """Check that plots can be drawn.

    Raises:
        CommandError: matplotlib is not installed; says how to install it.
    """
    from importlib.util import find_spec

    if find_spec("matplotlib") is None:
        raise CommandError("a heat map needs matplotlib: pip install 'keepsight[bench]'")


def draw(report: Report, file: Path) -> None:
    """Write R as a heat map in PNG: a row after each task, a column for each task.

    Raises:
        CommandError: the file cannot be written, or there is nothing to draw.
    """
    import numpy as np
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows, tasks = report["rows"], report["tasks"]
    if not rows or not tasks:
        raise CommandError("there is nothing to draw: the version knows no class")
    values = np.array(
        [[np.nan if value is None else 100 * value for value in row["accuracies"]] for row in rows], dtype=float
    )
    figure = Figure(figsize=(2.6 + 0.7 * len(tasks), 1.6 + 0.45 * len(rows)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    image = axes.imshow(np.ma.masked_invalid(values), cmap="viridis", vmin=0, vmax=100, aspect="auto")
    axes.set_xticks(range(len(tasks)), [f"task {task['task']}" for task in tasks])
    axes.set_yticks(range(len(rows)), [f"after task {row['tasks']}" for row in rows])
    for (row, column), value in np.ndenumerate(values):
        if np.isnan(value):
            told = "not\nmeasured" if rows[row]["tasks"] >= tasks[column]["task"] else ""
            axes.text(column, row, told, ha="center", va="center", color="grey", fontsize=7)
            continue
        text = f"{value:.1f}"
        axes.text(column, row, text, ha="center", va="center", color="black" if value > 60 else "white", fontsize=8)
    axes.set_title(f"accuracy on the test sets, {report['path']} path, %", fontsize=9)
    figure.colorbar(image)
    try:
        figure.savefig(file, format="png", dpi=110, metadata={"Software": None})
    except OSError as error:
        raise CommandError(f"{file} cannot be written: {error.strerror}") from error
