"""Contributions in files: the records, their plots, and the section of the page beside them."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from benchmarks.accuracy.contributions.forecast import Correlation, forgotten
from benchmarks.accuracy.contributions.run import Correlations, FeaturesRecord, SetRecord, Trained
from benchmarks.accuracy.contributions.tables import Compared, Spread, Table
from benchmarks.common.pages import NOTHING, number, table, with_section
from benchmarks.common.plots import BLUE, GREY, png
from benchmarks.common.record import save_files
from segp_cl.contributions import LEAST_SPREAD, MODALITIES, Modality

FILE, HEAT_MAPS, SCATTER = "contributions.json", "contributions.png", "forecast.png"
TITLE = "Cross-modal contributions"
ADR = "[ADR 0038](../../adr/0038-contributions-as-a-forecast.md)"
SEEN, LIKELY = 0.1, 0.05
"""Coefficients nearer to 0 show nothing; those with a larger p-value may be chance."""


def write_set(record: SetRecord, matrices: Mapping[str, Table], folder: Path) -> str:
    """Write a data set's record and plots into `folder`, put the section into its page, and return the section.

    `matrices` are R by row; without any, there is no plot of the forecast.
    """
    contents = {FILE: _json(record), HEAT_MAPS: heat_maps(record.scores)}
    save_files(folder, {**contents, SCATTER: scatter(record, matrices) if matrices else None})
    return _refresh(folder, f"# {record.dataset}\n", with_set)


def write_feature_contributions(record: FeaturesRecord, folder: Path) -> str:
    """Write the record of given features into `folder`, put the section into its page, and return the section."""
    save_files(folder, {FILE: _json(record)})
    return _refresh(folder, "# Heads on given features\n", with_features)


def with_set(page: str, folder: Path) -> str:
    """Return a data set's page with the section of the contributions that are in `folder`, if there are any."""
    if not (folder / FILE).exists():
        return page
    return with_section(page, TITLE, section_of_set(SetRecord.model_validate_json((folder / FILE).read_text())))


def with_features(page: str, folder: Path) -> str:
    """Return the page of given features with the section of the contributions that are in `folder`, if any."""
    if not (folder / FILE).exists():
        return page
    stored = FeaturesRecord.model_validate_json((folder / FILE).read_text())
    return with_section(page, TITLE, section_of_features(stored))


def section_of_set(record: SetRecord) -> str:
    """What the scores are, what they forecast, and what followed."""
    scores, orders = record.scores, record.orders
    per = "all images" if record.train_per_class is None else f"at most {record.train_per_class} images of each class"
    tasks = len(record.tasks)
    parts = [
        f"What tasks have in common ({ADR}): expected cosines of all {tasks * (tasks - 1)} ordered pairs of tasks, by "
        f"the untouched base model, from {per} ({scores.images:,} training images). Written by `keepsight bench "
        "contributions`.",
        f"![contributions]({HEAT_MAPS})",
        "Each cell: the task of its row comes before the task of its column. Each panel has its own scale.",
        "Without old images, their task's prototypes stand for them. Over all pairs of different tasks:",
        _distances(scores),
        f"σ_I, the standard deviation of image cosines: {_sigma(scores.sigma_image)} from images, "
        f"{_sigma(scores.sigma_image_exemplar_free)} with prototypes for old images. Below {LEAST_SPREAD:g} the "
        "service forecasts nothing.",
    ]
    if record.correlation:
        parts += [
            "### Forecast and forgetting",
            "Correlation of each score with how much the accuracy on an earlier task fell when a later one was "
            "learned: Pearson / Spearman (p of each). The source forecasts that it is positive. Pairs share tasks, so "
            "p is found by relabelling the tasks. `zero-shot` learns nothing: what it loses comes from more classes "
            "alone.",
            _correlations(record.correlation),
            f"![forecast]({SCATTER})",
            "With prototypes for old images, as a service has them:",
            _correlations(record.correlation_exemplar_free),
        ]
    parts += [
        "### Suggested order",
        f"Summed image-to-text score of consecutive tasks: {orders.score:.4f} in the suggested order "
        f"({_order(orders.suggested)}), {orders.own:.4f} in the data set's own. {orders.random_orders:,} random "
        f"orders: {orders.random_mean:.4f} ± {orders.random_std:.4f}, the least {orders.random_least:.4f}; "
        f"{100 * orders.below:.1f} % are below the suggested one.",
    ]
    if record.trained:
        parts += _trained(record.trained)
    return "\n\n".join(parts)


