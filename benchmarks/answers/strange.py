"""Are images of no taught class told from those of taught ones?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import torch
from matplotlib.figure import Figure
from sklearn.metrics import roc_auc_score, roc_curve
from torch import Tensor

from benchmarks.answers.features import Images, Photos
from benchmarks.answers.group import Group, Inputs, Part, mean
from benchmarks.answers.lineage import Lineage, Taught, given_features, scores_of
from benchmarks.common.pages import number, table
from benchmarks.common.plots import BLUE, GREEN, GREY, OURS, VERMILION, png
from benchmarks.common.record import Record
from segp_cl.runtime.classifier import Classifier
from segp_cl.types import Scores

KNOWN_SHARE = 0.95
CLIP_SCALE = 100.0
DECAY = (10, 50, 500)
POINTS = 50


def _told(classifier: Classifier, known: Tensor, other: Tensor) -> Record:
    """AUROC, its curve, and what the default share keeps and finds."""
    scores = [scores_of(classifier, raw) for raw in (known, other)]
    both = [_strangeness(classifier, each) for each in scores]
    truth = np.repeat([0, 1], [len(known), len(other)])
    missed, found, _ = roc_curve(truth, np.concatenate(both))
    places = np.linspace(0, 1, POINTS)
    shares = [classifier.unknown_scores(each) for each in scores]
    called = [None if each is None else mean(share > KNOWN_SHARE for share in each) for each in shares]
    return {
        "auroc": float(roc_auc_score(truth, np.concatenate(both))),
        "known_kept": None if called[0] is None else 1 - called[0],
        "others_found": called[1],
        "curve": np.interp(places, missed, found).round(4).tolist(),
    }


def _strangeness(classifier: Classifier, scores: Scores) -> npt.NDArray[np.float64]:
    strangeness = classifier.strangeness(scores)
    assert strangeness is not None, "classes have several images"
    found: npt.NDArray[np.float64] = strangeness.double().numpy()
    return found


def _next_tasks(lineage: Lineage, photos: Photos, history: Sequence[Taught]) -> list[Record]:
    """After every task but the last: taught classes against those of the next task."""
    found = []
    for taught, following in pairwise(history):
        known = photos.measured.of(taught.classes).raw
        other = photos.measured.of(following.classes[len(taught.classes) :]).raw
        classifier = lineage.answering(taught.state)
        found.append({"classes": len(taught.classes), **_told(classifier, known, other)})
    return found


def _of_clip(clip: Mapping[str, Tensor]) -> Record:
    lineage, found = Lineage.on(given_features(CLIP_SCALE)), {}

    def taught(images: Images) -> Classifier:
        classes, width = int(images.labels.max()) + 1, images.raw.shape[1]
        state = lineage.teach(lineage.begin(width, width), images, torch.zeros(classes, width), seed=0)
        return lineage.answering(state)

    aircraft = taught(Images(clip["aircraft_train_x"], clip["aircraft_train_y"]))
    for other in ("flowers", "dtd"):
        known = clip["aircraft_test_x"]
        found[f"aircraft against {other}"] = _told(aircraft, known, clip[f"{other}_test_x"])
    images = Images(clip["imagenet_x"], clip["imagenet_y"])
    for classes in DECAY:
        chosen = torch.randperm(1000, generator=torch.Generator().manual_seed(0)).tolist()
        ours, others = images.of(chosen[:classes]), images.of(chosen[500:1000])
        # four of seven images of each class are taught, the others measured
        place = torch.cat([torch.arange(int(count)) for count in torch.bincount(ours.labels)])
        state = taught(Images(ours.raw[place < 4], ours.labels[place < 4]))
        found[f"{classes} classes of ImageNet against 500 others"] = _told(state, ours.raw[place >= 4], others.raw)
    return found


def _measure(inputs: Inputs) -> Part:
    details: Record = {"next": {}, "far": {}, "clip": _of_clip(inputs.clip) if inputs.clip else {}}
    for name, photos in inputs.photos.items():
        histories = inputs.histories[name]
        details["next"][name] = [_next_tasks(inputs.lineage, photos, history) for history in histories]
        last = histories[0][-1]
        known = photos.measured.of(last.classes).raw
        details["far"][name] = _told(inputs.lineage.answering(last.state), known, inputs.far)
    figures = {
        f"unknown_auroc_{name}": mean(step["auroc"] for order in orders for step in order)
        for name, orders in details["next"].items()
    }
    figures["unknown_auroc_far"] = min(found["auroc"] for found in details["far"].values())
    return Part(figures, details)


def _section(details: Record) -> str:
    rows = []

    def row(name: str, steps: list[Record]) -> None:
        cells = [name, number(100 * mean(step["auroc"] for step in steps), 1)]
        for key in ("known_kept", "others_found"):
            values = [step[key] for step in steps if step[key] is not None]
            cells.append(number(100 * mean(values), 1) if values else number(None))
        rows.append(cells)

    for name, orders in details["next"].items():
        row(f"{name}: taught against next task's", [step for order in orders for step in order])
        row(f"{name}: the same before the last task", [order[-1] for order in orders])
    for name, found in details["far"].items():
        row(f"{name} against handwritten digits", [found])
    for name, found in details["clip"].items():
        row(f"CLIP: {name}", [found])
    header = ["images", "AUROC", f"known, not called unknown at {KNOWN_SHARE}", "others, called unknown"]
    return "Percent. CLIP features are of ViT-B/32, without texts.\n\n" + table(header, rows, left=1)


def _plots(details: Record) -> Mapping[str, bytes]:
    figure = Figure(figsize=(5, 4.4), layout="constrained")
    panel = figure.subplots()
    panel.plot([0, 1], [0, 1], color=GREY, linewidth=1)
    places = np.linspace(0, 1, POINTS)
    for (name, orders), colour in zip(details["next"].items(), (OURS, VERMILION, BLUE, GREEN), strict=False):
        curve = np.mean([step["curve"] for order in orders for step in order], axis=0)
        panel.plot(places, curve, color=colour, label=f"{name}, next task's classes")
        panel.plot(places, details["far"][name]["curve"], color=colour, linestyle="--", label=f"{name}, digits")
    panel.set(xlabel="share of known images that are called unknown", ylabel="share of others that are")
    panel.legend(loc="lower right")
    return {"unknown.png": png(figure)}


STRANGE = Group(
    meanings={
        "unknown_auroc_caltech101": "AUROC of strangeness, taught classes against those of the next task, all steps",
        "unknown_auroc_cifar10": "the same on CIFAR-10, whose classes are few and alike",
        "unknown_auroc_far": "AUROC of photos of taught classes against scans of digits, the worse data set",
    },
    measure=_measure,
    section=_section,
    plots=_plots,
)
