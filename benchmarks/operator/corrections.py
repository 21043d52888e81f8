"""What corrections give back of the accuracy that wrong labels took, and which wrong labels are told before learning.

One of ten tasks of Caltech-101 has a tenth of its labels wrong, either at random within the task or between pairs of
its classes. A tenth of the wrong ones is corrected. Every head is closed-form, by the service's own functions.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean
from types import MappingProxyType
from typing import Final

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from benchmarks.accuracy.datasets import load_dataset
from benchmarks.accuracy.protocol import PreparedImages, make_bench
from benchmarks.common.pages import number, table
from benchmarks.common.record import Record
from benchmarks.operator.part import Found, Inputs, Part
from exchange.contracts import LabelReport
from exchange.spool import SpoolIndex
from segp_cl.config import LearnerConfig
from segp_cl.corrections import CorrectedImages, expected_mistakes, with_corrections, without_mistakes
from segp_cl.data.held_out import Split
from segp_cl.fusion import expected_fusion_weight
from segp_cl.learn.learner import initial_state
from segp_cl.models.backbone import Backbone
from segp_cl.models.load import load_backbone
from segp_cl.pixels import as_unit_pixels
from segp_cl.runtime.classifier import Classifier, Features
from segp_cl.statistics import ClassSums, MomentSums
from segp_cl.types import LearnedClass, LearnerState, ModelSpec
from worker.labels import labels_of

WRONG_LABELS: Final = 0.1
CORRECTED: Final = 0.1
KINDS: Final = ("uniform", "pairs")
SEEDS: Final = 3
_BATCH: Final = 64

Labelled = tuple[Tensor, Tensor]
"""Raw features [n, raw] and the rows of their classes [n]."""


@dataclass(frozen=True)
class _Data:
    backbone: Backbone
    classes: tuple[LearnedClass, ...]
    texts: Float[Tensor, "classes joint"]
    train: Labelled
    evaluation: Labelled

    @property
    def tasks(self) -> Int64[Tensor, " classes"]:
        return torch.tensor([each.task for each in self.classes])

    def classifier(self, sums: ClassSums) -> Classifier:
        """Return a classifier of the first classes, as many as there are sums of."""
        known = len(sums.counts)
        resolved = self.backbone.resolve(LearnerConfig())
        weight = expected_fusion_weight(
            sums.counts.tolist(), limit=resolved.fusion_weight, half_images=resolved.fusion_half_images
        )
        counted = zip(self.classes[:known], sums.counts.tolist(), strict=True)
        state: LearnerState = replace(
            initial_state(self.backbone),
            classes=tuple(replace(each, images=count) for each, count in counted),
            prototypes=sums.means,
            text_features=self.texts[:known],
            fusion_weight=weight,
            covariance=sums.covariance,
            sums=sums,
        )
        return Classifier(self.backbone, state)

    def right_by_task(self, sums: ClassSums) -> Float[Tensor, " tasks"]:
        """Return the accuracy on the evaluation images of every task, and then that of every class."""
        raw, rows = self.evaluation
        classifier = self.classifier(sums)
        answers = classifier.scores_of(classifier.features_of(raw)).fused.argmax(dim=1)
        right, task = (answers == rows).double(), self.tasks[rows]
        tasks = [right[task == each].mean() for each in sorted(set(self.tasks.tolist()))]
        return torch.stack([*tasks, *(right[rows == row].mean() for row in range(len(self.classes)))])


class _Known:
    """Images whose features are known, as the worker sees those of a task."""

    def __init__(self, raw: Float[Tensor, "images raw"], labels: Sequence[int]) -> None:
        self._raw, self._labels = raw, labels

    @property
    def labels(self) -> Sequence[int]:
        return self._labels

    def by(self, classifier: Classifier, positions: Sequence[int]) -> Features:
        return classifier.features_of(self._raw[list(positions)])

    def part(self, positions: Sequence[int]) -> _Known:
        return _Known(self._raw[list(positions)], [self._labels[at] for at in positions])


def spoiled(
    rows: Int64[Tensor, " images"], of_task: Int64[Tensor, " classes"], kind: str, generator: torch.Generator
) -> tuple[Int64[Tensor, " images"], Int64[Tensor, " wrong"]]:
    """Return labels of which a tenth of the images of some classes is wrong, and where.

    Args:
        rows: the right classes.
        of_task: the classes whose images are given wrong labels among themselves.
        kind: `uniform`, each of the others alike; or `pairs`, where the classes are paired at random.
        generator: draws.
    """
    order = of_task[torch.randperm(len(of_task), generator=generator)].tolist()
    partner = {one: order[at ^ 1] if at ^ 1 < len(order) else order[0] for at, one in enumerate(order)}
    at = torch.isin(rows, of_task).nonzero().flatten()
    wrong = at[torch.randperm(len(at), generator=generator)][: round(WRONG_LABELS * len(at))]
    given = rows.clone()
    for image in wrong.tolist():
        right = int(rows[image])
        others = [other for other in order if other != right]
        drawn = others[int(torch.randint(len(others), (), generator=generator))]
        given[image] = drawn if kind == "uniform" else partner[right]
    return given, wrong


def _sums(raw: Float[Tensor, "images raw"], rows: Int64[Tensor, " images"], classes: int) -> ClassSums:
    moments = MomentSums(classes)
    moments.add(raw, rows)
    return moments.total()


def _ways(data: _Data, given: Int64[Tensor, " images"], wrong: Int64[Tensor, " wrong"]) -> dict[str, ClassSums]:
    """Return the sums after each way to deal with the wrong labels."""
    raw, rows = data.train
    classes = len(data.classes)
    noisy = _sums(raw, given, classes)
    kept = torch.ones(len(rows), dtype=torch.bool)
    kept[wrong] = False
    some = wrong[: max(1, round(CORRECTED * len(wrong)))]
    units, right = F.normalize(raw[some].double(), dim=-1), rows[some].tolist()
    corrected = CorrectedImages(units, right, given[some].tolist())
    moved = with_corrections(noisy, corrected)
    expected = expected_mistakes(
        corrected.mistakes,
        data.tasks.tolist(),
        moved.counts.tolist(),
        stands_for=LearnerConfig().correction_stands_for,
    )
    return {
        "wrong labels": noisy,
        "all wrong ones removed": _sums(raw[kept], rows[kept], classes),
        "extend": with_corrections(noisy, CorrectedImages(units, right, [None] * len(right))),
        "moved": moved,
        "corrections": without_mistakes(moved, expected),
    }


def _told(data: _Data, task: int, given: Int64[Tensor, " images"]) -> tuple[int, int, int]:
    """Return how many labels of a task are told to be wrong, how many of these are, and how many are wrong."""
    raw, rows = data.train
    known = int((data.tasks <= task).sum())
    learned = data.tasks[rows] <= task
    classifier = data.classifier(_sums(raw[learned], given[learned], known))
    own = (data.tasks[rows] == task).nonzero().flatten()
    present = sorted(set(given[own].tolist()))
    labels = [present.index(row) for row in given[own].tolist()]
    index = SpoolIndex(
        classes=tuple(data.classes[row].name for row in present),
        files=tuple(Path(str(image)) for image in own.tolist()),
        labels=tuple(labels),
        checksums=tuple(str(image) for image in own.tolist()),
        digest="",
        paths=tuple(str(image) for image in own.tolist()),
    )
    report: LabelReport = labels_of(
        classifier,
        _Known(raw[own], labels),
        index,
        Split(train=tuple(range(len(own))), held_out=()),
        batch_size=_BATCH,
        on_batch=lambda step, steps: None,
        most_told=len(own),
    )
    right = sum(int(given[int(each.path)] != rows[int(each.path)]) for each in report.likely_wrong)
    return report.likely_wrong_count, right, int((given[own] != rows[own]).sum())


def _read(inputs: Inputs) -> _Data:
    backbone = load_backbone(ModelSpec())
    dataset = load_dataset("caltech101", inputs.data, cache=inputs.cache)
    bench = make_bench(
        dataset,
        backbone.preprocessing,
        seed=0,
        train_per_class=8 if inputs.quick else None,
        test_per_class=4 if inputs.quick else None,
        evaluated_on="validation" if inputs.validation else "test",
    )
    names = [each.name for each in bench.classes]
    train = [
        (_raw(backbone, task.images), torch.tensor([names.index(task.classes[row].name) for row in task.images.labels]))
        for task in bench.tasks
        if isinstance(task.images, PreparedImages)
    ]
    measured = [(_raw(backbone, images), torch.tensor(images.labels)) for images in bench.evaluation]
    classes = tuple(
        LearnedClass(each.name, each.prompt, task=number, images=0)
        for number, task in enumerate(bench.tasks, start=1)
        for each in task.classes
    )
    with torch.inference_mode():
        texts = backbone.text_features([each.prompt for each in classes]).float()
    return _Data(backbone, classes, texts, _joined(train), _joined(measured))


def _joined(parts: Sequence[Labelled]) -> Labelled:
    return torch.cat([raw for raw, _ in parts]), torch.cat([rows for _, rows in parts])


@torch.inference_mode()
def _raw(backbone: Backbone, images: PreparedImages) -> Float[Tensor, "images raw"]:
    starts = range(0, len(images.labels), _BATCH)
    batches = (range(start, min(start + _BATCH, len(images.labels))) for start in starts)
    return torch.cat([backbone.raw_features(as_unit_pixels(images.pixels(batch))).float() for batch in batches])


def measure(inputs: Inputs) -> Found:
    """Spoil each task in turn, correct some of it, and compare; and count which wrong labels are told."""
    data = _read(inputs)
    tasks = sorted(set(data.tasks.tolist()))
    clean = data.right_by_task(_sums(*data.train, len(data.classes)))
    seeds, spoiled_tasks = (1, tasks[:2]) if inputs.quick else (SEEDS, tasks)
    details: Record = {}
    for kind in KINDS:
        accuracies: dict[str, list[list[Tensor]]] = defaultdict(list)
        told: list[tuple[int, int, int]] = []  # of the first seed: each image is looked at alone, which takes long
        for seed in range(seeds):
            by_task: dict[str, list[Tensor]] = defaultdict(list)
            for task in spoiled_tasks:
                generator = torch.Generator().manual_seed(1000 * seed + task)
                of_task = (data.tasks == task).nonzero().flatten()
                given, wrong = spoiled(data.train[1], of_task, kind, generator)
                for way, sums in _ways(data, given, wrong).items():
                    by_task[way].append(data.right_by_task(sums))
                if not seed:
                    told.append(_told(data, task, given))
            for way, found in by_task.items():
                accuracies[way].append(found)
        details[kind] = _summary(clean, spoiled_tasks, len(tasks), accuracies) | _counted(told)
    return Found(figures=_figures(details), details=details)


def _summary(
    clean: Float[Tensor, " tasks"],
    spoiled_tasks: Sequence[int],
    tasks: int,
    accuracies: dict[str, list[list[Tensor]]],
) -> Record:
    """Return accuracies on the spoiled task, what was recovered, and the worst loss of another task and class."""
    own = [task - 1 for task in spoiled_tasks]
    stacked = {way: torch.stack([torch.stack(each) for each in found]) for way, found in accuracies.items()}
    noisy = stacked["wrong labels"]
    before = mean(float(clean[task]) for task in own)
    after = {way: mean(float(each[:, at, task].mean()) for at, task in enumerate(own)) for way, each in stacked.items()}
    lost = before - after["wrong labels"]
    others: dict[str, float] = {}
    classes: dict[str, float] = {}
    for way, each in stacked.items():
        loss = (noisy - each).mean(dim=0)  # over seeds: [spoiled task, tasks and classes]
        for at, task in enumerate(own):
            loss[at, task] = 0.0
        others[way] = float(loss[:, :tasks].max())
        classes[way] = float(loss[:, tasks:].mean(dim=0).max())
    return {
        "clean": before,
        "accuracy": after,
        "recovered": {way: (value - after["wrong labels"]) / lost for way, value in after.items()},
        "worst_other_task": others,
        "worst_class": classes,
    }


def _counted(told: Sequence[tuple[int, int, int]]) -> Record:
    found, right, wrong = (sum(each[part] for each in told) for part in range(3))
    return {"told": found, "told_right": right, "wrong": wrong}


def _figures(details: Record) -> dict[str, float]:
    by_kind = [details[kind] for kind in KINDS]
    told, right, wrong = (sum(each[name] for each in by_kind) for name in ("told", "told_right", "wrong"))
    return {
        "correction_recovery": min(each["recovered"]["corrections"] for each in by_kind),
        "correction_worst_loss": max(each["worst_other_task"]["corrections"] for each in by_kind),
        "wrong_label_precision": right / max(1, told),
        "wrong_label_recall": right / max(1, wrong),
    }


def section(details: Record) -> str:
    """Show each way to deal with wrong labels, and which of these were told."""
    lines = [
        "One of ten tasks of Caltech-101 (`compact`, closed form) has a tenth of its labels wrong: at random within "
        "the task (`uniform`), or between classes that are paired at random (`pairs`). A tenth of the wrong ones is "
        "corrected. Each task is spoiled in turn. `recovered` is the share of the lost accuracy, on the spoiled task. "
        "`other task` is the largest loss of another task against the wrong labels, over spoiled tasks; `class` that "
        "of a class, on average over them.",
        "",
    ]
    show: Callable[[float], str] = lambda value: number(100 * value, 2)  # noqa: E731
    for kind in KINDS:
        found = details[kind]
        rows = [["right labels", show(found["clean"]), "", "", ""]]
        rows += [
            [
                way,
                show(accuracy),
                number(found["recovered"][way], 2),
                show(found["worst_other_task"][way]),
                show(found["worst_class"][way]),
            ]
            for way, accuracy in found["accuracy"].items()
        ]
        columns = ["", "accuracy %", "recovered", "other task, points", "class, points"]
        lines += [
            f"**{kind}**",
            "",
            table(columns, rows),
            "",
            f"Before learning, {found['told']} labels were told to be wrong, of which {found['told_right']} are; "
            f"{found['wrong']} are wrong in all.",
            "",
        ]
    return "\n".join(lines).rstrip()


CORRECTIONS: Final = Part(
    title="Corrections",
    meanings=MappingProxyType(
        {
            "correction_recovery": "Share of the accuracy lost to wrong labels that corrections of a tenth of them "
            "give back; the lesser of both kinds.",
            "correction_worst_loss": "Largest loss of another task by that, as a fraction of its images.",
            "wrong_label_precision": "Share of the labels told to be wrong before learning that are.",
            "wrong_label_recall": "Share of the wrong labels that are told.",
        }
    ),
    measure=measure,
    section=section,
)