def section_of_features(record: FeaturesRecord) -> str:
    """What sets, their tasks and their halves have in common."""
    names = list(record.sets)
    parts = [
        f"What tasks have in common ({ADR}), from the training rows in `{record.file}`, in the tasks of the tables "
        "above. σ_I is the standard deviation of image cosines: over all rows of a set, and the least of any two "
        "tasks. In brackets: with prototypes, which are class means, in place of the old task's images. Below "
        f"{LEAST_SPREAD:g} the service forecasts nothing. Written by `keepsight bench contributions`.",
        table(
            ["Set", "Tasks", "σ_I", "Least of two tasks", "Mean image to image", "Distance without images"],
            [
                [
                    name,
                    str(found.tasks),
                    *_both(found.scores, "of_all"),
                    *_both(found.scores, "least"),
                    _mean(found.scores.exact["image_to_image"]),
                    f"{found.scores.distance['image_to_image'].mean:.4f}",
                ]
                for name, found in record.sets.items()
            ],
            left=1,
            padded=True,
        ),
    ]
    halves = {f"{name}, halves": found.halves for name, found in record.sets.items() if found.halves}
    for name, half in halves.items():
        parts += [
            f"{name}: the first half of the classes and the second, in the file's order. Each score of the pair "
            "(first, second), and without old images:",
            _halves(half),
        ]
    if record.between:
        parts += [
            f"Image to image between the sets, each as one task. σ_I: {_sigma(record.between.sigma_image)}.",
            _square(names, record.between),
        ]
    for name, found in record.sets.items():
        if found.correlation:
            parts += [
                f"Correlation with forgetting on {name}, Pearson / Spearman (p of each):",
                _correlations(found.correlation),
            ]
    return "\n\n".join(parts)


def verdict(found: Correlation | None) -> str:
    """Say in a few words what a correlation shows of the forecast, which is that it is positive."""
    if found is None:
        return "not defined"
    if abs(found.pearson) < SEEN:
        return "nothing to be seen"
    sign = "right sign" if found.pearson > 0 else "wrong sign"
    return sign if found.pearson_p < LIKELY else f"{sign}, may be chance"


def heat_maps(scores: Compared) -> bytes:
    """A panel for each score, as a PNG: rows are the tasks that come before, columns those that come after."""
    names = list(scores.exact)
    columns = min(2, len(names))
    lines = math.ceil(len(names) / columns)
    figure = Figure(figsize=(4.6 * columns, 4.1 * lines), layout="constrained")
    for axes, name in zip(figure.subplots(lines, columns, squeeze=False).flat, names, strict=True):
        values = np.array(scores.exact[name])
        image = axes.imshow(values, cmap="viridis")
        if len(values) <= 10:
            middle = (values.min() + values.max()) / 2
            for (row, column), value in np.ndenumerate(values):
                color = "white" if value < middle else "black"
                axes.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=6, color=color)
            ticks = range(len(values))
            axes.set_xticks(ticks, [str(tick + 1) for tick in ticks], fontsize=8)
            axes.set_yticks(ticks, [str(tick + 1) for tick in ticks], fontsize=8)
        axes.set(title=name.replace("_", " "), xlabel="task that comes after", ylabel="task that comes before")
        figure.colorbar(image, ax=axes, shrink=0.8)
    return png(figure)


