"""How a data set is cut into tasks, and that what is measured on was never learned from."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import pytest
import torch
from PIL import Image

from benchmarks.accuracy.datasets import Dataset, DatasetError
from benchmarks.accuracy.protocol import Bench, PreparedImages, make_bench
from segp_cl.data.preprocessing import Preprocessing, to_pixels
from segp_cl.errors import InvalidTaskError
from segp_cl.types import ImageSource

SMALL = Preprocessing(size=8, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


@dataclass
class Numbered:
    """Images that tell which they are by their colour, and count how often they are opened."""

    labels: Sequence[int]
    first: int = 0
    opened: Counter[int] = field(default_factory=Counter)

    def open(self, index: int) -> Image.Image:
        self.opened[index] += 1
        number = self.first + index
        return Image.new("RGB", (8, 8), (number % 256, number // 256, 7))


def numbered(tasks: int = 2, *, classes: int = 5, train: int = 9, test: int = 4) -> Dataset:
    names = tuple(f"class_{c}" for c in range(classes))
    order = tuple(reversed(range(classes)))
    images = [Numbered([c for c in range(classes) for _ in range(count)]) for count in (train, test)]
    images[1].first = 1000
    return Dataset("numbered", names, images[0], images[1], tasks, order)


def bench_of(dataset: Dataset, **changes: object) -> Bench:
    return make_bench(dataset, SMALL, **{"seed": 0, **changes})  # type: ignore[arg-type]


def numbers(images: ImageSource) -> list[int]:
    pixels = images.pixels(range(len(images.labels)))[:, :2, 0, 0].long()
    return (pixels[:, 0] + 256 * pixels[:, 1]).tolist()


def trained_on(bench: Bench) -> list[int]:
    return [number for task in bench.tasks for number in numbers(task.images)]


def measured_on(bench: Bench) -> list[int]:
    return [number for images in bench.evaluation for number in numbers(images)]


def test_tasks_partition_the_classes_in_the_data_set_s_order() -> None:
    bench = bench_of(numbered())

    assert [[c.name for c in task.classes] for task in bench.tasks] == [
        ["class_4", "class_3", "class_2"],
        ["class_1", "class_0"],
    ]
    assert bench.classes == tuple(c for task in bench.tasks for c in task.classes)
    assert bench.task_sizes == [12, 8]
    assert [sorted(set(images.labels)) for images in bench.evaluation] == [[0, 1, 2], [3, 4]]


def test_every_image_keeps_its_label() -> None:
    bench = bench_of(numbered())

    for task in bench.tasks:
        for number, label in zip(numbers(task.images), task.images.labels, strict=True):
            assert task.classes[label].name == f"class_{number // 9}"
    for number, label in zip(measured_on(bench), bench.evaluation_labels, strict=True):
        assert bench.classes[label].name == f"class_{(number - 1000) // 4}"


def test_the_validation_slice_shares_no_image_with_training_or_test() -> None:
    test, validation = bench_of(numbered()), bench_of(numbered(), evaluated_on="validation")

    assert len(measured_on(validation)) == 5 * 1
    assert not set(measured_on(validation)) & set(trained_on(validation))
    assert not set(measured_on(validation)) & set(measured_on(test))
    assert len(trained_on(test)) == len(set(trained_on(test))) == 5 * 8


@pytest.mark.parametrize("train_per_class", [None, 2])
def test_settings_are_chosen_by_models_trained_on_what_the_test_trains_on(train_per_class: int | None) -> None:
    test = bench_of(numbered(), seed=3, train_per_class=train_per_class)
    validation = bench_of(numbered(), seed=3, train_per_class=train_per_class, evaluated_on="validation")

    assert trained_on(test) == trained_on(validation)


def test_fewer_images_of_each_class_are_drawn_by_the_seed_for_training_only() -> None:
    benches = [bench_of(numbered(), seed=seed, train_per_class=2, test_per_class=3) for seed in (0, 1)]

    for bench in benches:
        assert Counter(number // 9 for number in trained_on(bench)) == dict.fromkeys(range(5), 2)
        assert Counter((number - 1000) // 4 for number in measured_on(bench)) == dict.fromkeys(range(5), 3)
    assert trained_on(benches[0]) != trained_on(benches[1])
    assert measured_on(benches[0]) == measured_on(benches[1])


def test_all_tasks_at_once_hold_every_image_with_its_class() -> None:
    bench = bench_of(numbered())
    joint = bench.joint()

    assert joint.classes == bench.classes
    assert sorted(numbers(joint.images)) == sorted(trained_on(bench))
    for number, label in zip(numbers(joint.images), joint.images.labels, strict=True):
        assert joint.classes[label].name == f"class_{number // 9}"


def test_images_of_several_tasks_come_in_the_order_that_was_asked_for() -> None:
    joint = bench_of(numbered()).joint().images
    whole = numbers(joint)
    asked = [29, 0, 17, 0, 18, 5]

    pixels = joint.pixels(asked)[:, 0, 0, 0].tolist()

    assert pixels == [whole[index] for index in asked]


def test_an_image_is_decoded_once_and_stays_what_it_was() -> None:
    images = Numbered([0, 0, 1, 1])
    prepared = PreparedImages(images, [3, 1, 2], [0, 1, 0], SMALL)
    expected = torch.stack([to_pixels(images.open(index), SMALL) for index in (3, 1, 2)])
    images.opened.clear()

    assert torch.equal(prepared.pixels([2, 0, 2]), expected[[2, 0, 2]])
    assert torch.equal(prepared.pixels([0, 1, 2]), expected)
    assert images.opened == {1: 1, 2: 1, 3: 1}


def test_a_full_disk_is_said_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    prepared = PreparedImages(Numbered([0]), [0], [0], SMALL)
    monkeypatch.setattr(os, "pwrite", lambda *_: 5)

    with pytest.raises(DatasetError, match="set TMPDIR"):
        prepared.pixels([0])


def test_prompts_follow_the_template() -> None:
    bench = bench_of(numbered(), template="a drawing of a {}.")

    assert bench.classes[0].prompt == "a drawing of a class 4."
    with pytest.raises(InvalidTaskError, match="template needs"):
        bench_of(numbered(), template="a drawing")


def test_what_cannot_be_measured_or_learned_is_refused_before_anything_is_learned() -> None:
    dataset = numbered()

    with pytest.raises(DatasetError, match="no test images of any class of task 2"):
        bench_of(replace(dataset, test=Numbered([4, 3, 2])))
    with pytest.raises(DatasetError, match="no training image of the class 'class_1'"):
        bench_of(replace(dataset, train=Numbered([0, 0, 2, 3, 4])))
