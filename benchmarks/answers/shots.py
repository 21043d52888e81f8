"""Few and uneven images of a class: is the fused path as good as the better of its two, and is no class outvoted?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import get_args

import torch
from matplotlib.figure import Figure
from torch import Tensor

from benchmarks.answers.features import Images, Photos
from benchmarks.answers.group import Group, Inputs, Part, mean
from benchmarks.answers.lineage import Lineage, given_features, scores_of
from benchmarks.answers.strange import CLIP_SCALE
from benchmarks.common.pages import number, table
from benchmarks.common.plots import GREEN, OURS, VERMILION, png
from benchmarks.common.record import Record
from segp_cl.types import Path

SHOTS = (1, 2, 4, 8, 16)
CLIP_SHOTS = (1, 4)
FEW = 2
AMONG = 10


def _accuracies(lineage: Lineage, taught: Images, measured: Images, texts: Tensor) -> dict[str, float]:
    state = lineage.begin(taught.raw.shape[1], texts.shape[1])
    state = lineage.teach(state, taught, texts, seed=0)
    scores = scores_of(lineage.answering(state), measured.raw)
    return {
        path: float((getattr(scores, path).argmax(dim=1) == measured.labels).double().mean()) for path in get_args(Path)
    }


def _shots(lineage: Lineage, photos: Photos, draws: int) -> dict[str, dict[str, float]]:
    classes, found = list(range(photos.classes)), {}
    for shots in SHOTS:
        drawn = [
            _accuracies(lineage, photos.train.of(classes, each=shots, seed=seed), photos.measured, photos.texts)
            for seed in range(draws)
        ]
        found[str(shots)] = {path: mean(each[path] for each in drawn) for path in get_args(Path)}
    return found


def _clip_shots(clip: Mapping[str, Tensor]) -> dict[str, dict[str, float]]:
    """Rows of a class are one image, two others and four more; the others are measured."""
    lineage, found = Lineage.on(given_features(CLIP_SCALE)), {}
    images = Images(clip["imagenet_x"], clip["imagenet_y"]).of(list(range(1000)))
    place = torch.cat([torch.arange(int(count)) for count in torch.bincount(images.labels)])
    for shots in CLIP_SHOTS:
        few, rest = place < shots, place >= shots
        taught, measured = (Images(images.raw[part], images.labels[part]) for part in (few, rest))
        found[str(shots)] = _accuracies(lineage, taught, measured, clip["imagenet_text"])
    return found


def _uneven(lineage: Lineage, photos: Photos, pairs: int) -> Record:
    """How often a class of two images is found beside another one with two, and beside the same with all."""
    alike: list[float] = []
    beside_many: list[float] = []
    usual = min(20, int(torch.bincount(photos.train.labels).min()))
    for pair in range(pairs):
        generator = torch.Generator().manual_seed(pair)
        classes = torch.randperm(photos.classes, generator=generator)[:AMONG].tolist()
        measured = photos.measured.of(classes)
        for beside, found in ((FEW, alike), (None, beside_many)):
            sizes: list[int | None] = [FEW, beside, *[usual] * (len(classes) - 2)]
            parts = [photos.train.of([c], each=size, seed=pair) for c, size in zip(classes, sizes, strict=True)]
            labels = torch.cat([torch.full_like(part.labels, row) for row, part in enumerate(parts)])
            state = lineage.begin(photos.train.raw.shape[1], photos.texts.shape[1])
            taught = Images(torch.cat([part.raw for part in parts]), labels)
            state = lineage.teach(state, taught, photos.texts[classes], seed=pair)
            fused = scores_of(lineage.answering(state), measured.raw).fused.argmax(dim=1)
            found.append(float((fused == 0)[measured.labels == 0].double().mean()))
    most = int(torch.bincount(photos.train.labels).max())
    return {"beside_few": mean(alike), "beside_many": mean(beside_many), "pairs": pairs, "many": most}


def _measure(inputs: Inputs) -> Part:
    shots = {name: _shots(inputs.lineage, photos, inputs.draws) for name, photos in inputs.photos.items()}
    uneven = {name: _uneven(inputs.lineage, photos, inputs.pairs) for name, photos in inputs.photos.items()}
    gaps = [row["fused"] - max(row["text"], row["visual"]) for found in shots.values() for row in found.values()]
    figures = {
        "shots_gap_worst": min(gaps),
        "uneven_gap": max(abs(found["beside_few"] - found["beside_many"]) for found in uneven.values()),
    }
    details: Record = {"shots": shots, "uneven": uneven}
    if inputs.clip:
        details["shots"]["imagenet, CLIP"] = _clip_shots(inputs.clip)
        for count, row in details["shots"]["imagenet, CLIP"].items():
            figures[f"imagenet_shots_{count}"] = row["fused"]
    return Part(figures, details)


def _section(details: Record) -> str:
    rows = [
        [name, count, *(number(100 * row[path], 1) for path in ("text", "visual", "fused"))]
        for name, found in details["shots"].items()
        for count, row in found.items()
    ]
    uneven = [
        [name, number(found["many"]), *(number(100 * found[key], 1) for key in ("beside_few", "beside_many"))]
        for name, found in details["uneven"].items()
    ]
    return (
        "Accuracy in percent, all classes taught at once, mean over draws:\n\n"
        + table(["data", "images a class", "text", "visual", "fused"], rows, left=1)
        + f"\n\nHow often a class of {FEW} images is found among {AMONG}, the others of which have 20: beside one that "
        f"has {FEW} too, and beside the same one with many:\n\n"
        + table(["data", "many", f"beside {FEW}", "beside many"], uneven, left=1)
    )


def _plots(details: Record) -> Mapping[str, bytes]:
    figure = Figure(figsize=(3.6 * len(details["shots"]), 3.6), layout="constrained")
    panels = figure.subplots(1, len(details["shots"]), squeeze=False)[0]
    for panel, (name, found) in zip(panels, details["shots"].items(), strict=True):
        for path, colour in (("text", VERMILION), ("visual", GREEN), ("fused", OURS)):
            panel.plot(list(found), [row[path] for row in found.values()], color=colour, marker="o", label=path)
        panel.set(title=name, xlabel="images a class", ylabel="accuracy")
        panel.legend()
    return {"shots.png": png(figure)}


SHOTS_GROUP = Group(
    meanings={
        "shots_gap_worst": "fused minus the better path at 1 to 16 images a class, worst case, mean over draws",
        "imagenet_shots_1": "accuracy of the fused path on 1,000 classes of ImageNet, CLIP ViT-B/32, 1 image a class",
        "imagenet_shots_4": "the same with 4 images a class",
        "uneven_gap": "how often a class of 2 images is found beside one of many and beside one of 2: the difference",
    },
    measure=_measure,
    section=_section,
    plots=_plots,
)
