"""How often the gate holds sound and damaged updates by a test set, in closed form on one model's features."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from benchmarks.accuracy.datasets import load_dataset
from benchmarks.accuracy.protocol import make_bench
from benchmarks.common.pages import number, table
from benchmarks.common.record import Record
from benchmarks.operator.part import Found, Inputs, Part
from model_store.gate import GatePolicy
from segp_cl.models.load import load_backbone
from segp_cl.statistics import MomentSums, visual_space
from segp_cl.types import ImageSource, ModelSpec
from worker.gate import Evidence, OnSet, Pairs, check_test_sets

TAUGHT: Final = 14
MEASURED: Final = (3, 10)
"""Images of a class in the test set."""
TASKS: Final = (5, 10, 20, 50)
"""Classes of a task."""
DAMAGED_TASK: Final = 10
DAMAGE: Final = (0.1, 0.2, 0.4)
"""Share of the old classes whose images are taught under each other's names."""
ORDERS: Final = 5
_BATCH: Final = 64


@dataclass(frozen=True)
class _Images:
    """Raw features of the images of each class, by row."""

    raw: Float[Tensor, "images raw"]
    labels: Int64[Tensor, " images"]

    def of(self, classes: Sequence[int], each: int) -> tuple[Float[Tensor, "some raw"], Int64[Tensor, " some"]]:
        """Return at most `each` images of each class, and the positions of their classes."""
        rows = [(self.labels == label).nonzero().flatten()[:each] for label in classes]
        labels = [torch.full((len(found),), at) for at, found in enumerate(rows)]
        return self.raw[torch.cat(rows)], torch.cat(labels)


def measure(inputs: Inputs) -> Found:
    """Count what the gate's defaults hold."""
    dataset = load_dataset("caltech101", inputs.data, cache=inputs.cache)
    backbone = load_backbone(ModelSpec("compact"))
    bench = make_bench(
        dataset,
        backbone.preprocessing,
        seed=0,
        train_per_class=TAUGHT,
        test_per_class=max(MEASURED),
        evaluated_on="validation" if inputs.validation else "test",
    )

    def features(images: ImageSource) -> Float[Tensor, "images raw"]:
        count = len(images.labels)
        batches = [range(at, min(at + _BATCH, count)) for at in range(0, count, _BATCH)]
        with torch.no_grad():
            return torch.cat([backbone.raw_features(images.pixels(some).float() / 255) for some in batches])

    taught, labels = [], []
    for task in bench.tasks:
        names = {c.name: row for row, c in enumerate(bench.classes)}
        taught.append(features(task.images))
        labels += [names[task.classes[label].name] for label in task.images.labels]
    train = _Images(torch.cat(taught), torch.tensor(labels))
    test = _Images(
        torch.cat([features(images) for images in bench.evaluation]),
        torch.tensor([label for images in bench.evaluation for label in images.labels]),
    )
    orders = 1 if inputs.quick else ORDERS
    sound = [
        _held(train, test, task, images, orders, damage=0.0)
        for task in TASKS[: 2 if inputs.quick else None]
        for images in MEASURED
    ]
    damaged = [_held(train, test, DAMAGED_TASK, max(MEASURED), orders, damage=share) for share in DAMAGE]
    figures = {"sound_held": _share(sound)} | {
        f"damaged_{share * 100:.0f}_held": _share([row]) for share, row in zip(DAMAGE, damaged, strict=True)
    }
    return Found(figures, {"sound": sound, "damaged": damaged})


def _held(train: _Images, test: _Images, task: int, images: int, orders: int, *, damage: float) -> Record:
    """Count the updates of `task` classes each that the gate holds by a test set of `images` of each class."""
    held = updates = 0
    drops: list[float] = []
    for seed in range(orders):
        rng = random.Random(seed)
        order = sorted(set(train.labels.tolist()))
        rng.shuffle(order)
        before: Int64[Tensor, " some"] | None = None
        for known in range(task, len(order) + 1, task):
            raw, labels = train.of(order[:known], TAUGHT)
            shown, truth = test.of(order[:known], images)
            sound = _answers(raw, labels, shown)
            if before is not None:
                old = len(before)
                old_truth = test.of(order[: known - task], images)[1]
                after = _answers(raw, _exchanged(labels, known - task, damage, rng), shown) if damage else sound
                was, now = before == old_truth, after[:old] == truth[:old]
                held += check_test_sets(GatePolicy(), _evidence(known, old_truth, was, now)).passed is False
                drops.append(float(was.double().mean() - now.double().mean()))
                updates += 1
            before = sound
    return {
        "task": task,
        "images": images,
        "damage": damage,
        "updates": updates,
        "held": held,
        "largest_drop": max(drops),
        "mean_drop": sum(drops) / len(drops),
    }


def _answers(
    raw: Float[Tensor, "taught raw"], labels: Int64[Tensor, " taught"], shown: Float[Tensor, "some raw"]
) -> Int64[Tensor, " some"]:
    sums = MomentSums(int(labels.max()) + 1)
    sums.add(raw, labels)
    whitening, prototypes = visual_space(sums.total())
    features = F.normalize(shown, dim=-1).to(prototypes)
    if whitening is not None:
        features = F.normalize(whitening(features), dim=-1)
    return (features @ prototypes.T).argmax(dim=1)


def _exchanged(labels: Int64[Tensor, " some"], old: int, share: float, rng: random.Random) -> Int64[Tensor, " some"]:
    """Teach a share of the old classes under each other's names."""
    chosen = rng.sample(range(old), max(2, int(share * old)))
    given = torch.arange(int(labels.max()) + 1)
    given[chosen] = torch.tensor([*chosen[1:], chosen[0]])
    return given[labels]


def _evidence(
    seen: int, truth: Int64[Tensor, " some"], was: Bool[Tensor, " some"], now: Bool[Tensor, " some"]
) -> Evidence:
    by_class = {}
    for label in sorted(set(truth.tolist())):
        of = truth == label
        counts = (of, of & was, of & now, of & was & ~now)
        images, before, right, lost = (int(count.sum()) for count in counts)
        by_class[str(label)] = Pairs(images=images, before=before, right=right, lost=lost)
    return Evidence(seen_classes=seen, test_sets=(OnSet("field", by_class),))


def _share(rows: Sequence[Record]) -> float:
    held, updates = (sum(int(row[name]) for row in rows) for name in ("held", "updates"))
    return held / updates


def section(details: Record) -> str:
    """Show what was held."""
    rows = [
        [
            str(row["task"]),
            str(row["images"]),
            f"{row['damage'] * 100:.0f} %",
            f"{row['held']} of {row['updates']}",
            f"{number(100 * row['mean_drop'], 1)} ({number(100 * row['largest_drop'], 1)})",
        ]
        for row in (*details["sound"], *details["damaged"])
    ]
    head = ["classes a task", "test images a class", "old classes damaged", "held", "drop, mean (largest), points"]
    return (
        f"Caltech-101, `compact`, whitened visual path in closed form, {TAUGHT} images a class, {ORDERS} orders. A "
        "damaged update teaches a share of the old classes under each other's names.\n\n" + table(head, rows)
    )


GATE_ON_TEST_SETS: Final = Part(
    title="The gate on test sets",
    meanings={
        "sound_held": "share of sound updates that the gate holds by a test set",
        **{
            f"damaged_{share * 100:.0f}_held": f"share of updates held that ruin {share * 100:.0f} % of the old classes"
            for share in DAMAGE
        },
    },
    measure=measure,
    section=section,
)
