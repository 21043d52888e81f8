"""Are probabilities true, and do sets of labels hold the right one as often as asked?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import get_args

import torch
from matplotlib.figure import Figure
from torch import Tensor

from benchmarks.answers.features import Photos
from benchmarks.answers.group import Group, Inputs, Part, mean
from benchmarks.answers.lineage import Lineage, Taught, scores_of
from benchmarks.common.pages import number, table
from benchmarks.common.plots import GREY, OURS, VERMILION, png
from benchmarks.common.record import Record
from segp_cl.calibration import expected_calibration_error
from segp_cl.types import Path

COVERAGE = 0.9
BINS = 10
DRAWS = 20


def _after_every_task(lineage: Lineage, photos: Photos, history: Sequence[Taught]) -> list[Record]:
    rows = []
    for taught in history:
        measured = photos.measured.of(taught.classes)
        classifier = lineage.answering(taught.state)
        scores, labels = scores_of(classifier, measured.raw), measured.labels
        row: Record = {"classes": len(taught.classes)}
        old = labels < len(taught.classes) - taught.new
        for path in get_args(Path):
            likely = classifier.class_probabilities(getattr(scores, path), path)
            least = classifier.least_probability(path, COVERAGE)
            assert least is not None, "images are held out of every task"
            best = likely.argmax(dim=1)
            inside = likely >= least
            inside[torch.arange(len(best)), best] = True
            held = inside[torch.arange(len(labels)), labels]
            row[path] = {
                "accuracy": float((best == labels).double().mean()),
                "ece": expected_calibration_error(likely, labels),
                "ece_by_chance": error_by_chance(likely),
                "coverage": float(held.double().mean()),
                "coverage_of_old": float(held[old].double().mean()) if bool(old.any()) else None,
                "labels": float(inside.sum(dim=1).double().mean()),
                "reliability": _reliability(likely, labels),
            }
        rows.append(row)
    return rows


def error_by_chance(likely: Tensor) -> float:
    """The error that is measured on as many images where every probability is true, which is not zero either."""
    generator = torch.Generator().manual_seed(0)
    drawn = torch.multinomial(likely.double(), DRAWS, replacement=True, generator=generator)
    return mean(expected_calibration_error(likely, labels) for labels in drawn.T)


def _reliability(likely: Tensor, labels: Tensor) -> list[list[float]]:
    """Mean probability, share that is right, and share of all images, of each bin that has some."""
    confidence, best = likely.max(dim=1)
    place = (confidence * BINS).ceil().clamp(1, BINS).long() - 1
    found = []
    for bin_ in range(BINS):
        chosen = place == bin_
        if bool(chosen.any()):
            right = (best == labels)[chosen].double().mean()
            found.append([float(confidence[chosen].mean()), float(right), float(chosen.double().mean())])
    return found


def _measure(inputs: Inputs) -> Part:
    figures, details = {}, {}
    for name, photos in inputs.photos.items():
        orders = [_after_every_task(inputs.lineage, photos, history) for history in inputs.histories[name]]
        last = [order[-1] for order in orders]
        figures[f"ece_{name}"] = mean(row["fused"]["ece"] for row in last)
        figures[f"coverage_{name}"] = mean(row["fused"]["coverage"] for row in last)
        details[name] = {"orders": orders}
    return Part(figures, details)


def _section(details: Record) -> str:
    rows = []
    for name, found in details.items():
        for path in get_args(Path):
            last = [order[-1][path] for order in found["orders"]]
            every = [row[path] for order in found["orders"] for row in order]
            first = [order[0][path] for order in found["orders"]]
            chance = [mean(row["ece_by_chance"] for row in tasks) for tasks in (last, first)]
            old = [row["coverage_of_old"] for row in last if row["coverage_of_old"] is not None]
            rows.append(
                [
                    name,
                    path,
                    *(number(100 * mean(row[key] for row in last), 1) for key in ("accuracy", "ece")),
                    number(100 * chance[0], 1),
                    number(100 * mean(row["ece"] for row in first), 1),
                    number(100 * chance[1], 1),
                    number(100 * mean(row["ece"] for row in every), 1),
                    number(100 * mean(row["coverage"] for row in last), 1),
                    number(100 * mean(old), 1) if old else number(None),
                    number(100 * mean(row["coverage"] for row in every), 1),
                    number(mean(row["labels"] for row in last), 2),
                ]
            )
    header = ["data", "path", "accuracy", "ECE", "by chance", "ECE after the first task", "by chance"]
    header += ["ECE after every task"]
    header += ["coverage", "coverage of old classes", "coverage after every task", "labels"]
    return (
        "Percent over all seen classes after the last task, unless the column says otherwise; `labels` is how many a "
        f"set of {COVERAGE:.0%} has on average, and `by chance` the error that is measured on as many images where "
        "every probability is true. Means over orders of the classes.\n\n" + table(header, rows, left=2)
    )


def _plots(details: Record) -> Mapping[str, bytes]:
    figure = Figure(figsize=(4.2 * len(details), 4), layout="constrained")
    panels = figure.subplots(1, len(details), squeeze=False)[0]
    for panel, (name, found) in zip(panels, details.items(), strict=True):
        panel.plot([0, 1], [0, 1], color=GREY, linewidth=1)
        for path, colour in (("fused", OURS), ("text", VERMILION)):
            bins = found["orders"][0][-1][path]["reliability"]
            panel.plot([b[0] for b in bins], [b[1] for b in bins], color=colour, linewidth=1, label=path)
            panel.scatter([b[0] for b in bins], [b[1] for b in bins], s=[300 * b[2] + 8 for b in bins], color=colour)
        panel.set(title=name, xlabel="probability of the best class", ylabel="share that is right")
        panel.legend()
    return {"reliability.png": png(figure)}


CERTAINTY = Group(
    meanings={
        f"{figure}_{name}": meaning
        for name in ("caltech101", "cifar10")
        for figure, meaning in (
            ("ece", "expected calibration error of the fused path over all classes after the last task"),
            ("coverage", f"share of label sets of {COVERAGE:.0%} that hold the right label, after the last task"),
        )
    },
    measure=_measure,
    section=_section,
    plots=_plots,
)