def scatter(record: SetRecord, matrices: Mapping[str, Table]) -> bytes:
    """The image-to-text score of every pair against what was forgotten, a panel for each row, as a PNG."""
    scores = record.scores.exact["image_to_text"]
    columns = min(3, len(matrices))
    lines = math.ceil(len(matrices) / columns)
    figure = Figure(figsize=(3.3 * columns, 0.5 + 2.4 * lines), layout="constrained")
    panels = list(figure.subplots(lines, columns, squeeze=False, sharex=True, sharey=True).flat)
    for axes, (row, matrix) in zip(panels, matrices.items(), strict=False):
        values, fallen = forgotten(scores, [(range(len(matrix)), matrix)])
        found = record.correlation[row]["image_to_text"]
        axes.axhline(0, color=GREY, linewidth=0.8)
        axes.plot(values, [100 * value for value in fallen], "o", color=BLUE, markersize=4)
        axes.set_title(f"{row}, r {number(found.pearson if found else None, 2)}", fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
    for axes in panels[len(matrices) :]:
        axes.set_visible(False)
    figure.supxlabel("image to text, earlier task's images and later task's texts", fontsize=9)
    figure.supylabel("forgotten of the earlier task (points)", fontsize=9)
    return png(figure)


def _refresh(folder: Path, empty: str, change: Callable[[str, Path], str]) -> str:
    page = folder / "README.md"
    text = change(page.read_text() if page.exists() else empty, folder)
    save_files(folder, {page.name: text.encode()})
    return text.partition(f"## {TITLE}\n")[2].partition("\n## ")[0].strip("\n")


def _json(record: SetRecord | FeaturesRecord) -> bytes:
    return (json.dumps(record.model_dump(mode="json"), indent=1, allow_nan=False) + "\n").encode()


def _distances(scores: Compared) -> str:
    lines = [
        [
            name.replace("_", " "),
            _mean(scores.exact[name]),
            _mean(scores.exemplar_free[name]),
            f"{apart.mean:.4f}",
            f"{apart.largest:.4f}",
        ]
        for name, apart in scores.distance.items()
    ]
    head = ["Score", "Mean", "Without old images", "Mean distance", "Largest distance"]
    return table(head, lines, left=1, padded=True)


def _mean(scores: Table) -> str:
    values = np.array(scores)
    return f"{values[~np.eye(len(values), dtype=bool)].mean():.4f}"


def _sigma(spread: Spread) -> str:
    return f"{spread.of_all:.3f} over all tasks, {spread.least:.3f} to {spread.largest:.3f} between two"


def _both(scores: Compared, which: str) -> list[str]:
    exact, free = (getattr(side, which) for side in (scores.sigma_image, scores.sigma_image_exemplar_free))
    return [f"{exact:.3f} ({free:.3f})"]


def _halves(scores: Compared) -> str:
    lines = [
        [name.replace("_", " "), f"{scores.exact[name][0][1]:.4f}", f"{scores.exemplar_free[name][0][1]:.4f}"]
        for name in MODALITIES
    ]
    return table(["Score", "Exact", "Without old images"], lines, left=1, padded=True)


def _square(names: Sequence[str], scores: Compared) -> str:
    lines = [
        [name, *(f"{value:.3f}" for value in line)]
        for name, line in zip(names, scores.exact["image_to_image"], strict=True)
    ]
    return table(["", *names], lines, left=1, padded=True)


def _correlations(found: Correlations) -> str:
    modalities: list[Modality] = [name for name in MODALITIES if any(name in row for row in found.values())]
    lines = []
    for row, scores in found.items():
        cells = [_cell(scores[name]) for name in modalities]
        lines.append([row, *cells, *([verdict(scores["image_to_text"])] if "image_to_text" in scores else [])])
    head = ["Row", *(name.replace("_", " ") for name in modalities)]
    return table(
        [*head, *(["Image to text shows"] if "image_to_text" in modalities else [])], lines, left=1, padded=True
    )


def _cell(found: Correlation | None) -> str:
    if found is None:
        return NOTHING
    return f"{found.pearson:.2f} / {found.spearman:.2f} ({found.pearson_p:.2f}, {found.spearman_p:.2f})"


def _order(order: Sequence[int]) -> str:
    return ", ".join(str(task + 1) for task in order)


def _trained(trained: Trained) -> list[str]:
    settings = ", ".join(f"`{name}={value}`" for name, value in trained.settings.items())
    train, test = (
        "all" if count is None else f"at most {count}" for count in (trained.train_per_class, trained.test_per_class)
    )
    lines = [
        [
            f"{_order(run.order)}{' (suggested)' if run.suggested else ''}",
            f"{run.score:.4f}",
            f"{100 * run.last:.1f}",
            f"{100 * run.forgetting:.1f}",
        ]
        for run in trained.runs
    ]
    cells = {name: _cell(found) for name, found in trained.correlation.items()}
    seen = trained.correlation["image_to_text"]
    seeds = f"{trained.seeds} seed{'' if trained.seeds == 1 else 's'}"
    return [
        f"`{trained.row}` learned in this order, in the data set's own and in random ones, with "
        f"{settings or 'default settings'}; {train} training images a class, {test} a class tested on, {seeds}. Last "
        "and Forgetting are in percent.",
        table(["Order", "Summed score", "Last", "Forgetting"], lines, left=1, padded=True),
        f"Over the {seen.pairs if seen else 0} pairs of these orders, Pearson / Spearman (p of each): "
        + ", ".join(f"{name.replace('_', ' ')} {cell}" for name, cell in cells.items())
        + f". Image to text: {verdict(seen)}.{_over_orders(trained)}",
    ]


def _over_orders(trained: Trained) -> str:
    found = trained.score_and_forgetting
    if found is None:
        return ""
    return (
        f" Summed score and Forgetting over the {len(trained.runs)} orders: r {found.pearson:.2f} (p {found.p:.2f}), "
        f"95 % interval {found.low:.2f} to {found.high:.2f}."
    )
