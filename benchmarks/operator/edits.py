"""How fast classes are edited, and how near an edited version comes to one that was taught so from the start."""

from __future__ import annotations

import json
import shutil
import statistics
import tempfile
import time
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final
from urllib.parse import quote

import torch
from torch import Tensor

from benchmarks.accuracy.datasets import Dataset, load_dataset
from benchmarks.accuracy.protocol import Bench, make_bench
from benchmarks.answers.instant import SERVERS, THREADS, Service, archive_of, service
from benchmarks.common.pages import number, table
from benchmarks.common.record import Record
from benchmarks.operator.part import Found, Inputs, Part
from segp_cl.class_edits import ClassEdit
from segp_cl.config import LearnerConfig, StrategyName
from segp_cl.data.image_sets import TensorImages
from segp_cl.learn.edits import edit_classes
from segp_cl.learn.learner import initial_state, learn_task
from segp_cl.models.backbone import Backbone
from segp_cl.models.load import load_backbone
from segp_cl.pixels import as_unit_pixels
from segp_cl.runtime.classifier import Classifier, Features
from segp_cl.types import LearnerState, ModelSpec, Task, TaskClass
from segp_cl.types import Path as ScorePath

CLASSES: Final = 100
PHOTOS: Final = 20
ROUNDS: Final = 3
DELETED: Final = 3
"""How many classes are deleted in turn."""
_BATCH: Final = 64
_PATHS: Final[tuple[ScorePath, ...]] = ("text", "visual", "fused")


def measure(inputs: Inputs) -> Found:
    """Measure both, and what a swap gives back of two folders that were swapped."""
    dataset = load_dataset("caltech101", inputs.data, cache=inputs.cache)
    seconds = _seconds(dataset, classes=14 if inputs.quick else CLASSES, rounds=1 if inputs.quick else ROUNDS)
    lab = _Lab.on(dataset, inputs)
    differences = [lab.deleted(row) for row in range(1 if inputs.quick else DELETED)]
    swapped = lab.swapped(epochs=1 if inputs.quick else None)
    figures = {
        "edit_seconds": max(statistics.median(values) for values in seconds.values()),
        "delete_difference": max(found["fused"] for found in differences),
        "delete_difference_visual": max(found["visual_scores"] for found in differences),
        "swap_accuracy_before": swapped["before"],
        "swap_accuracy_after": swapped["after"],
    }
    return Found(figures, {"seconds": seconds, "deleted": differences, "swapped": swapped})


def _seconds(dataset: Dataset, *, classes: int, rounds: int) -> dict[str, list[float]]:
    """Return the seconds from each request until all servers serve the edit, of `classes` taught and 5 trained ones."""
    found: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory(prefix="keepsight-edits-") as folder, service() as running:
        most, few, again = (Path(folder) / name for name in ("most", "few", "again"))
        _write(dataset, range(classes - 5), most)
        _write(dataset, range(classes - 5, classes), few)
        names = [dataset.classes[row] for row in range(classes)]
        _teach(running, most, "prototypes")
        _teach(running, few, "segp")
        shutil.copytree(most / names[3], again / names[3])
        for round_ in range(rounds):
            first = running.serving()[0]
            for name, method, path, body in (
                ("rename", "PATCH", quote(names[0], safe=""), {"name": f"other {round_}"}),
                ("swap", "PATCH", quote(names[1], safe=""), {"name": names[2], "swap": True}),
                ("merge", "POST", "merge", {"classes": names[5:7], "name": f"both {round_}"}),
                ("delete", "DELETE", quote(names[7], safe=""), None),
                ("replace", "POST", f"{quote(names[3], safe='')}/replace", archive_of(again)),
            ):
                found.setdefault(name, []).append(_edited_s(running, method, path, body))
                running.roll_back(first)
    return found


def _edited_s(running: Service, method: str, path: str, body: object) -> float:
    """Return the seconds of one edit."""
    headers = {"Content-Type": "application/json"}
    if isinstance(body, bytes):
        boundary = "keepsight"
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="archive"; filename="a.tar"\r\n\r\n'
        data: bytes | None = head.encode() + body + f"\r\n--{boundary}--\r\n".encode()
        headers = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
    else:
        data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(
        f"http://127.0.0.1:{running.port}/v1/classes/{path}", data=data, headers=headers, method=method
    )
    begun = time.perf_counter()
    with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
        job_id = json.loads(answer.read())["job_id"]
    return _promoted(running, job_id) - begun


