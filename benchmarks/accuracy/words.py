"""Words that were never taught: accuracy on another data set after teaching, and taught classes and new words in one.

`measure_words` trains SeGP-CL on both data sets as the accuracy benchmark does; `figures` and `plot_words` report it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import harmonic_mean
from typing import Any

import torch
from jaxtyping import Float, Int64
from matplotlib.figure import Figure
from torch import Tensor

from benchmarks.accuracy.benchmark import Options
from benchmarks.accuracy.datasets import load_dataset
from benchmarks.accuracy.evaluate import TaskScores, accuracy_rows, answers
from benchmarks.accuracy.protocol import Bench
from benchmarks.accuracy.rows import Training, training_of
from benchmarks.accuracy.study import Study
from benchmarks.common.plots import GREY, OURS, OURS_LIGHTER, png
from benchmarks.common.record import Record
from segp_cl.learn.learner import initial_state
from segp_cl.metrics import AccuracyMatrix, forward_transfer, last_accuracy
from segp_cl.models.backbone import Backbone
from segp_cl.runtime.classifier import Classifier
from segp_cl.scores import text_scores
from segp_cl.types import LearnerState

DATASETS: Mapping[str, Mapping[str, Any]] = {
    "caltech101": {"train_per_class": 20, "test_per_class": 10},
    "cifar10": {},
}
"""The data sets and how many images of each are used, as in docs/results."""
BATCH = 64


@dataclass(frozen=True)
class Both:
    """Accuracy, in [0, 1], on images of new and of taught classes among the names of both, after each task."""

    new: tuple[float, ...]
    taught: tuple[float, ...]

    @property
    def harmonic(self) -> float:
        """The harmonic mean of both accuracies' means over the tasks."""
        means = [sum(side) / len(side) for side in (self.new, self.taught)]
        return harmonic_mean(means)


@dataclass(frozen=True)
class Words:
    """What was measured on one data set, with one seed.

    `served` is what the service answers, `zero_shot` the untouched text path over the same names. `forward_transfer`
    is (33) of the text path. `before` and `after` are the accuracy on the other data set, whose classes are all words.
    """

    dataset: str
    served: Both
    zero_shot: Both
    last: float
    forward_transfer: float
    zero_shot_forward_transfer: float
    other: str
    before: float
    after: float

    def as_record(self) -> Record:
        """Return this as JSON."""
        return asdict(self)

    @classmethod
    def of_record(cls, record: Record) -> Words:
        """Return what `as_record` wrote."""
        sides = {name: Both(*map(tuple, record[name].values())) for name in ("served", "zero_shot")}
        return cls(**{**record, **sides})


def open_accuracies(
    scores: Sequence[TaskScores], labels: Int64[Tensor, " images"], images: Sequence[int], classes: Sequence[int]
) -> Both:
    """Return the accuracies after each task but the last, whose next task's classes are the new words; fused path.

    Args:
        scores: after each task.
        labels: every evaluation image's class, task after task.
        images: how many evaluation images each task has.
        classes: how many classes each task has.
    """
    new, taught = [], []
    for task in range(len(classes) - 1):
        known, both, all_images = sum(images[: task + 1]), sum(classes[: task + 2]), sum(images[: task + 2])
        found = answers(scores[task], slice(0, all_images), "fused", both).argmax(dim=1) == labels[:all_images]
        taught.append(float(found[:known].double().mean()))
        new.append(float(found[known:].double().mean()))
    return Both(tuple(new), tuple(taught))


def measure_words(backbone: Backbone, data: Path, work: Path, *, seed: int = 0) -> list[Words]:
    """Teach each data set task by task with the default settings, and measure words.

    Args:
        backbone: the base model.
        data: holds the data sets in their published layouts.
        work: where finished tasks are kept, so that a run can be gone on with.
        seed: draws training images and is that of training.

    Raises:
        DatasetError: a data set is missing or incomplete.
    """
    studies = {
        name: Study(load_dataset(name, data), backbone, work, Options(seeds=(seed,), **options))
        for name, options in DATASETS.items()
    }
    first, second = studies
    others = {first: second, second: first}
    return [_measure(studies[name], studies[others[name]], seed) for name in studies]