def _promoted(running: Service, job_id: str) -> float:
    """Return when all servers served what a job made.

    Raises:
        RuntimeError: it made nothing that is served.
    """

    def served() -> bool:
        job: Any = running.get(f"/v1/jobs/{job_id}")
        if job["state"] == "succeeded" and job["result"]["promoted"]:
            return set(running.serving()) == {job["result"]["version_id"]}
        if job["state"] in ("failed", "cancelled", "succeeded"):
            raise RuntimeError(f"the job is {job['state']}: {job['error'] or job['result']['not_promoted_because']}")
        return False

    return running.until(served)


def _teach(running: Service, folder: Path, strategy: StrategyName) -> None:
    job_id, _ = running.upload(archive_of(folder), folder.name, config={"strategy": strategy})
    _promoted(running, job_id)


def _write(dataset: Dataset, classes: Sequence[int], target: Path) -> None:
    """Write photos of classes as a folder of folders."""
    left = dict.fromkeys(classes, PHOTOS)
    for index, label in enumerate(dataset.train.labels):
        if left.get(label, 0):
            left[label] -= 1
            path = target / dataset.classes[label] / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            dataset.train.open(index).save(path)


@dataclass(frozen=True)
class _Lab:
    """Two tasks of photos, and what they are measured on."""

    backbone: Backbone
    bench: Bench

    @classmethod
    def on(cls, dataset: Dataset, inputs: Inputs) -> _Lab:
        backbone = load_backbone(ModelSpec("compact"))
        bench = make_bench(
            dataset,
            backbone.preprocessing,
            seed=0,
            train_per_class=PHOTOS,
            test_per_class=None,
            evaluated_on="validation" if inputs.validation else "test",
        )
        return cls(backbone, bench)

    def deleted(self, row: int) -> dict[str, float]:
        """Return how far a version whose class was deleted, or taught again, is from one that never had it before.

        Differences of probabilities by path on all evaluation images of both tasks, and of the visual path's scores.
        """
        one, two = (self._task(task) for task in range(2))
        name = two.classes[row].name
        kept = [other for other in range(len(two.classes)) if other != row]
        base = self._learn(initial_state(self.backbone), one, "prototypes")
        edited = self._edit(self._learn(base, two, "prototypes"), ClassEdit(kind="delete", classes=(name,)))
        never = self._learn(base, _part(two, kept), "prototypes")
        alone = _part(two, [row])
        found: dict[str, float] = {}
        for mine, theirs in (
            (edited, never),
            (self._learn(edited, alone, "prototypes"), self._learn(never, alone, "prototypes")),
        ):
            for what, difference in self._apart(mine, theirs).items():
                found[what] = max(found.get(what, 0.0), difference)
        return found

    def swapped(self, *, epochs: int | None) -> dict[str, float]:
        """Return the fused accuracy on two classes that were taught under each other's names, and after the swap."""
        task = self._task(0)
        first, second = task.classes[:2]
        wrong = Task(task.name, (second, first, *task.classes[2:]), task.images)
        taught = self._learn(initial_state(self.backbone), wrong, "segp", epochs=epochs)
        mended = self._edit(taught, ClassEdit(kind="swap", classes=(first.name, second.name)))
        images = self.bench.evaluation[0]
        labels = torch.tensor(images.labels)
        chosen = (labels < 2).nonzero().flatten().tolist()
        truth = [task.classes[int(labels[at])].name for at in chosen]
        accuracy = {}
        for when, state in (("before", taught), ("after", mended)):
            classifier = Classifier(self.backbone, state)
            answers = classifier.scores_of(self._features(classifier, images.pixels(chosen))).fused.argmax(dim=1)
            named = [state.class_names[answer] for answer in answers.tolist()]
            right = sum(name == true for name, true in zip(named, truth, strict=True))
            accuracy[when] = right / len(truth)
        return accuracy

    def _task(self, number: int) -> Task:
        """Return a task with its images in memory."""
        task = self.bench.tasks[number]
        labels = task.images.labels
        return Task(task.name, task.classes, TensorImages(task.images.pixels(range(len(labels))), labels))

    def _learn(
        self, state: LearnerState, task: Task, strategy: StrategyName, epochs: int | None = None
    ) -> LearnerState:
        more = {} if epochs is None else {"epochs": epochs}
        return learn_task(
            state,
            task,
            config=LearnerConfig.model_validate({"strategy": strategy, "keep_class_scatter": True, **more}),
            generator=torch.Generator().manual_seed(0),
            backbone=self.backbone,
        ).state

    def _edit(self, state: LearnerState, edit: ClassEdit) -> LearnerState:
        return edit_classes(
            state,
            edit,
            backbone=self.backbone,
            config=LearnerConfig(),
            generator=torch.Generator().manual_seed(0),
            norm=torch.tensor(1.0),
        ).state

    def _apart(self, one: LearnerState, other: LearnerState) -> dict[str, float]:
        classifiers = [Classifier(self.backbone, state) for state in (one, other)]
        order = [other.class_names.index(name) for name in one.class_names]
        found = dict.fromkeys((*_PATHS, "visual_scores"), 0.0)
        for images in self.bench.evaluation[:2]:
            for some in torch.split(torch.arange(len(images.labels)), _BATCH):
                features = self._features(classifiers[0], images.pixels(some.tolist()))
                mine, theirs = (classifier.scores_of(features) for classifier in classifiers)
                apart = (mine.visual - theirs.visual[:, order]).abs().max()
                found["visual_scores"] = max(found["visual_scores"], float(apart))
                for path in _PATHS:
                    a, b = (
                        classifier.class_probabilities(getattr(scores, path), path)
                        for classifier, scores in zip(classifiers, (mine, theirs), strict=True)
                    )
                    found[path] = max(found[path], float((a - b[:, order]).abs().max()))
        return found

    def _features(self, classifier: Classifier, pixels: Tensor) -> Features:
        with torch.inference_mode():
            return classifier.features_of(
                torch.cat([self.backbone.raw_features(as_unit_pixels(some)) for some in torch.split(pixels, _BATCH)])
            )


def _part(task: Task, rows: Sequence[int]) -> Task:
    """Return a task with some of its classes."""
    places = {row: place for place, row in enumerate(rows)}
    chosen = [at for at, label in enumerate(task.images.labels) if label in places]
    classes: tuple[TaskClass, ...] = tuple(task.classes[row] for row in rows)
    labels = [places[task.images.labels[at]] for at in chosen]
    return Task(task.name, classes, TensorImages(task.images.pixels(chosen), labels))


def section(details: Record) -> str:
    """The seconds and the differences, as tables."""
    seconds = [[name, number(statistics.median(values), 2)] for name, values in details["seconds"].items()]
    differences = [
        [str(row + 1), *(f"{found[what]:.1e}" for what in ("text", "visual", "fused", "visual_scores"))]
        for row, found in enumerate(details["deleted"])
    ]
    swapped = details["swapped"]
    return "\n".join(
        [
            f"`keepsight up` with {SERVERS} servers, {THREADS} threads each; {CLASSES} classes of Caltech-101, five of "
            "them trained. From the request until all servers serve the edit, median.",
            "",
            table(["edit", "seconds"], seconds),
            "",
            "Classes of the second of two tasks, deleted and taught again, against versions that never had them "
            "before (`prototypes`, `keep_class_scatter`): largest difference of probabilities on all evaluation "
            "images, and of the visual path's scores. Calibration and the weight of the visual path rest on "
            "held-out images of both tasks, from which no class can be taken.",
            "",
            table(["class", "text", "visual", "fused", "visual scores"], differences),
            "",
            "Two classes of the first task that were taught under each other's names (`segp`): accuracy on their "
            f"images {swapped['before']:.1%}, and {swapped['after']:.1%} after their names were swapped.",
        ]
    )


EDITS: Final = Part(
    title="Edits of the classes",
    meanings=MappingProxyType(
        {
            "edit_seconds": "seconds from the request until all servers serve the slowest kind of edit, median",
            "delete_difference": "largest difference of a fused probability between a version whose class was deleted, "
            "or deleted and taught again, and one that never had it before",
            "delete_difference_visual": "the same of the visual path's scores, which are exact but for rounding",
            "swap_accuracy_before": "accuracy on two classes that were taught under each other's names",
            "swap_accuracy_after": "the same after the names were swapped",
        }
    ),
    measure=measure,
    section=section,
)