def _measure(study: Study, other: Study, seed: int) -> Words:
    bench, elsewhere = study.bench(seed), other.bench(seed)
    labels, images = torch.tensor(bench.evaluation_labels), bench.task_sizes
    classes = [len(task.classes) for task in bench.tasks]
    training = training_of("segp")
    trained = study.train(training, study.config(training), seed)
    frozen = study.train(Training(frozen=True), study.config(training), seed)

    def matrix(of: Sequence[TaskScores], path: Any) -> AccuracyMatrix:
        return AccuracyMatrix.of(accuracy_rows(of, labels, images, classes, path), images)

    untouched = initial_state(study.backbone)
    return Words(
        dataset=study.dataset.name,
        served=open_accuracies(trained.scores, labels, images, classes),
        zero_shot=open_accuracies(frozen.scores, labels, images, classes),
        last=last_accuracy(matrix(trained.scores, "fused")),
        forward_transfer=forward_transfer(matrix(trained.scores, "text")),
        zero_shot_forward_transfer=forward_transfer(matrix(frozen.scores, "text")),
        other=other.dataset.name,
        before=words_accuracy(study.backbone, untouched, elsewhere),
        after=words_accuracy(study.backbone, trained.final, elsewhere),
    )


@torch.no_grad()
def words_accuracy(backbone: Backbone, state: LearnerState, bench: Bench) -> float:
    """Return the accuracy on all evaluation images of a data set whose classes are asked for as words.

    It is measured with the classifier that is served, image tower included.
    """
    classifier = Classifier(backbone, state)
    texts = classifier.encode_untouched([c.prompt for c in bench.classes])
    right: list[Float[Tensor, " batch"]] = []
    for images in bench.evaluation:
        for start in range(0, len(images.labels), BATCH):
            batch = range(start, min(start + BATCH, len(images.labels)))
            pixels = images.pixels(batch)
            features = classifier.untouched_image_features(pixels, classifier.features(pixels))
            truth = torch.tensor([images.labels[index] for index in batch])
            right.append((text_scores(features, texts).argmax(dim=1).cpu() == truth).double())
    return float(torch.cat(right).mean())


def figures(measured: Sequence[Words]) -> dict[str, float]:
    """Return the figures by name, fractions in [0, 1]; `retention_change` is the largest loss or else gain."""
    changes = [words.after - words.before for words in measured]
    found = {"retention_change": min(changes) if min(changes) < 0 else max(changes)}
    for words in measured:
        found[f"open_harmonic_{words.dataset}"] = words.served.harmonic
        found[f"open_taught_{words.dataset}"] = sum(words.served.taught) / len(words.served.taught)
        found[f"open_new_{words.dataset}"] = sum(words.served.new) / len(words.served.new)
        found[f"open_harmonic_zero_shot_{words.dataset}"] = words.zero_shot.harmonic
        found[f"fwt_{words.dataset}"] = words.forward_transfer
        found[f"fwt_zero_shot_{words.dataset}"] = words.zero_shot_forward_transfer
        found[f"last_{words.dataset}"] = words.last
    return found


def plot_words(measured: Sequence[Words]) -> bytes:
    """Return a PNG: accuracy on taught and new classes among the names of both, by the number of tasks taught."""
    figure = Figure(figsize=(4.2 * len(measured), 3.4), layout="constrained")
    for axes, words in zip(figure.subplots(1, len(measured), squeeze=False)[0], measured, strict=True):
        tasks = range(1, len(words.served.new) + 1)
        axes.plot(tasks, [100 * a for a in words.served.taught], "-o", color=OURS, label="taught, as served")
        axes.plot(tasks, [100 * a for a in words.served.new], "-s", color=OURS_LIGHTER, label="new words, as served")
        axes.plot(tasks, [100 * a for a in words.zero_shot.taught], "--o", color=GREY, label="taught, untouched text")
        axes.plot(tasks, [100 * a for a in words.zero_shot.new], ":s", color=GREY, label="new words, untouched text")
        axes.set(title=words.dataset, xlabel="tasks taught", ylabel="accuracy (%)", ylim=(0, 100), xticks=list(tasks))
    axes.legend(fontsize=8, loc="lower left")
    return png(figure)
